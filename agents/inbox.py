"""What comes from the broker: every message is judged and written down here, in milliseconds, and never worked on.

One thread takes all messages of an agent (the worker's pool is ``solo``), so they are judged one after the other.
"""

import logging
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any, TypeVar

from pydantic import ValidationError

from agents.common.crash import crash_point
from agents.common.errors import CommandError
from agents.executor import JOURNAL_UNWRITABLE, Executor
from agents.heartbeat import Reporter
from agents.journal import Journal, Record, is_command_id
from agents.prober import Prober
from agents.protocol.kinds import KINDS, Data
from agents.protocol.messages import (
    PROTOCOL_VERSION,
    Acknowledge,
    Cancel,
    Configuration,
    Envelope,
    Probe,
    Problem,
    Welcome,
)
from agents.protocol.states import AgentState
from agents.state import Epoch

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Data)
Message = Mapping[str, Any]
CONTROL_TASK = "agents.control."


class Reception(Enum):
    """What is done with a command that arrives."""

    TAKE = auto()
    """Not known, or a higher attempt of one whose state allows another."""
    REPEAT = auto()
    """Known, or its state does not allow this attempt: its present state is reported again."""
    DROP = auto()
    """Final at the server since long: a late duplicate."""
    STALE = auto()
    """Meant for an earlier start of this agent, and never begun."""
    LOST = auto()
    """Its file was set aside as corrupt: it may have begun, so only evidence may start it again."""
    TOO_OLD = auto()
    """Meant for a later start of this agent: I am not the one who should run."""


def judge(envelope: Envelope, journal: Journal, epoch: int, busy: Callable[[str], bool]) -> Reception:
    """Rules 3, 7 and 8 of docs/architecture.md."""
    record = journal.record(envelope.command_id)
    if envelope.epoch > epoch:
        return Reception.TOO_OLD
    if record is None:
        return _judge_unknown(envelope, journal, epoch)
    if envelope.attempt <= record.attempt:
        return Reception.REPEAT
    if envelope.epoch < epoch:
        return Reception.STALE
    waiting = record.state in {AgentState.INTERRUPTED, AgentState.FAILED, AgentState.CANCELLED}
    return Reception.TAKE if waiting and not busy(envelope.command_id) else Reception.REPEAT


def _judge_unknown(envelope: Envelope, journal: Journal, epoch: int) -> Reception:
    if envelope.seq <= journal.floor or journal.tombstone(envelope.command_id):
        return Reception.DROP
    if journal.lost(envelope.command_id):
        return Reception.LOST
    return Reception.STALE if envelope.epoch < epoch else Reception.TAKE


class Inbox:
    """The agent's ear. ``stop(reason)`` ends the agent: it has lost its right to work."""

    def __init__(
        self, executor: Executor, prober: Prober, reporter: Reporter, epoch: Epoch, stop: Callable[[str], None]
    ) -> None:
        self._journal = executor.journal
        self._executor = executor
        self._prober = prober
        self._reporter = reporter
        self._epoch = epoch
        self._stop = stop
        self.dropped = 0
        """Late duplicates since the start."""
        self.tasks: Mapping[str, Callable[[Message], None]] = {
            f"{CONTROL_TASK}welcome": self.welcome,
            f"{CONTROL_TASK}configure": self.configure,
            f"{CONTROL_TASK}acknowledge": self.acknowledge,
            f"{CONTROL_TASK}cancel": self.cancel,
            f"{CONTROL_TASK}probe": self.probe,
            **{kind.task_name: self.accept for kind in KINDS.values()},
        }
        """Names of Celery tasks and what they do. Any other name is taken as a command of an unknown kind."""

    # --- commands ----------------------------------------------------------------------------------------------

    def accept(self, message: Message) -> None:
        """A command: on disk as QUEUED, or not at all, when this returns."""
        envelope = _read(Envelope, message)
        if envelope is None or not is_command_id(envelope.command_id):
            log.error("message.unreadable", extra={"message_type": "Envelope"})
            return
        reception = judge(envelope, self._journal, self._epoch.number, self._executor.lanes.holds)
        log.info("command.arrived", extra={**_names(envelope), "reception": reception.name})
        self._journal.saw(envelope.seq)
        self._answers[reception](self, envelope)
        self._journal.raise_floor(envelope.floor)

    def _take(self, envelope: Envelope) -> None:
        crash_point("accept.before_journal")
        earlier = self._journal.record(envelope.command_id)
        problem = self._problem(envelope)
        record = Record(
            envelope=envelope,
            state=AgentState.FAILED if problem else AgentState.QUEUED,
            epoch=self._epoch.number,
            notes=earlier.notes if earlier else {},
            committed=earlier is not None and earlier.committed,
            problem=problem,
        )
        if not self._write(record):
            return
        crash_point("accept.after_journal")
        if problem is None:
            self._executor.submit(record)

    def _write(self, record: Record) -> bool:
        """A disk that refuses loses nothing: the server sends again what no ping lists."""
        try:
            self._journal.put(record)
        except OSError as error:
            log.error("journal.unwritable", extra={**_names(record.envelope), "error": str(error)})
            return False
        return True

    def _problem(self, envelope: Envelope) -> Problem | None:
        """Why this agent can never do it."""
        try:
            self._executor.tools.find(envelope.kind, envelope.payload)
        except CommandError as error:
            return error.problem
        if envelope.version == PROTOCOL_VERSION:
            return None
        return Problem(
            code="unknown_version",
            cause=f"The command is of protocol version {envelope.version}, this agent speaks {PROTOCOL_VERSION}.",
            consequence="It was not begun.",
            remedy="Bring agent and management server to the same version, then start the operation again.",
        )

    def _repeat(self, envelope: Envelope) -> None:
        self._reporter.changed(envelope.command_id)

    def _drop(self, envelope: Envelope) -> None:
        self.dropped += 1
        log.warning("command.late_duplicate", extra={**_names(envelope), "dropped": self.dropped})

    def _report_stale(self, envelope: Envelope) -> None:
        self._reporter.stale(envelope.command_id, envelope.attempt)

    def _count_as_interrupted(self, envelope: Envelope) -> None:
        self._write(Record(envelope=envelope, state=AgentState.INTERRUPTED, epoch=self._epoch.number))

    def _too_old(self, envelope: Envelope) -> None:
        self._check_epoch(envelope.epoch)

    _answers: Mapping[Reception, Callable[["Inbox", Envelope], None]] = {
        Reception.TAKE: _take,
        Reception.REPEAT: _repeat,
        Reception.DROP: _drop,
        Reception.STALE: _report_stale,
        Reception.LOST: _count_as_interrupted,
        Reception.TOO_OLD: _too_old,
    }

    # --- control -----------------------------------------------------------------------------------------------

    def welcome(self, message: Message) -> None:
        """The answer to a hello. A refusal ends the agent; its next start is above the floor that it was told."""
        welcome = _read(Welcome, message)
        if welcome is None or welcome.epoch != self._epoch.number:
            return
        if not welcome.accepted:
            self._epoch.tell(welcome.epoch_floor)
            self._stop(f"The management server refuses this agent: {welcome.reason}")
            return
        self._journal.raise_floor(welcome.floor)
        self._reporter.welcomed(welcome.ping_interval_seconds, welcome.pools)

    def configure(self, message: Message) -> None:
        configuration = _read(Configuration, message)
        if configuration is not None and self._check_epoch(configuration.epoch):
            self._reporter.configure(configuration.ping_interval_seconds, configuration.pools)

    def acknowledge(self, message: Message) -> None:
        """The server has these ends: let go of them."""
        acknowledge = _read(Acknowledge, message)
        if acknowledge is None or not self._check_epoch(acknowledge.epoch):
            return
        if not acknowledge.command_ids:
            self._journal.raise_floor(acknowledge.floor)
            return
        crash_point("acknowledge.before_removal")
        gone = self._journal.acknowledge(acknowledge.command_ids, acknowledge.floor, busy=self._executor.lanes.holds)
        crash_point("acknowledge.after_removal")
        log.info("commands.acknowledged", extra={"command_ids": gone, "floor": acknowledge.floor})

    def cancel(self, message: Message) -> None:
        """Stop a command; refuse one that has not come yet."""
        wish = _read(Cancel, message)
        if wish is None or not is_command_id(wish.command_id) or not self._check_epoch(wish.epoch):
            return
        log.info("command.cancel_asked", extra={"command_id": wish.command_id, "attempt": wish.attempt})
        self._journal.saw(wish.seq)
        if self._journal.record(wish.command_id) is None:
            self._refuse(wish)
        else:
            self._executor.cancel(wish)
        self._reporter.changed(wish.command_id)

    def _refuse(self, wish: Cancel) -> None:
        if self._gone(wish.command_id, wish.seq):
            return
        # A command whose file is corrupt may have begun: then CANCELLED would be a guess.
        state = AgentState.INTERRUPTED if self._journal.lost(wish.command_id) else AgentState.CANCELLED
        self._write(Record(envelope=self._stand_in(wish, {}), state=state, epoch=self._epoch.number))

    def probe(self, message: Message) -> None:
        """What is true? Here it is only made sure that no earlier message of it can take effect any more."""
        question = _read(Probe, message)
        if question is None or not is_command_id(question.command_id) or not self._check_epoch(question.epoch):
            return
        self._journal.saw(question.seq)
        if not self._executor.lanes.stand_still(question.command_id):
            self._prober.answer(question, "running")
        elif self._refuse_earlier(question):
            self._prober.ask(question)
        else:
            self._executor.lanes.go_on(question.command_id)
            self._prober.answer(question, "cannot_tell", reason=JOURNAL_UNWRITABLE.cause)

    def _refuse_earlier(self, question: Probe) -> bool:
        """Whether it is on disk that a late message of this attempt or an earlier one has no effect."""
        record = self._journal.record(question.command_id)
        if record is None:
            if self._gone(question.command_id, question.seq):
                return True
            envelope = self._stand_in(question, question.payload)
            return self._write(Record(envelope=envelope, state=AgentState.INTERRUPTED, epoch=self._epoch.number))
        if question.attempt <= record.attempt or record.state == AgentState.COMPLETED:
            return True
        envelope = record.envelope.model_copy(update={"attempt": question.attempt})
        return self._write(record.model_copy(update={"envelope": envelope, "state": AgentState.INTERRUPTED}))

    def _gone(self, command_id: str, seq: int) -> bool:
        return seq <= self._journal.floor or self._journal.tombstone(command_id) is not None

    def _stand_in(self, word: Cancel | Probe, payload: Mapping[str, Any]) -> Envelope:
        """The envelope of a command that has not come, so that it is known when it does."""
        return Envelope(
            command_id=word.command_id,
            attempt=word.attempt,
            kind=word.kind,
            epoch=word.epoch,
            seq=word.seq,
            floor=self._journal.floor,
            lane=f"command:{word.command_id}",
            payload=dict(payload),
        )

    def _check_epoch(self, epoch: int) -> bool:
        """False, and the end of this agent, when the server talks to a later start of it."""
        if epoch <= self._epoch.number:
            return True
        self._epoch.tell(epoch)
        self._stop(
            f"The management server speaks to epoch {epoch} of this agent, and this one is {self._epoch.number}: "
            f"another start of it has taken its place, or its state folder was restored from an old copy."
        )
        return False


def _read(model: type[M], message: Message) -> M | None:
    try:
        return model.model_validate(message)
    except ValidationError as error:
        # Names of the fields only: the message may hold what does not belong in a log.
        fields = sorted({".".join(map(str, one["loc"])) for one in error.errors()})
        log.error("message.unreadable", extra={"message_type": model.__name__, "wrong_fields": fields})
        return None


def _names(envelope: Envelope) -> dict[str, Any]:
    return {"command_id": envelope.command_id, "attempt": envelope.attempt, "kind": envelope.kind}
