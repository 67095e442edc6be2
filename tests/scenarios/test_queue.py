"""Five hundred commands wait on one host, and whoever asks something else has his answer at once."""

import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from tests.lab.waiting import poll
from tests.scenarios.cloud import MEBIBYTE, Cloud, Row
from tests.scenarios.points import Points

COMMANDS = 500
DISKS = 24
AT_ONCE = 4
"""How many commands that work on disks an agent runs at once."""
ANSWER_SECONDS = 1.0
PING_SECONDS = 1.0
HOLD = "volume_create.before_create"


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


class PingWatch:
    """When each of a host's pings was taken in."""

    def __init__(self, cloud: Cloud, host: str) -> None:
        self._cloud = Cloud(cloud.lab)
        self._host = host
        self._taken: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "PingWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.1):
            last = self._cloud.host(self._host)["last_ping"]
            if last not in self._taken[-1:]:
                self._taken.append(last)

    @property
    def longest_gap(self) -> float:
        return max(seconds(later) - seconds(earlier) for earlier, later in pairwise(self._taken))


@pytest.fixture
def points(cloud: Cloud) -> Iterator[Points]:
    hand = Points(cloud.lab.hosts[0])
    yield hand
    hand.disarm()


@pytest.mark.alone
@pytest.mark.timeout(600)
def test_a_cancel_a_probe_and_the_pings_are_answered_behind_five_hundred_commands(
    cloud: Cloud, points: Points, setting: Callable[[str, Any], None]
) -> None:
    # What is held is in doubt after half a second, so it is asked about all the time.
    setting("command.deadline.volume.create", 0.5)
    host, pool = cloud.lab.hosts[0], cloud.pool("host1-local")
    template = cloud.template()
    cloud.settled(cloud.prepare(template, pool))
    where = {"host": host.id, "pool": pool["id"], "start": False}
    held = []
    for _ in range(AT_ONCE):
        points.arm(HOLD, "hold")
        held.append(cloud.deploy(template, **where))
        points.wait_held(HOLD)

    disks = [{"size_bytes": MEBIBYTE} for _ in range(DISKS - 1)]
    with PingWatch(cloud, host.name) as pings:
        waiting = [cloud.deploy(template, data_disks=disks, **where) for _ in range(-(-COMMANDS // DISKS))]
        last = cloud.deploy(template, **where)
        poll(lambda: queued(cloud, host.id) > COMMANDS, 60, "five hundred commands wait")
        cloud.wait_pings(host.name, 3)
        cloud.client.post(f"operations/{last['id']}/cancel/")
        assert cancel_seconds(cloud, last) < ANSWER_SECONDS
        assert longest_probe(cloud, cloud.commands(held[0])[0]) < ANSWER_SECONDS
    assert pings.longest_gap < PING_SECONDS + ANSWER_SECONDS

    for operation in [*held, *waiting]:
        cloud.client.post(f"operations/{operation['id']}/cancel/")
    points.release(HOLD)
    for operation in [*held, *waiting, last]:
        cloud.settled(operation, 120, "cancelled")


def queued(cloud: Cloud, host: str) -> int:
    return sum(1 for _ in cloud.client.list("commands/", agent=host, state="QUEUED", page_size=1000))


def cancel_seconds(cloud: Cloud, operation: Row) -> float:
    """From the wish to the agent's word."""

    def cancelled() -> Row | None:
        first = cloud.commands(operation)[0]
        return first if first["state"] == "CANCELLED" else None

    command = poll(cancelled, 30, "the cancel is answered")
    return seconds(command["finished_at"]) - seconds(command["cancel_requested_at"])


def longest_probe(cloud: Cloud, command: Row) -> float:
    """From the question to what its answer means; at least three of them."""

    def answered() -> list[Row]:
        events = list(cloud.client.list("events/", target=command["id"]))
        return events if sum(event["kind"] == "command.followed" for event in events) >= 3 else []

    told = sorted(poll(answered, 60, "three probes"), key=lambda event: str(event["created_at"]))
    asked = [event for event in told if event["kind"] in ("command.reconciling", "command.followed")]
    pairs = [pair for pair in pairwise(asked) if pair[1]["kind"] == "command.followed"]
    return max(seconds(answer["created_at"]) - seconds(question["created_at"]) for question, answer in pairs)
