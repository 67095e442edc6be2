"""Processes named by pid and start time, so that a pid used again is never taken for the one that was meant."""

import contextlib
import ctypes
import os
import select
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


@dataclass(frozen=True)
class Identity:
    """One process: `started` is field 22 of /proc/PID/stat (clock ticks after boot), proc_pid_stat(5)."""

    pid: int
    started: int


@dataclass(frozen=True)
class Entry:
    """A row of the process table. A zombie is dead: on some machines nobody ever reaps it."""

    identity: Identity
    parent: int
    zombie: bool


def look_up(pid: int) -> Entry | None:
    """The process table's row for this pid, zombies included."""
    try:
        # The command's name may hold spaces and brackets: fields are counted after its last bracket.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return Entry(Identity(pid, int(fields[19])), int(fields[1]), fields[0] in ("Z", "X"))


def table() -> list[Entry]:
    """The whole process table."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [entry for entry in map(look_up, pids) if entry is not None]


def identify(pid: int) -> Identity | None:
    """The process that runs under this pid now; None when there is none or only its zombie is left."""
    entry = look_up(pid)
    return None if entry is None or entry.zombie else entry.identity


def is_alive(process: Identity) -> bool:
    """Whether this very process still runs."""
    return identify(process.pid) == process


def send(process: Identity, number: int) -> None:
    """Signals this very process; nothing happens if it is gone."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(process.pid)
        try:
            # The descriptor is open, so the pid cannot be given away between this look and the signal.
            if is_alive(process):
                signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)


def wait_gone(processes: Iterable[Identity], timeout: float) -> list[Identity]:
    """Waits until all are gone; returns those that still run after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    left = []
    for process in processes:
        try:
            pidfd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        try:
            if is_alive(process) and not select.select([pidfd], [], [], max(0, deadline - time.monotonic()))[0]:
                left.append(process)
        finally:
            os.close(pidfd)
    return left


def end(processes: Iterable[Identity], timeout: float) -> None:
    """Asks with SIGTERM, insists with SIGKILL after `timeout` seconds, and returns when all are gone."""
    wanted = list(processes)
    for process in wanted:
        send(process, signal.SIGTERM)
    stubborn = wait_gone(wanted, timeout)
    for process in stubborn:
        send(process, signal.SIGKILL)
    if left := wait_gone(stubborn, 10):
        raise RuntimeError(f"Processes {[process.pid for process in left]} outlived SIGKILL by 10 s.")


def become_subreaper() -> None:
    """Orphans of this process's descendants become its own children (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def has_environment(pid: int, variable: str) -> bool:
    """Whether the process was started with this `NAME=value` in its environment."""
    try:
        return variable.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def command(pid: int) -> list[str]:
    """What a process was started with; an empty name for a zombie and for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return [""]
