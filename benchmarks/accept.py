"""Accepting an operation: HTTP through gunicorn, beside a raw INSERT with the same commit and a raw publish."""

import requests
from kombu import Queue

from benchmarks.measuring import Result, Sizes, interleave, timed
from benchmarks.noop import Noop
from benchmarks.raw import RawRows
from benchmarks.stage import quiet
from tests.lab.lab import Lab
from tests.scenarios.cloud import Cloud

UNREAD = Queue("unread", routing_key="unread")


def accept(lab: Lab, sizes: Sizes) -> list[Result]:
    """Templates are registered; nobody takes the commands up meanwhile."""
    cloud = Cloud(lab)
    url = lab.mirror.url(cloud.serve())
    publish = Noop(lab).publisher(UNREAD)
    session = requests.Session()
    with quiet(lab):
        cloud.register(url)
        raw = RawRows(lab.database)

        def insert_and_publish() -> None:
            raw.insert()
            publish("unread")

        insert_and_publish()
        taken = interleave(
            {
                "accept": timed(lambda: cloud.register(url)),
                "INSERT + publish": timed(insert_and_publish),
                "empty answer": timed(lambda: session.get(f"{lab.servers[0].url}/livez", timeout=10)),
            },
            sizes,
        )
        raw.close()
    empty = taken.median("empty answer") * 1000
    notes = [f"of it an empty answer by the same gunicorn: {empty:.1f} ms"]
    return [Result("accept", "accept", "INSERT + publish", taken, aim=4.0, notes=notes)]
