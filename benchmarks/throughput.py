"""Operations a second, from the request to their settled end, beside no-ops on the same broker and pool."""

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

from benchmarks.measuring import Result, Sizes, interleave, timed
from benchmarks.noop import Noop
from benchmarks.stage import wait_all
from tests.lab.lab import Lab
from tests.scenarios.cloud import Cloud

USERS = 8
_SECONDS = 120.0
_ROUNDS = 5


def throughput(lab: Lab, sizes: Sizes) -> list[Result]:
    """Eight users register templates as fast as they are accepted."""
    noop = Noop(lab)
    clouds = [Cloud(lab) for _ in range(USERS)]
    url = lab.mirror.url(clouds[0].serve())

    def operate() -> None:
        with ThreadPoolExecutor(USERS) as users:
            list(users.map(lambda number: clouds[number % USERS].register(url), range(sizes.operations)))
        wait_all(clouds[0], "template.register", _SECONDS)

    def do_nothing() -> None:
        answer = f"noop-{uuid4()}"
        with ThreadPoolExecutor(USERS) as users:
            list(users.map(noop.send, [answer] * sizes.operations))
        noop.answers(answer, sizes.operations)

    taken = interleave({"operations": timed(operate), "no-ops": timed(do_nothing)}, sizes, _ROUNDS)
    rates = {side: sizes.operations / taken.median(side) for side in taken.values}
    notes = [f"{rates['operations']:.1f} operations a second, {rates['no-ops']:.0f} no-ops a second"]
    return [Result("throughput", "operations", "no-ops", taken, notes=notes)]
