"""The agent's parts in one process, on real files, for tests that look between them."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.executor import Executor, Tools
from agents.heartbeat import Facts, Reporter
from agents.inbox import Inbox
from agents.journal import Journal, Record
from agents.main import pool_facts
from agents.prober import Prober
from agents.protocol.kinds import VolumeCreate
from agents.protocol.messages import Envelope, Hello, JournalEntry
from agents.protocol.sealing import new_key
from agents.protocol.states import AgentState
from agents.state import Epoch, StateFolder
from tests.lab.waiting import poll
from tests.unit.agents.agent_program import PlayedVolumeCreate

SECONDS = 10.0


@dataclass
class Parts:
    """Everything but Celery. ``said``: what was published, by task name. ``allowed``: what the fence answers."""

    folder: StateFolder
    pool: Path
    said: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)
    allowed: bool = True
    seq: int = 0

    def __post_init__(self) -> None:
        self.folder.prepare()
        self.pool.mkdir(exist_ok=True)
        self.private_key, self.public_key = new_key()
        self.epoch = Epoch(self.folder)
        self.epoch.raise_own()
        self.journal = Journal(self.folder.journal, self.folder.ledger, self._changed, self._progressed)
        self.journal.load()
        tools = Tools({"volume.create": PlayedVolumeCreate()})
        self.executor = Executor(self.journal, tools, self.private_key, lambda: self.allowed)
        self.reporter = Reporter(self.journal, self._publish, Facts(self._hello, None, pool_facts), "a1", 1)
        self.prober = Prober(self.journal, self.executor.lanes, tools, self.reporter)
        self.inbox = Inbox(self.executor, self.prober, self.reporter, self.epoch, self.stops.append)

    def start(self) -> "Parts":
        self.reporter.start()
        self.prober.start()
        self.executor.start()
        return self

    def end(self) -> None:
        self.executor.stop(5)
        self.reporter.stop(1)

    def _changed(self, command_id: str) -> None:
        self.reporter.changed(command_id)

    def _progressed(self, command_id: str) -> None:
        self.reporter.progressed(command_id)

    def _publish(self, task: str, message: Mapping[str, Any], names: str) -> None:
        assert len(names) > 0
        self.said.append((task, message))

    def _hello(self) -> Hello:
        return Hello(
            agent_id="a1",
            epoch=1,
            machine_id="",
            boot_id="",
            host_uuid="",
            role="host",
            agent_version="",
            highest_seq=0,
        )

    def envelope(self, **changes: Any) -> Envelope:
        self.seq += 1
        command_id = changes.pop("command_id", str(uuid.uuid4()))
        payload = VolumeCreate(volume_id=command_id, pool_path=str(self.pool), file_name="f", virtual_size_bytes=1)
        fields = {
            "command_id": command_id,
            "attempt": 1,
            "kind": "volume.create",
            "epoch": 1,
            "seq": self.seq,
            "floor": 0,
            "lane": f"volume:{command_id}",
            "payload": payload.model_dump(mode="json"),
        }
        return Envelope(**{**fields, **changes})

    def queue(self, **changes: Any) -> Envelope:
        """A command in the journal and in its lane, as after it was accepted."""
        record = self.put(**changes)
        self.executor.submit(record)
        return record.envelope

    def put(self, state: AgentState = AgentState.QUEUED, **changes: Any) -> Record:
        """A command in the journal only."""
        own = {name: changes.pop(name) for name in ("cancel_requested", "committed", "notes") if name in changes}
        record = Record(envelope=self.envelope(**changes), state=state, epoch=1, **own)
        self.journal.put(record)
        return record

    def play(self, what: str, command_id: str, how: str = "") -> Path:
        """A file that tells the played handler what to do: ``hold``, ``raise``, ``hold-late``, …"""
        path = self.pool / f"{what}-{command_id}"
        path.write_text(how)
        return path

    def entry(self, command_id: str) -> JournalEntry:
        entry = self.journal.entry(command_id)
        assert entry is not None
        return entry

    def wait(self, command_id: str, *states: AgentState) -> JournalEntry:
        def look() -> JournalEntry | None:
            entry = self.entry(command_id)
            return entry if entry.state in states and not self.executor.lanes.holds(command_id) else None

        return poll(look, SECONDS, f"{command_id} is {' or '.join(states)} and out of its lane")

    def effects(self, command_id: str = "") -> list[str]:
        path = self.pool / "effects"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if command_id in line]

    def wait_effect(self, line: str) -> None:
        poll(lambda: line in self.effects(), SECONDS, line)
