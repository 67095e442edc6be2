"""While the agent is held half-way, each other part is killed with -9 and comes back."""

import signal
from collections.abc import Callable, Mapping

from tests.crash.jobs import JOBS
from tests.crash.outcomes import Outcomes
from tests.crash.scene import BACK_SECONDS, Scene, Stopwatch
from tests.lab import process


def _heard(scene: Scene, since: str | None) -> None:
    """It matters to the server's hearing, and so it is back when a ping is taken in again."""
    scene.wait_heard(since)


def _web(scene: Scene, _since: str | None) -> None:
    scene.lab.servers[0].wait_answering(BACK_SECONDS)


def _libvirtd(scene: Scene, _since: str | None) -> None:
    scene.host.hypervisor.wait_answering(BACK_SECONDS)


def _nothing(_scene: Scene, _since: str | None) -> None:
    """It is back when its process is."""


BACK: Mapping[str, Callable[[Scene, str | None], None]] = {
    "control": _heard,
    "web": _web,
    "beat": _nothing,
    "libvirtd": _libvirtd,
    "redis": _heard,
    "postgres": _heard,
}
NAMES = {
    "control": "the control worker",
    "web": "the web server",
    "beat": "the beat",
    "libvirtd": "libvirtd",
    "redis": "Redis, back empty",
    "postgres": "PostgreSQL",
}


def test_a_part_is_killed_while_the_agent_is_held(
    scene: Scene, outcomes: Outcomes, job_name: str, point: str, part: str
) -> None:
    job = JOBS[job_name](scene)
    job.set_up()
    scene.points.arm(point, "hold")
    operation = job.ask()
    scene.points.wait_held(point)
    name = scene.host.hypervisor.part if part == "libvirtd" else part

    last_ping = scene.last_ping
    hit = scene.supervisor.kill(name, signal.SIGKILL)
    since = Stopwatch()
    assert process.wait_gone([hit], 5) == []
    # The agent goes on at once, so that it meets the part while it is down.
    scene.points.release(point)
    scene.supervisor.restarted(name, hit, BACK_SECONDS)
    BACK[part](scene, last_ping)
    ended = job.settled(operation)
    seconds = since.seconds

    job.check(ended)
    scene.assert_whole(restarts=0)
    outcome = f"{ended['state']}, {scene.how(ended, job.kind)}"
    outcomes.add(job.name, f"{NAMES[part]}, SIGKILL", f"the agent held at `{point}`", outcome, seconds)
