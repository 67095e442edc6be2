"""The agent's state folder: who it is, which start this is, and that it is alone.

``DIR`` (0700) holds ``identity.json`` (0600), ``epoch.json``, ``ledger.json``, ``journal/`` and ``lock``.
"""

import fcntl
import json
import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from agents.common.files import write_atomically
from agents.protocol.kinds import Data
from agents.protocol.sealing import new_key

RoleName = Literal["host", "image-store", "management-server"]
END_SECONDS = 15.0
"""How long a holder gets after SIGTERM; an agent's own stop takes 10 s at most."""


class StateError(Exception):
    """The state folder does not let this agent run; the text is for people: cause, consequence, remedy."""


class Identity(Data):
    """What the join gave this agent. Secret: the broker URL."""

    agent_id: str
    name: str
    role: RoleName
    host_uuid: str
    broker_url: str
    libvirt_uri: str


class Holder(Data):
    """Who holds the lock. ``start_ticks``: start of the process in clock ticks since boot, proc(5) stat field 22."""

    pid: int
    start_ticks: int
    name: str
    since: str

    def alive(self) -> bool:
        """Whether this very process, not another with its id, still exists."""
        return start_ticks(self.pid) == self.start_ticks


def start_ticks(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def machine_id() -> str:
    """The machine's own id, machine-id(5); empty where there is none."""
    return _line("/etc/machine-id")


def boot_id() -> str:
    """Another one after each boot, random(4)."""
    return _line("/proc/sys/kernel/random/boot_id")


def _line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


class StateFolder:
    """The paths inside one state folder."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.identity = self.path / "identity.json"
        self.key = self.path / "private.key"
        self.epoch = self.path / "epoch.json"
        self.ledger = self.path / "ledger.json"
        self.journal = self.path / "journal"
        self.lock = self.path / "lock"

    def prepare(self) -> None:
        """Make the folders, readable by this user only. Raises StateError when the place does not allow it."""
        try:
            for folder in (self.path, self.journal):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.chmod(0o700)
        except OSError as error:
            raise StateError(
                f"The state folder {self.path} cannot be made or closed to others: {error}. The agent does not start. "
                f"Give --state-dir a folder that this user may write."
            ) from error

    def sweep(self) -> None:
        """Remove what an agent that was killed in the middle of a write left behind. The lock must be held."""
        for folder in (self.path, self.journal):
            for path in folder.glob(".*.tmp"):
                path.unlink()

    def private_key(self) -> str:
        """This agent's own key, made on first use: a join whose answer was lost is asked again with the same one."""
        if not self.key.exists():
            write_atomically(self.key, new_key()[0].encode())
        return self.key.read_text()

    def read_identity(self) -> Identity:
        """Raises StateError when this agent never joined or the file cannot be understood."""
        try:
            return Identity.model_validate_json(self.identity.read_bytes())
        except FileNotFoundError:
            raise StateError(
                f"There is no identity in {self.path}: this agent has not joined a management server. "
                f"It cannot start. Run `python -m agents join` first."
            ) from None
        except ValidationError as error:
            raise StateError(
                f"{self.identity} cannot be understood ({error.error_count()} errors). The agent does not start. "
                f"Restore the file, or remove it and join again."
            ) from None

    def write_identity(self, identity: Identity) -> None:
        """Durable, 0600."""
        write_atomically(self.identity, identity.model_dump_json(indent=1).encode())


class Lock:
    """The right to be the agent of a state folder: an flock(2) that is given back by the end of the process only."""

    def __init__(self, folder: StateFolder, name: str) -> None:
        self._path = folder.lock
        self._name = name
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)

    def take(self, *, take_over: bool = False) -> None:
        """Become the only agent here. Raises StateError that names the holder, unless ``take_over`` ends it first."""
        if take_over and not self._try():
            self._end_holder()
        if not self._try():
            raise StateError(self._refusal())
        self._write_holder()

    def _try(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _write_holder(self) -> None:
        pid = os.getpid()
        holder = Holder(
            pid=pid,
            start_ticks=start_ticks(pid) or 0,
            name=self._name,
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        # In place: a rename would give the name to a file that nobody has locked.
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, holder.model_dump_json().encode(), 0)
        os.fsync(self._file)

    def _holder(self) -> Holder | None:
        """None while the holder has the lock but has not yet written who it is."""
        try:
            return Holder.model_validate_json(os.pread(self._file, 4096, 0))
        except ValidationError:
            return None

    def _refusal(self) -> str:
        holder = self._holder()
        who = f"{holder.name!r}, process {holder.pid}, since {holder.since}" if holder else "one that is just starting"
        return (
            f"Another agent holds {self._path.parent}: {who}. Two agents on one host would undo each other's work, "
            f"so this one does not start. Stop that one, or start this one with --take-over, which ends it first."
        )

    def _end_holder(self) -> None:
        for signal_number, patience in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, END_SECONDS)):
            holder = self._holder()
            if holder is not None:
                _send(holder, signal_number)
            if self._wait(patience):
                return

    def _wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._try():
                return True
            time.sleep(0.05)
        return False


def _send(holder: Holder, signal_number: int) -> None:
    """To this very process, or to none."""
    try:
        process = os.pidfd_open(holder.pid)
    except ProcessLookupError:
        return
    try:
        # It is open, so the pid cannot be given to another between this look and the signal.
        if holder.alive():
            signal.pidfd_send_signal(process, signal_number)
            # A stopped process hears SIGTERM only when it goes on.
            signal.pidfd_send_signal(process, signal.SIGCONT)
    except ProcessLookupError:
        return
    finally:
        os.close(process)


class Epoch:
    """Which start of this agent this is: raised once under the lock, read again before every effect."""

    def __init__(self, folder: StateFolder) -> None:
        self._path = folder.epoch
        self.number = 0

    def raise_own(self) -> int:
        """One above everything used or told before; on disk when this returns. The lock must be held."""
        self.number = max(self._read("own"), self._read("told")) + 1
        self._write(own=self.number, told=self._read("told"))
        return self.number

    def tell(self, floor: int) -> None:
        """Remember the highest epoch that the server knows of, for the next start."""
        if floor > self._read("told"):
            self._write(own=self._read("own"), told=floor)

    def is_mine(self) -> bool:
        """Whether no later start of this agent has taken the folder over."""
        return self._read("own") == self.number

    def _read(self, which: str) -> int:
        try:
            return int(self._content()[which])
        except FileNotFoundError:
            return 0
        except (ValueError, KeyError, TypeError):
            # Starting low is safe: the server refuses it and tells its floor.
            return 0

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._path.read_bytes())
        return content

    def _write(self, *, own: int, told: int) -> None:
        write_atomically(self._path, json.dumps({"own": own, "told": told}).encode())
