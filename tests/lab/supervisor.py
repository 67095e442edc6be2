"""The lab's hand on its parts: start, kill, hold, stop. A keeper process does it and outlives this one if it must."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.lab import process
from tests.lab.keeper import MARK, Part
from tests.lab.waiting import Found, poll

ROOT = Path(__file__).resolve().parents[2]
_STOP_SECONDS = 10.0
_KEEPER_SECONDS = 60.0
_LOG_TAIL_LINES = 30


class Supervisor:
    """Parts run until `stop_all()`; one that dies is started again after a second, unless it is held down.

    Nothing of the lab is left when this process ends, however it ends. Both outputs of a part go to LOG_DIR/NAME.log.
    """

    def __init__(self, folder: Path, log_dir: Path) -> None:
        self.log_dir = log_dir
        self._mark = {MARK: str(folder)}
        self._lock = threading.Lock()
        log_dir.mkdir(parents=True, exist_ok=True)
        self._socket, theirs = socket.socketpair()
        self._answers = self._socket.makefile("rb")
        with theirs, (log_dir / "keeper.log").open("ab") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-m", "tests.lab.keeper", str(theirs.fileno()), str(folder), str(log_dir)],
                cwd=ROOT,
                env=_clean_environment(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A Ctrl-C at the terminal is for the lab, which then stops its parts in order.
                start_new_session=True,
            )

    def start(self, part: Part) -> int:
        """Starts a part and returns its pid; it is kept up until somebody holds or stops it."""
        pid: int = self._ask("start", **asdict(part))[0]
        return pid

    def listen(self) -> tuple[int, int]:
        """A free port on 127.0.0.1 that stays bound while parts die: a descriptor for `Part.listeners`, its number."""
        descriptor, port = self._ask("listen")
        return descriptor, port

    def ready(self, name: str, probe: Callable[[], Found | None], timeout: float) -> Found:
        """Waits until the probe answers; the error tells what the part wrote last."""
        try:
            return poll(probe, timeout, f"{name} answers")
        except TimeoutError as late:
            raise TimeoutError(f"{late}; it wrote last:\n{self.log_tail(name)}") from None

    def processes(self) -> dict[str, process.Identity | None]:
        """Every part's process now; None for one that is down."""
        return {name: process.Identity(*pair) if pair else None for name, pair in self._ask("parts").items()}

    def pids(self) -> dict[str, int | None]:
        """Every part's pid now; None for one that is down."""
        return {name: found.pid if found else None for name, found in self.processes().items()}

    def kill(self, name: str, number: int = signal.SIGKILL) -> process.Identity:
        """Signals a part and returns who was hit; if it dies of that it is started again, unless it is held."""
        hit = self.processes()[name]
        if hit is None:
            raise RuntimeError(f"{name} is down, so it cannot be signalled.")
        process.send(hit, number)
        return hit

    def restarted(self, name: str, after: process.Identity, timeout: float = 20.0) -> int:
        """Waits until another process than `after` runs as this part; returns its pid."""

        def other() -> int | None:
            now = self.processes()[name]
            return now.pid if now is not None and now != after else None

        return self.ready(name, other, timeout)

    def hold(self, name: str) -> None:
        """From now on the part is not started again when it dies."""
        self._ask("hold", name=name)

    def release(self, name: str) -> int:
        """The part is wanted again: it is started at once if it is down. Returns its pid."""
        pid: int = self._ask("release", name=name)[0]
        return pid

    def stop(self, *names: str, timeout: float = _STOP_SECONDS) -> None:
        """Holds the parts down and returns when they are gone: SIGTERM to all, SIGKILL after `timeout` seconds."""
        for name in names:
            self.hold(name)
        now = self.processes()
        process.end([found for name in names if (found := now[name]) is not None], timeout)
        poll(lambda: not any(self.processes()[name] for name in names), 10, f"{', '.join(names)} are gone")

    def run(self, name: str, command: Sequence[str], env: Mapping[str, str], timeout: float = 60.0) -> str:
        """Runs a program to its end and returns its output; the error tells what it wrote last."""
        with (self.log_dir / f"{name}.log").open("ab") as log:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env={**_clean_environment(), **self._mark, **env},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                timeout=timeout,
                check=False,
            )
        if done.returncode != 0:
            raise RuntimeError(f"{name} left with {done.returncode}; it wrote last:\n{self.log_tail(name)}")
        return done.stdout.decode()

    def log_tail(self, name: str) -> str:
        """The last lines that a part wrote."""
        lines = (self.log_dir / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL_LINES:])

    def stop_all(self) -> None:
        """Stops every part, then ends what they left behind. A second call does nothing."""
        if self._keeper.returncode is not None:
            return
        try:
            self.stop(*self.processes())
        finally:
            self._socket.shutdown(socket.SHUT_RDWR)
            self._keeper.wait(_KEEPER_SECONDS)
            self._answers.close()
            self._socket.close()

    def _ask(self, do: str, **arguments: Any) -> Any:
        with self._lock:
            self._socket.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
            line = self._answers.readline()
        if not line:
            raise RuntimeError(f"The lab's keeper is gone; it wrote last:\n{self.log_tail('keeper')}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"The lab's keeper refused to {do}: {answer['error']}")
        return answer["result"]


def _clean_environment() -> dict[str, str]:
    """Without the caller's own configuration of cloudctl: an agent must not learn where a database is.

    And without the ban of bytecode files that some machines set: a part would compile all of Django at each start.
    """
    unwanted = ("CLOUDCTL_", "DJANGO_", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
