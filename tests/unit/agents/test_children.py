"""Children: limited, cancellable, and none of them outlives its command unnoticed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agents.common.children import MARKER, ChildFailed, end_orphans, run_child
from agents.common.errors import Cancelled, CannotTell, CommandError
from tests.lab.waiting import poll

COMMAND = "0b9f0f6c-0000-4000-8000-00000000000"
WRITE_PID_AND_STAY = "import os,sys,time; open(sys.argv[1],'w').write(str(os.getpid())); time.sleep(60)"
AGENT = """
import sys
from agents.common.children import run_child
run_child(sys.argv[1], sys.argv[2:], check=lambda: None, timeout=60, cpu_seconds=10, memory_bytes=1 << 31)
"""


def run(command_id: str, *argv: str, **changes: object) -> str:
    options: dict[str, object] = {
        "check": lambda: None,
        "timeout": 20,
        "cpu_seconds": 10,
        "memory_bytes": 1 << 31,
        **changes,
    }
    return run_child(command_id, argv, **options)  # type: ignore[arg-type]


def read_pid(path: Path) -> int:
    return int(poll(lambda: path.read_text() if path.exists() else "", 10, "the child's pid"))


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def killed_agent(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """(command id, pid of its child) after the agent that ran it was killed with -9 in the middle."""
    command_id, pid_file = COMMAND + "1", tmp_path / "pid"
    argv = [sys.executable, "-c", AGENT, command_id, sys.executable, "-c", WRITE_PID_AND_STAY, str(pid_file)]
    with subprocess.Popen(argv) as agent:
        child = read_pid(pid_file)
        agent.kill()
    yield command_id, child
    if not is_gone(child):
        os.kill(child, signal.SIGKILL)


def test_the_output_comes_back() -> None:
    assert run(COMMAND + "2", "echo", "a b;$HOME") == "a b;$HOME\n"


def test_a_child_sees_its_marker_and_nothing_of_the_agents_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_PASSWORD", "secret")
    names = {line.split("=")[0] for line in run(COMMAND + "2", "env").splitlines()}
    assert names == {"PATH", "LC_ALL", MARKER}


def test_a_failure_carries_what_the_child_said() -> None:
    with pytest.raises(ChildFailed, match=r"exit status 2: .*nowhere") as caught:
        run(COMMAND + "2", "ls", "/nowhere")
    assert "nowhere" in caught.value.stderr


def test_much_output_does_not_block_the_child() -> None:
    assert len(run(COMMAND + "2", "head", "-c", "1000000", "/dev/zero")) == 1_000_000


def test_memory_is_limited() -> None:
    with pytest.raises(ChildFailed, match="MemoryError"):
        run(COMMAND + "2", sys.executable, "-c", "bytearray(1 << 30)", memory_bytes=1 << 29)


def test_processor_time_is_limited() -> None:
    started = time.monotonic()
    with pytest.raises(ChildFailed, match=r"SIGKILL|SIGXCPU"):
        run(COMMAND + "2", sys.executable, "-c", "while True: pass", cpu_seconds=1)
    assert time.monotonic() - started < 15


def test_a_cancel_ends_the_child(tmp_path: Path) -> None:
    cancelled = threading.Event()

    def check() -> None:
        if (tmp_path / "pid").exists():
            cancelled.set()
            raise Cancelled

    with pytest.raises(Cancelled):
        run(COMMAND + "2", sys.executable, "-c", WRITE_PID_AND_STAY, str(tmp_path / "pid"), check=check)
    assert cancelled.is_set()
    assert is_gone(read_pid(tmp_path / "pid"))


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.common.children.TERMINATE_SECONDS", 0.2)
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WRITE_PID_AND_STAY

    def check() -> None:
        if (tmp_path / "pid").exists():
            raise Cancelled

    with pytest.raises(Cancelled):
        run(COMMAND + "2", sys.executable, "-c", stubborn, str(tmp_path / "pid"), check=check)
    assert is_gone(read_pid(tmp_path / "pid"))


def test_a_child_that_takes_too_long_is_ended() -> None:
    with pytest.raises(CommandError) as caught:
        run(COMMAND + "2", "sleep", "60", timeout=0.3)
    assert caught.value.problem.code == "child_timeout"
    assert end_orphans(COMMAND + "2", 1) == 0


def test_the_child_of_a_killed_agent_is_found_and_ended(killed_agent: tuple[str, int]) -> None:
    command_id, child = killed_agent
    assert not is_gone(child)
    assert end_orphans(command_id, 10) == 1
    assert is_gone(child)
    assert end_orphans(command_id, 10) == 0


def test_children_of_other_commands_live_on(killed_agent: tuple[str, int]) -> None:
    _, child = killed_agent
    assert end_orphans(COMMAND + "3", 1) == 0
    assert not is_gone(child)


def test_an_orphan_that_cannot_be_ended_means_cannot_tell(
    killed_agent: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process in uninterruptible sleep (a dead file server) cannot be made here; one that no signal is sent to
    # outlives the deadline the same way.
    monkeypatch.setattr("agents.common.children._kill", lambda process: None)
    command_id, child = killed_agent
    with pytest.raises(CannotTell, match=str(child)):
        end_orphans(command_id, 0.2)
