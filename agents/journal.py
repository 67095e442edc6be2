"""The agent's truth: one file a command, written before each effect, kept until its end is acknowledged.

``journal/<command_id>.json`` holds a :class:`Record`. ``ledger.json`` holds what must outlive the files: the highest
sequence number seen, the floor, and a tombstone for each command that was let go above the floor. All records are also
in memory, so that a ping reads no file; progress is in memory only.
"""

import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from agents.common.errors import Interrupted
from agents.common.files import fsync_folder, write_atomically
from agents.protocol.kinds import Data
from agents.protocol.messages import Envelope, JournalEntry, Problem, Progress
from agents.protocol.states import AGENT_ACTIVE, AGENT_FINAL, AgentState

log = logging.getLogger(__name__)

JOURNAL_VERSION = 1
Heard = Callable[[str], None]
_COMMAND_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


def _nobody(command_id: str) -> None:
    """Nobody listens."""


class Record(Data):
    """One command on disk. ``envelope.sealed`` stays sealed here."""

    version: int = JOURNAL_VERSION
    envelope: Envelope
    state: AgentState
    epoch: int
    """The agent's epoch when it took the command."""
    step: str = ""
    notes: dict[str, Any] = Field(default_factory=dict)
    answer: dict[str, Any] | None = None
    problem: Problem | None = None
    cancel_requested: bool = False
    committed: bool = False
    """Past its point of no return: from here only forward."""

    @property
    def command_id(self) -> str:
        return self.envelope.command_id

    @property
    def attempt(self) -> int:
        return self.envelope.attempt


class Tombstone(Data):
    """What is left of an acknowledged command above the floor, so that a late duplicate is known."""

    attempt: int
    seq: int
    state: AgentState


class Ledger(Data):
    """What outlives the commands' files."""

    highest_seq: int = 0
    floor: int = 0
    tombstones: dict[str, Tombstone] = Field(default_factory=dict)


class _Slot:
    """A record in memory. The lock orders everything that changes it, so that cancel and commit cannot both win."""

    def __init__(self, record: Record) -> None:
        self.lock = threading.RLock()
        self.record = record
        self.progress: Progress | None = None


def is_command_id(text: str) -> bool:
    """Whether it can be a command's id, which is also its file's name."""
    return _COMMAND_ID.fullmatch(text) is not None


class Journal:
    """All commands of this agent. Thread-safe; every method that changes a record has it on disk when it returns.

    ``on_change`` is called with the id after each change of state on disk, ``on_progress`` after every other change.
    """

    def __init__(self, folder: Path, ledger: Path, on_change: Heard = _nobody, on_progress: Heard = _nobody) -> None:
        self._folder = folder
        self._ledger_path = ledger
        self._on_change = on_change
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._slots: dict[str, _Slot] = {}
        self._ledger = Ledger()
        self._highest_seq = 0
        self._corrupt: set[str] = set()
        self._closed = False

    # --- start and end -----------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read everything; set aside as ``<name>.corrupt`` what cannot be understood; mark what ran INTERRUPTED."""
        self._read_ledger()
        for path in sorted(self._folder.glob("*.json")):
            self._read_record(path)
        self._corrupt.update(_printable(path.name) for path in self._folder.glob("*.corrupt"))
        for command_id in list(self._slots):
            self._interrupt_active(command_id)

    def close(self) -> None:
        """Mark what runs INTERRUPTED; whoever changes a record after that gets Interrupted. The process ends."""
        self._closed = True
        for command_id in list(self._slots):
            self._interrupt_active(command_id)

    def _interrupt_active(self, command_id: str) -> None:
        with self._changing(command_id) as slot:
            if slot is not None and slot.record.state in AGENT_ACTIVE:
                self._store(slot, slot.record.model_copy(update={"state": AgentState.INTERRUPTED}))

    def _read_ledger(self) -> None:
        try:
            self._ledger = Ledger.model_validate_json(self._ledger_path.read_bytes())
        except FileNotFoundError:
            return
        except ValidationError:
            self._set_aside(self._ledger_path)
        self._highest_seq = self._ledger.highest_seq

    def _read_record(self, path: Path) -> None:
        if path.stem in self._ledger.tombstones:
            path.unlink()
            return
        try:
            record = Record.model_validate_json(path.read_bytes())
            if record.version != JOURNAL_VERSION or record.command_id != path.stem:
                raise ValueError("another version, or another command's file")
        except (ValueError, OSError):
            self._set_aside(path)
            return
        self._slots[record.command_id] = _Slot(record)
        self.saw(record.envelope.seq)

    def _set_aside(self, path: Path) -> None:
        aside = self._folder / (path.name + ".corrupt")
        path.rename(aside)
        fsync_folder(self._folder)
        self._corrupt.add(_printable(aside.name))
        log.error("journal.corrupt", extra={"file": _printable(aside.name)})

    # --- reading -----------------------------------------------------------------------------------------------

    @property
    def highest_seq(self) -> int:
        """Highest sequence number seen in this agent's life."""
        return self._highest_seq

    @property
    def floor(self) -> int:
        """Everything at or below it is final at the server."""
        return self._ledger.floor

    @property
    def corrupt(self) -> tuple[str, ...]:
        """File names of what was set aside and is still there, printable."""
        return tuple(sorted(self._corrupt))

    def lost(self, command_id: str) -> bool:
        """Whether this command's file was set aside: it may have begun, nothing more is known."""
        return f"{command_id}.json.corrupt" in self._corrupt

    def record(self, command_id: str) -> Record | None:
        slot = self._slots.get(command_id)
        return slot.record if slot else None

    def records(self) -> list[Record]:
        """All, in the order of their sequence numbers."""
        with self._lock:
            records = [slot.record for slot in self._slots.values()]
        return sorted(records, key=lambda record: record.envelope.seq)

    def tombstone(self, command_id: str) -> Tombstone | None:
        return self._ledger.tombstones.get(command_id)

    def entry(self, command_id: str) -> JournalEntry | None:
        """The command as the server is told of it."""
        slot = self._slots.get(command_id)
        return _entry(slot) if slot else None

    def entries(self) -> tuple[JournalEntry, ...]:
        with self._lock:
            slots = list(self._slots.values())
        return tuple(sorted((_entry(slot) for slot in slots), key=lambda entry: entry.seq))

    # --- changing ----------------------------------------------------------------------------------------------

    def put(self, record: Record) -> None:
        """A new command, or a new attempt of one that is here."""
        with self._lock:
            slot = self._slots.get(record.command_id) or _Slot(record)
        with slot.lock:
            slot.progress = None
            self._write(slot, record)
            with self._lock:
                self._slots[record.command_id] = slot
        self.saw(record.envelope.seq)
        self._on_change(record.command_id)

    def change(self, command_id: str, decide: Callable[[Record], Mapping[str, Any] | None]) -> Record | None:
        """Change fields of a record: ``decide`` sees it while nobody else can change it; None leaves it as it is.

        Returns the changed record; None when nothing was changed.
        """
        with self._changing(command_id) as slot:
            fields = decide(slot.record) if slot else None
            if slot is None or fields is None:
                return None
            before = slot.record
            self._write(slot, before.model_copy(update=dict(fields)))
            record = slot.record
        # A download journals its offset many times a second: that is progress, and nobody waits for it.
        same = (record.state, record.attempt) == (before.state, before.attempt)
        (self._on_progress if same else self._on_change)(command_id)
        return record

    def give_up(self, command_id: str, problem: Problem) -> None:
        """Its disk refuses the journal: INTERRUPTED in memory, which is what the next start makes of the file."""
        with self._changing(command_id) as slot:
            if slot is not None:
                slot.record = slot.record.model_copy(update={"state": AgentState.INTERRUPTED, "problem": problem})
        self._on_change(command_id)

    def progress(self, command_id: str, progress: Progress) -> None:
        """Kept in memory; never waits for the disk."""
        slot = self._slots.get(command_id)
        if slot is not None:
            slot.progress = progress
            self._on_progress(command_id)

    def raise_floor(self, floor: int) -> None:
        """The server says that everything at or below ``floor`` is final."""
        self._let_go((), floor)

    def acknowledge(self, command_ids: Iterable[str], floor: int, busy: Callable[[str], bool]) -> list[str]:
        """Let go of what the server has settled, and raise the floor. Returns the ids that were let go.

        Never of what runs or waits, nor of an interrupted one that is ``busy`` being put back: that would be
        forgetting a command that still has effects.
        """
        gone = [command_id for command_id in command_ids if self._may_go(command_id, busy)]
        self._let_go(gone, floor)
        return gone

    def _may_go(self, command_id: str, busy: Callable[[str], bool]) -> bool:
        record = self.record(command_id)
        if record is None:
            return False
        return record.state in AGENT_FINAL or (record.state == AgentState.INTERRUPTED and not busy(command_id))

    def _let_go(self, command_ids: Iterable[str], floor: int) -> None:
        """The ledger first: a death after it removes the files at the next start."""
        gone = list(command_ids)
        floor = max(floor, self._ledger.floor)
        if not gone and floor == self._ledger.floor:
            return
        stones = {**self._ledger.tombstones, **{command_id: self._stone(command_id) for command_id in gone}}
        self._ledger = Ledger(
            highest_seq=self._highest_seq,
            floor=floor,
            tombstones={command_id: stone for command_id, stone in stones.items() if stone.seq > floor},
        )
        if not gone:
            return
        write_atomically(self._ledger_path, self._ledger.model_dump_json().encode())
        for command_id in gone:
            with self._lock:
                del self._slots[command_id]
            self._path(command_id).unlink(missing_ok=True)
        fsync_folder(self._folder)

    def _stone(self, command_id: str) -> Tombstone:
        record = self._slots[command_id].record
        return Tombstone(attempt=record.attempt, seq=record.envelope.seq, state=record.state)

    def saw(self, seq: int) -> None:
        """A message with this sequence number came; it may have left nothing else behind."""
        self._highest_seq = max(self._highest_seq, seq)

    @contextmanager
    def _changing(self, command_id: str) -> Iterator[_Slot | None]:
        slot = self._slots.get(command_id)
        if slot is None:
            yield None
            return
        with slot.lock:
            yield slot

    def _write(self, slot: _Slot, record: Record) -> None:
        if self._closed:
            raise Interrupted("the agent is stopping")
        self._store(slot, record)

    def _store(self, slot: _Slot, record: Record) -> None:
        write_atomically(self._path(record.command_id), record.model_dump_json().encode())
        slot.record = record

    def _path(self, command_id: str) -> Path:
        return self._folder / f"{command_id}.json"


def _printable(name: str) -> str:
    """A file's name as text that can be sent: bytes that are no UTF-8 as ``\\xff``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _entry(slot: _Slot) -> JournalEntry:
    record = slot.record
    showing = record.state == AgentState.STARTED and slot.progress is not None
    return JournalEntry(
        command_id=record.command_id,
        attempt=record.attempt,
        kind=record.envelope.kind,
        seq=record.envelope.seq,
        state=AgentState.PROCESSING if showing else record.state,
        epoch=record.epoch,
        step=record.step,
        progress=slot.progress,
        answer=record.answer,
        problem=record.problem,
    )
