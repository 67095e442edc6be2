"""What else befalls an agent: it is told to end, its journal is corrupt, another wants its place, it stands still."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import cycle
from operator import itemgetter
from typing import Any

import pytest

from tests.crash.jobs import JOBS, Download, Job
from tests.crash.outcomes import Outcomes
from tests.crash.scene import BACK_SECONDS, PING_SECONDS, SETTLE_SECONDS, Scene, Stopwatch
from tests.lab import process
from tests.lab.supervisor import ROOT
from tests.lab.waiting import poll
from tests.scenarios.cloud import Row

EXIT_HELD = 3
"""How an agent leaves that another one does not let in, see ``agents/main.py``."""


def held(scene: Scene, job: Job) -> Row:
    """The job, asked for, with the agent held half-way through it."""
    job.set_up()
    scene.points.arm(job.midway, "hold")
    operation = job.ask()
    scene.points.wait_held(job.midway)
    return operation


def row(scene: Scene, job: Job, ended: Row) -> str:
    return f"{ended['state']}, {scene.how(ended, job.kind)}"


def test_an_agent_that_is_told_to_end_is_followed_by_the_next(scene: Scene, outcomes: Outcomes, job_name: str) -> None:
    job = JOBS[job_name](scene)
    operation = held(scene, job)
    told = log_lines(scene, '"agent.signal"')
    hit = scene.supervisor.kill(scene.host.part, signal.SIGTERM)
    since = Stopwatch()
    poll(lambda: log_lines(scene, '"agent.signal"') > told, 5, "the agent has heard it")
    scene.points.release(job.midway)
    assert process.wait_gone([hit], 15) == []
    scene.wait_back()
    ended = job.settled(operation)
    seconds = since.seconds
    job.check(ended)
    scene.assert_whole(restarts=1)
    outcomes.add(job.name, "the agent, SIGTERM", f"at `{job.midway}`", row(scene, job, ended), seconds)


def log_lines(scene: Scene, text: str) -> int:
    log = (scene.lab.log_dir / f"{scene.host.part}.log").read_text().splitlines()
    return sum(text in line for line in log)


CORRUPTIONS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _content: b"",
    "half-written": lambda content: content[: len(content) // 2],
    "garbage": lambda content: bytes(byte ^ 0x5A for byte in content),
}
CORRUPTION_OF = dict(zip(JOBS, cycle(["garbage", "half-written", "empty"]), strict=False))


def test_a_corrupt_journal_is_set_aside_and_evidence_decides(scene: Scene, outcomes: Outcomes, job_name: str) -> None:
    job, how = JOBS[job_name](scene), CORRUPTION_OF[job_name]
    operation = held(scene, job)
    path = scene.journal_of(operation)
    scene.supervisor.hold(scene.host.part)
    hit = scene.supervisor.kill(scene.host.part)
    since = Stopwatch()
    assert process.wait_gone([hit], 5) == []
    path.write_bytes(CORRUPTIONS[how](path.read_bytes()))
    scene.points.disarm()
    scene.supervisor.release(scene.host.part)
    scene.wait_back()
    # Where it had got to is lost with the journal, so a download may begin anew.
    if isinstance(job, Download):
        job.most_downloads = 2
    ended = job.settled(operation)
    seconds = since.seconds
    aside = path.with_name(path.name + ".corrupt")
    assert aside.exists()
    aside.unlink()
    job.check(ended)
    scene.assert_whole("agent.journal_corrupt", restarts=1)
    outcomes.add(
        job.name, f"the agent, SIGKILL, its journal {how}", f"at `{job.midway}`", row(scene, job, ended), seconds
    )


def second_agent(scene: Scene, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "agents", "run", "--state-dir", str(scene.host.state_dir), *options]
    # The crash folder is not for this one: it shall not take what is armed for the first.
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def test_a_second_agent_is_refused_and_told_who_is_there(scene: Scene, outcomes: Outcomes) -> None:
    job = Download(scene)
    operation = held(scene, job)
    since = Stopwatch()
    with second_agent(scene) as second:
        _, said = second.communicate(timeout=20)
    assert second.returncode == EXIT_HELD
    assert f"process {scene.supervisor.pids()[scene.host.part]}" in said
    scene.points.release(job.midway)
    ended = job.settled(operation)
    seconds = since.seconds
    job.check(ended)
    scene.assert_whole(restarts=0)
    outcomes.add(job.name, "a second agent, refused", f"at `{job.midway}`", row(scene, job, ended), seconds)


@pytest.fixture
def taking_over(scene: Scene) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    """Starts an agent that takes the place of the lab's, which is put back afterwards."""
    started = []

    def start() -> "subprocess.Popen[str]":
        started.append(second_agent(scene, "--take-over"))
        return started[0]

    scene.supervisor.hold(scene.host.part)
    yield start
    for agent in started:
        with agent:
            agent.terminate()
            agent.communicate(timeout=20)
    scene.supervisor.release(scene.host.part)
    scene.wait_back(restarts=2)


def test_an_agent_that_takes_over_ends_the_one_before(
    scene: Scene, outcomes: Outcomes, taking_over: Callable[[], "subprocess.Popen[str]"]
) -> None:
    job = Download(scene)
    operation = held(scene, job)
    first = scene.supervisor.processes()[scene.host.part]
    assert first is not None
    since = Stopwatch()
    taking_over()
    # It was told to end while it was held; the newcomer waits for that.
    scene.points.release(job.midway)
    assert process.wait_gone([first], 20) == []
    scene.wait_back()
    ended = job.settled(operation)
    seconds = since.seconds
    job.check(ended)
    scene.assert_whole(restarts=1)
    outcomes.add(job.name, "a second agent, --take-over", f"at `{job.midway}`", row(scene, job, ended), seconds)


@pytest.fixture
def goes_on(scene: Scene) -> Iterator[None]:
    yield
    scene.supervisor.kill(scene.host.part, signal.SIGCONT)


def test_an_agent_that_stood_still_is_not_replaced_and_goes_on(scene: Scene, outcomes: Outcomes, goes_on: None) -> None:
    job = Download(scene)
    operation = held(scene, job)
    since = Stopwatch()
    scene.supervisor.kill(scene.host.part, signal.SIGSTOP)
    scene.lab.wait_host(scene.host.name, "disconnected", timeout=10 * PING_SECONDS)
    (command,) = scene.cloud.commands(operation)
    assert command["state"] in ("STARTED", "PROCESSING")
    assert command["attempt"] == 1
    assert scene.cloud.client.get(f"operations/{operation['id']}/")["state"] == "running"
    scene.supervisor.kill(scene.host.part, signal.SIGCONT)
    scene.lab.wait_host(scene.host.name, "up", timeout=BACK_SECONDS)
    scene.points.release(job.midway)
    ended = job.settled(operation)
    seconds = since.seconds
    # While it stood still it did not look at its pools either.
    scene.cloud.wait_pings(scene.host.name, 2)
    job.check(ended)
    scene.assert_whole(restarts=0)
    outcome = row(scene, job, ended)
    outcomes.add(job.name, "the agent, SIGSTOP, SIGCONT past its lease", f"at `{job.midway}`", outcome, seconds)


# --- a command that kills its agent each time ----------------------------------------------------------------------

REDOS = 1
UNDO_SECONDS = 2.0
"""To remove what the attempts left."""
GIVEN_UP = {"destroy": "needs_attention"}
"""How an operation stands when its command was begun as often as allowed. What cannot be put back waits."""


def test_a_command_that_kills_its_agent_each_time_stops_and_the_lane_goes_on(
    scene: Scene, outcomes: Outcomes, setting: Callable[[str, Any], None], job_name: str
) -> None:
    setting("command.redo.max", REDOS)
    job = JOBS[job_name](scene)
    job.set_up()
    scene.points.arm(job.midway, "kill-always")
    operation = job.ask()
    since = Stopwatch()
    scene.wait_back(restarts=1 + REDOS)
    left = SETTLE_SECONDS + UNDO_SECONDS
    given_up = scene.cloud.settled(operation, left, GIVEN_UP.get(job_name, "failed"))
    seconds = since.seconds
    assert scene.points.passed(job.midway) == 1 + REDOS
    of_kind = [command for command in scene.cloud.commands(given_up) if command["kind"] == job.kind]
    # What cannot be put back is tried anew at the next sweep, by another command.
    assert min(of_kind, key=itemgetter("seq"))["attempt"] == 1 + REDOS
    scene.points.disarm()
    alarms = []
    if job_name in GIVEN_UP:
        alarms = ["operation.needs_attention"]
        ended = scene.cloud.client.wait(
            f"operations/{operation['id']}/", lambda now: now["state"] == "succeeded", BACK_SECONDS
        )
    else:
        job.check_undone(given_up)
        ended = scene.cloud.settled(job.ask())
    job.check(ended)
    scene.assert_whole(*alarms)
    outcome = f"{given_up['state']} after {1 + REDOS} attempts; {ended['state']} when nothing kills any more"
    outcomes.add(job.name, "the agent, by its own command, each time", f"at `{job.midway}`", outcome, seconds)
