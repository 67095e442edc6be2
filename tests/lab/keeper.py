"""The process that starts, reaps and ends the parts of one lab: `python -m tests.lab.keeper FD FOLDER LOG_DIR`.

It is a process of its own for three reasons: libvirt waits 40 s for a QEMU whose zombie nobody reaps, so whoever
adopts orphans must reap at once; a test process may not reap children that it did not start; and when that process is
killed, somebody must end what is left (QEMU outlives libvirtd by design).

Over the socket FD come requests, one JSON object a line, each answered by one; `_OPERATIONS` lists them. When the
socket ends, so does everything: whatever descends from the parts (orphans are adopted, so they are found), and whatever
carries the lab's mark in its environment.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab import process

MARK = "CLOUDCTL_LAB"
RESTART_SECONDS = 1.0
_TERM_SECONDS = 5.0


@dataclass(frozen=True)
class Part:
    """A program of the lab. `env` is added to the lab's own; it inherits the `listeners`, descriptors of `listen`."""

    name: str
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    listeners: list[int] = field(default_factory=list)
    user: str | None = None


@dataclass
class _Slot:
    part: Part
    wanted: bool = True
    start_at: float = 0.0
    running: process.Identity | None = None


class Keeper:
    """Keeps every part up: one that died is started again after a second, as systemd would, unless it is held."""

    def __init__(self, requests: socket.socket, folder: str, log_dir: Path) -> None:
        self._requests = requests
        self._mark = f"{MARK}={folder}"
        self._log_dir = log_dir
        self._slots: dict[str, _Slot] = {}
        self._listeners: list[socket.socket] = []

    def run(self) -> None:
        """Serves until the socket ends, then ends everything."""
        process.become_subreaper()
        wake, waker = os.pipe()
        for end in (wake, waker):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        try:
            self._serve(wake)
        finally:
            while left := self._family():
                process.end(left, _TERM_SECONDS)
                self._reap()

    def _serve(self, wake: int) -> None:
        buffer = b""
        while True:
            requests = self._requests.fileno()
            ready, _, _ = select.select([requests, wake], [], [], self._start_due())
            if wake in ready:
                os.read(wake, 4096)
            self._reap()
            if requests not in ready:
                continue
            received = self._requests.recv(65536)
            if not received:
                return
            *lines, buffer = (buffer + received).split(b"\n")
            for line in lines:
                self._requests.sendall(self._answer(json.loads(line)) + b"\n")

    def _answer(self, request: dict[str, Any]) -> bytes:
        operation = _OPERATIONS[request.pop("do")]
        try:
            return json.dumps({"result": operation(self, **request)}).encode()
        except (KeyError, OSError) as error:
            return json.dumps({"error": f"{type(error).__name__}: {error}"}).encode()

    def start(self, **part: Any) -> list[int]:
        """Starts a part; answers its pid and start time."""
        slot = self._slots[part["name"]] = _Slot(Part(**part))
        return self._spawn(slot)

    def parts(self) -> dict[str, list[int] | None]:
        """Every part's pid and start time, null for one that is down."""
        return {name: _pair(slot.running) for name, slot in self._slots.items()}

    def hold(self, name: str) -> None:
        """The part is not started again when it dies."""
        self._slots[name].wanted = False

    def release(self, name: str) -> list[int]:
        """The part is wanted again and started now if it is down; answers its pid and start time."""
        slot = self._slots[name]
        slot.wanted = True
        return self._spawn(slot) if slot.running is None else [slot.running.pid, slot.running.started]

    def listen(self) -> list[int]:
        """Binds a free port on 127.0.0.1 that outlives every part; answers its descriptor and number."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._listeners.append(listener)
        return [listener.fileno(), listener.getsockname()[1]]

    def _start_due(self) -> float | None:
        """Starts what is due; answers the seconds until the next one is, none if nothing is."""
        down = [slot for slot in self._slots.values() if slot.wanted and slot.running is None]
        now = time.monotonic()
        for slot in down:
            if slot.start_at <= now:
                self._spawn(slot)
        return min((slot.start_at - now for slot in down if slot.running is None), default=None)

    def _spawn(self, slot: _Slot) -> list[int]:
        part = slot.part
        as_user = [f"--reuid={part.user}", f"--regid={part.user}", "--clear-groups"] if part.user else []
        name, _, folder = self._mark.partition("=")
        with (self._log_dir / f"{part.name}.log").open("ab") as log:
            child = subprocess.Popen(
                # setpriv(1) keeps the pid; the part gets SIGKILL should this process die.
                ["setpriv", "--pdeathsig", "KILL", *as_user, "--", *part.command],
                env={**os.environ, name: folder, **part.env},
                pass_fds=part.listeners,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        # _reap() waits for every child, so this object must not.
        child.returncode = 0
        entry = process.look_up(child.pid)
        assert entry is not None, "a child stays in the table until it is reaped"
        slot.running = entry.identity
        return [entry.identity.pid, entry.identity.started]

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                for slot in self._slots.values():
                    if slot.running is not None and slot.running.pid == pid:
                        slot.running, slot.start_at = None, time.monotonic() + RESTART_SECONDS

    def _family(self) -> list[process.Identity]:
        living = {entry.identity.pid: entry for entry in process.table() if not entry.zombie}
        family = {os.getpid()}
        while found := {pid for pid, entry in living.items() if entry.parent in family} - family:
            family |= found
        marked = {pid for pid in living if process.has_environment(pid, self._mark)}
        return [living[pid].identity for pid in (family | marked) & living.keys() - {os.getpid()}]


def _pair(identity: process.Identity | None) -> list[int] | None:
    return [identity.pid, identity.started] if identity else None


_OPERATIONS: dict[str, Callable[..., object]] = {
    "start": Keeper.start,
    "parts": Keeper.parts,
    "hold": Keeper.hold,
    "release": Keeper.release,
    "listen": Keeper.listen,
}

if __name__ == "__main__":
    Keeper(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], Path(sys.argv[3])).run()
