"""What the lab promises of its parts: they come back, they can be held down, and nothing of them is left."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import process
from tests.lab.keeper import Part
from tests.lab.supervisor import ROOT, Supervisor
from tests.lab.waiting import poll

SLEEPER = Part("sleeper", ["sleep", "1000"])


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    lab = Supervisor(tmp_path, tmp_path / "logs")
    yield lab
    lab.stop_all()


def test_a_part_that_dies_is_started_again_after_a_second(supervisor: Supervisor) -> None:
    supervisor.start(SLEEPER)
    hit = supervisor.kill("sleeper")
    assert process.wait_gone([hit], 5) == []
    gone_at = time.monotonic()
    assert supervisor.restarted("sleeper", after=hit, timeout=5) != hit.pid
    assert time.monotonic() - gone_at > 0.8


def test_a_held_part_stays_down_until_it_is_released(supervisor: Supervisor) -> None:
    supervisor.start(SLEEPER)
    supervisor.start(Part("other", ["sleep", "1000"]))
    supervisor.hold("sleeper")
    held, other = supervisor.kill("sleeper"), supervisor.kill("other")
    # The other part's return shows that the second in which this one would have come back is over.
    supervisor.restarted("other", after=other)
    assert supervisor.pids()["sleeper"] is None
    supervisor.release("sleeper")
    assert supervisor.pids()["sleeper"] not in (None, held.pid)


def test_a_part_that_ignores_sigterm_is_killed(supervisor: Supervisor) -> None:
    supervisor.start(Part("stubborn", ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"]))
    supervisor.ready("stubborn", lambda: "deaf" in supervisor.log_tail("stubborn"), 5)
    supervisor.stop("stubborn", timeout=0.2)
    assert supervisor.pids()["stubborn"] is None


def test_both_outputs_go_to_the_log_and_a_late_part_tells_what_it_wrote(supervisor: Supervisor) -> None:
    supervisor.start(Part("talker", ["sh", "-c", "echo out; echo err >&2; exec sleep 1000"]))
    supervisor.ready("talker", lambda: "err" in supervisor.log_tail("talker"), 5)
    with pytest.raises(TimeoutError, match="out\nerr"):
        supervisor.ready("talker", lambda: False, 0.1)


def test_orphans_of_a_killed_part_are_ended_and_reaped(supervisor: Supervisor) -> None:
    supervisor.start(Part("parent", ["sh", "-c", "sleep 1000 & echo $!; wait"]))
    text = supervisor.ready("parent", lambda: supervisor.log_tail("parent").strip(), 5)
    orphan = process.identify(int(text))
    assert orphan is not None
    supervisor.hold("parent")
    assert process.wait_gone([supervisor.kill("parent")], 5) == []
    assert process.is_alive(orphan)
    supervisor.stop_all()
    assert not process.is_alive(orphan)


def test_a_child_of_the_test_itself_keeps_its_exit_status(supervisor: Supervisor) -> None:
    own = subprocess.Popen(["sh", "-c", "exit 7"])
    supervisor.start(SLEEPER)
    supervisor.stop("sleeper")
    assert own.wait(5) == 7


def test_an_orphans_zombie_is_reaped_at_once(supervisor: Supervisor) -> None:
    supervisor.start(Part("parent", ["sh", "-c", "(setsid sleep 0.2 & echo $!); exec sleep 1000"]))
    pid = int(supervisor.ready("parent", lambda: supervisor.log_tail("parent").strip(), 5))
    poll(lambda: process.look_up(pid) is None, 2, "the orphan is reaped")


DOOMED_LAB = """
import sys
from pathlib import Path
from tests.lab.keeper import Part
from tests.lab.supervisor import Supervisor
lab = Supervisor(Path(sys.argv[1]), Path(sys.argv[1]) / "logs")
family = Part("family", ["sh", "-c", "setsid sleep 1000 & echo $!; wait"])
print(lab.start(family), flush=True)
print(lab.ready("family", lambda: lab.log_tail("family").strip(), 5), flush=True)
sys.stdin.read()
"""


def test_a_killed_lab_leaves_nothing_running(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DOOMED_LAB, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as lab:
        assert lab.stdout is not None
        family = [process.identify(int(lab.stdout.readline())) for _ in range(2)]
        living = [member for member in family if member is not None]
        assert len(living) == 2
        lab.send_signal(signal.SIGKILL)
    poll(lambda: not any(process.is_alive(member) for member in living), 15, "the family is gone")
