"""Child processes of a command: limited, cancellable, and found again after the agent that started them died.

Each child carries its command's id in its environment from the first instant, so no journal entry has to be written
between its start and the moment it can be known.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import psutil

from agents.common.errors import CannotTell, CommandError, Interrupted

MARKER = "CLOUDCTL_COMMAND"
CHECK_SECONDS = 0.1
TERMINATE_SECONDS = 5.0
ORPHAN_SECONDS = 10.0
_KEPT_STDERR = 2000


class ChildFailed(Exception):  # noqa: N818  (what it says has happened)
    """A child ended by itself with an error; ``stderr`` is the end of what it said."""

    def __init__(self, program: str, returncode: int, stderr: str) -> None:
        super().__init__(f"{program} ended with {_how(returncode)}: {stderr or 'it said nothing'}")
        self.returncode = returncode
        self.stderr = stderr


def run_child(  # noqa: PLR0913  (three of them are its limits, named at each call)
    command_id: str,
    argv: Sequence[str],
    *,
    check: Callable[[], None],
    timeout: float,
    cpu_seconds: int,
    memory_bytes: int,
) -> str:
    """Run a program to its end and return its output.

    ``check`` is called several times a second; what it raises ends the child first. When this returns or raises, the
    child is gone. Raises ChildFailed, and CommandError ``child_timeout`` after ``timeout`` seconds.
    """
    process = subprocess.Popen(
        # prlimit becomes the program itself (same pid), so the limits hold from its first instruction.
        ["prlimit", f"--cpu={cpu_seconds}", f"--as={memory_bytes}", "--core=0", "--", *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", MARKER: command_id},
        encoding="utf-8",
        errors="replace",
        # A signal to the agent's process group (a terminal's ^C) is the agent's to pass on.
        start_new_session=True,
    )
    try:
        output, errors = _await(process, check, argv[0], time.monotonic() + timeout)
    except BaseException:
        _end(process)
        raise
    if process.returncode != 0:
        raise ChildFailed(argv[0], process.returncode, errors.strip()[-_KEPT_STDERR:])
    return output


def end_orphans(command_id: str, timeout: float) -> int:
    """End the processes of this command that an earlier life of the agent left behind; how many there were.

    When it returns none of them can write any more (one that only waits to be reaped counts as gone). Raises CannotTell
    when one of them outlives ``timeout`` seconds, as one does that waits for a dead file server.
    """
    deadline = time.monotonic() + timeout
    ended: set[int] = set()
    while alive := list(_marked(command_id)):
        if ended and time.monotonic() > deadline:
            raise CannotTell(f"process {alive[0].pid} of this command is still there, {timeout:g} s after SIGKILL")
        for process in alive:
            ended.add(process.pid)
            _kill(process)
        time.sleep(0.02)
    return len(ended)


def end_earlier_attempts(command_id: str) -> None:
    """For a handler: a child of an agent that was killed may still write. Raises Interrupted where it lives on."""
    try:
        end_orphans(command_id, ORPHAN_SECONDS)
    except CannotTell as reason:
        raise Interrupted(str(reason)) from reason


def _await(process: subprocess.Popen[str], check: Callable[[], None], program: str, deadline: float) -> tuple[str, str]:
    while True:
        check()
        try:
            return process.communicate(timeout=CHECK_SECONDS)
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                _too_long(program)


def _too_long(program: str) -> NoReturn:
    raise CommandError(
        "child_timeout",
        f"{program} did not end within its time.",
        "It was ended, and what it had made is removed.",
        "Check that the storage answers, then try again.",
        elsewhere=True,
    )


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=TERMINATE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _marked(command_id: str) -> Iterator[psutil.Process]:
    """Living processes of this user that carry the command's marker, this process left out."""
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.uids().real != os.getuid():
                continue
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARKER) == command_id:
                yield process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def _kill(process: psutil.Process) -> None:
    try:
        # psutil compares the start time first: a pid that was given to another process is not touched.
        process.kill()
    except psutil.NoSuchProcess:
        return


def _how(returncode: int) -> str:
    return f"exit status {returncode}" if returncode >= 0 else f"signal {signal.Signals(-returncode).name}"
