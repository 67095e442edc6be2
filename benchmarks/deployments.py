"""Many VMs of one template that is on no pool yet, beside one download of it."""

from concurrent.futures import ThreadPoolExecutor

from benchmarks.download import local_pool
from benchmarks.measuring import Result, Sizes, interleave, timed
from benchmarks.stage import register, serve_bytes, wait_all
from tests.lab.lab import Lab
from tests.scenarios.cloud import Cloud

USERS = 8
_ROUNDS = 3
_SECONDS = 120.0
_SHARE = 4
"""The template is so many times smaller than the file of the download's benchmark."""
_OVERCOMMIT = 100


def deployments(lab: Lab, sizes: Sizes) -> list[Result]:
    """The VMs are not started: a guest's boot is not ours."""
    clouds = [Cloud(lab) for _ in range(USERS)]
    cloud = clouds[0]
    cloud.set("storage.overcommit", _OVERCOMMIT)
    name = serve_bytes(lab, sizes.file_bytes // _SHARE, b"template")
    where = {"host": lab.hosts[0].id, "pool": local_pool(cloud)["id"], "start": False}

    def deploy() -> float:
        template = register(cloud, name)

        def all_of_them() -> None:
            with ThreadPoolExecutor(USERS) as users:
                list(users.map(lambda number: clouds[number % USERS].deploy(template, **where), range(count)))
            wait_all(cloud, "vm.deploy", _SECONDS)

        return timed(all_of_them)()

    def fetch() -> float:
        template = register(cloud, name)
        return timed(lambda: cloud.settled(cloud.prepare(template, local_pool(cloud)), _SECONDS))()

    count = sizes.deployments
    ours = f"{count} deployments"
    taken = interleave({ours: deploy, "one download": fetch}, sizes, _ROUNDS)
    whole = [request for request in lab.mirror.requests(name) if request.range is None and request.method == "GET"]
    rounds = len(taken.values[ours])
    notes = [
        f"{len(whole) - rounds} downloads for {rounds} times {count} deployments",
        f"{(taken.median(ours) - taken.median('one download')) / count * 1000:.0f} ms a deployment beside the download",
    ]
    return [Result("deployments", ours, "one download", taken, notes=notes)]
