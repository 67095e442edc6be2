"""The executor: does what the journal holds, in lanes, and writes down before each effect what it is about to do."""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from nacl.exceptions import CryptoError
from pydantic import ValidationError

from agents.common.children import ORPHAN_SECONDS, end_orphans
from agents.common.crash import crash_point
from agents.common.errors import Cancelled, CannotTell, CommandError, Interrupted
from agents.handlers.base import Handler
from agents.journal import Journal, Record
from agents.lanes import LIMITS, Job, Lanes, Work
from agents.protocol.kinds import KINDS, Data, WorkClass
from agents.protocol.messages import Cancel, Problem, Progress
from agents.protocol.sealing import unseal
from agents.protocol.states import AGENT_ACTIVE, AGENT_FINAL, AgentState

log = logging.getLogger(__name__)

AnyHandler = Handler[Any, Any, Any]
Fields = dict[str, Any]

DISK_RETRY_SECONDS = 2.0
FENCE_SECONDS = 1.0
"""How often a command that only reads and loops looks whether its agent still has the right to work."""

UPGRADE = "Upgrade the agent to the version of the management server, then start the operation again."
INTERNAL_ERROR = Problem(
    code="internal_error",
    cause="The agent met an error that it does not know.",
    consequence="The command was stopped.",
    remedy="The agent's log has the details under this command's id; report them, then try again.",
)
JOURNAL_UNWRITABLE = Problem(
    code="journal_unwritable",
    cause="The disk of the agent's state folder does not take the journal.",
    consequence="What the command did is not written down; it counts as interrupted.",
    remedy="Make room on that disk, or repair it; the command is then reconciled.",
)


class Tools:
    """What this agent can do: the handlers of its role."""

    def __init__(self, handlers: Mapping[str, AnyHandler]) -> None:
        self._handlers = handlers

    def find(self, kind: str, payload: Mapping[str, Any]) -> tuple[AnyHandler, Data]:
        """The handler of a kind and its payload. Raises CommandError when this agent is too old for either."""
        if kind not in KINDS or kind not in self._handlers:
            raise CommandError(
                "unknown_kind", f"This agent does not know the command {kind!r}.", "It was not begun.", UPGRADE
            )
        try:
            return self._handlers[kind], KINDS[kind].payload.model_validate(payload)
        except ValidationError as error:
            fields = ", ".join(sorted({".".join(map(str, one["loc"])) or "payload" for one in error.errors()}))
            raise CommandError(
                "bad_payload",
                f"This agent does not understand the command's fields: {fields}.",
                "It was not begun.",
                UPGRADE,
            ) from None


class Executor:
    """Runs commands. Only its threads have effects; all of them can be killed at any moment.

    ``fence`` says whether this agent still has the right to work.
    """

    def __init__(self, journal: Journal, tools: Tools, private_key: str, fence: Callable[[], bool]) -> None:
        self.lanes = Lanes()
        self.stopping = threading.Event()
        self.journal = journal
        self.tools = tools
        self._private_key = private_key
        self._fence = fence
        self._threads = [
            threading.Thread(target=self._work, args=(name,), name=f"{name}-{number}", daemon=True)
            for name, limit in LIMITS.items()
            for number in range(limit)
        ]

    def start(self) -> None:
        """Take up what the journal holds, in order, and begin."""
        for record in self.journal.records():
            if record.state == AgentState.QUEUED:
                self.submit(record)
            elif _to_be_put_back(record):
                self._submit(record, Work.PUT_BACK)
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float) -> None:
        """Running commands get Interrupted at their next check; whoever needs longer is interrupted in the journal."""
        self.stopping.set()
        self.lanes.close()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self.journal.close()

    def submit(self, record: Record) -> None:
        """Do it when its turn comes. The journal has it as QUEUED."""
        self._submit(record, Work.RUN)

    def _submit(self, record: Record, work: Work) -> None:
        kind = KINDS.get(record.envelope.kind)
        work_class = kind.work_class if kind else WorkClass.SHORT
        self.lanes.put(Job(record.command_id, record.envelope.lane, work_class, work))

    def cancel(self, wish: Cancel) -> None:
        """Cancel a command that the journal holds, as far as its state still allows."""
        record = self.journal.change(wish.command_id, lambda record: _cancelled(record, wish.attempt))
        if record is not None and _to_be_put_back(record):
            self._submit(record, Work.PUT_BACK)

    # --- the threads -------------------------------------------------------------------------------------------

    def _work(self, work_class: WorkClass) -> None:
        while (job := self.lanes.next(work_class)) is not None and not self.stopping.is_set():
            try:
                self._do(job)
            except Interrupted:
                log.info("command.interrupted", extra={"command_id": job.command_id})
            except Exception:
                log.exception("executor.broken", extra={"command_id": job.command_id})
            finally:
                self.lanes.done(job)

    def _do(self, job: Job) -> None:
        if job.work is Work.PUT_BACK:
            self._put_back_interrupted(job.command_id)
            return
        record = self._begin(job.command_id)
        if record is not None:
            self._finish(record, self._run(record))

    def _begin(self, command_id: str) -> Record | None:
        """Mark it STARTED; None when it was cancelled while it waited. A full disk makes its lane wait."""
        crash_point("execute.before_started")
        while not self.stopping.is_set():
            try:
                return self.journal.change(command_id, _started)
            except OSError as error:
                log.error("journal.unwritable", extra={"command_id": command_id, "error": str(error)})
                self.stopping.wait(DISK_RETRY_SECONDS)
        return None

    def _run(self, record: Record) -> Fields:
        """The whole of one attempt. Returns how it ended."""
        log.info("command.started", extra=_names(record))
        crash_point("execute.after_started")
        context = RunContext(self.journal, record, self._may_go_on)
        try:
            handler, payload = self.tools.find(record.envelope.kind, record.envelope.payload)
            context.secrets = self._open(record)
        except CommandError as error:
            return {"state": AgentState.FAILED, "problem": error.problem}
        end = self._attempt(handler, context, payload)
        if end["state"] in {AgentState.COMPLETED, AgentState.INTERRUPTED}:
            return end
        return self._put_back(handler, context, payload, end)

    def _attempt(self, handler: AnyHandler, context: "RunContext", payload: Data) -> Fields:
        try:
            context.check()
            answer = handler.run(context, payload)
            crash_point("execute.before_answer")
            end: Fields = {"state": AgentState.COMPLETED, "answer": answer.model_dump(mode="json")}
        except Interrupted:
            end = {"state": AgentState.INTERRUPTED}
        except Cancelled:
            end = {"state": AgentState.CANCELLED}
        except CommandError as error:
            end = {"state": AgentState.FAILED, "problem": error.problem}
        except Exception:
            log.exception("command.internal_error", extra={"command_id": context.command_id})
            # Past the point of no return only evidence can tell what is true.
            state = AgentState.INTERRUPTED if context.committed else AgentState.FAILED
            end = {"state": state, "problem": INTERNAL_ERROR}
        return end

    def _put_back(self, handler: AnyHandler, context: "RunContext", payload: Data, end: Fields) -> Fields:
        """Clean up after an unfinished run. Where that fails the command is not ended: evidence has to decide."""
        context.putting_back = True
        try:
            handler.cancel(context, payload)
        except Interrupted:
            return {"state": AgentState.INTERRUPTED}
        except CommandError as error:
            return {"state": AgentState.INTERRUPTED, "problem": error.problem}
        except Exception:
            log.exception("command.put_back_failed", extra={"command_id": context.command_id})
            return {"state": AgentState.INTERRUPTED, "problem": INTERNAL_ERROR}
        return end

    def _put_back_interrupted(self, command_id: str) -> None:
        record = self.journal.record(command_id)
        if record is None or not _to_be_put_back(record):
            return
        context = RunContext(self.journal, record, self._may_go_on)
        try:
            end_orphans(command_id, ORPHAN_SECONDS)
            handler, payload = self.tools.find(record.envelope.kind, record.envelope.payload)
            context.secrets = self._open(record)
        except CannotTell as reason:
            log.warning("command.orphan_lives", extra={"command_id": command_id, "reason": str(reason)})
            return
        except CommandError as error:
            self._finish(record, {"state": AgentState.INTERRUPTED, "problem": error.problem})
            return
        self._finish(record, self._put_back(handler, context, payload, {"state": AgentState.CANCELLED}))

    def _finish(self, record: Record, end: Fields) -> None:
        try:
            self.journal.change(record.command_id, lambda _: end)
        except OSError:
            log.exception("journal.unwritable", extra=_names(record))
            self.journal.give_up(record.command_id, JOURNAL_UNWRITABLE)
            return
        crash_point("execute.after_answer")
        log.info("command.ended", extra={**_names(record), "state": end["state"]})

    def _open(self, record: Record) -> Mapping[str, Any]:
        """The sealed part of the envelope. Raises CommandError when it was sealed to somebody else."""
        if record.envelope.sealed is None:
            return MappingProxyType({})
        try:
            return MappingProxyType(unseal(self._private_key, record.envelope.sealed))
        except (CryptoError, ValueError):
            raise CommandError(
                "sealed_to_another",
                "The command's secrets were sealed to another key than this agent's.",
                "It was not begun.",
                "Check that the host's row has the public key of its last join, then start the operation again.",
            ) from None

    def _may_go_on(self) -> None:
        """Raises Interrupted when this agent is stopping or another has taken its place."""
        if self.stopping.is_set():
            raise Interrupted("the agent is stopping")
        if not self._fence():
            raise Interrupted("another agent has taken this one's place")


class RunContext:
    """A command's link to its journal while it runs; see :class:`agents.handlers.base.Context`."""

    def __init__(self, journal: Journal, record: Record, may_go_on: Callable[[], None]) -> None:
        self.command_id = record.command_id
        self.attempt = record.attempt
        self.secrets: Mapping[str, Any] = MappingProxyType({})
        self.putting_back = False
        """Its cancel is being carried out, so it is not heard again."""
        self._journal = journal
        self._record = record
        self._may_go_on = may_go_on
        self._asked_at = 0.0

    @property
    def notes(self) -> Mapping[str, Any]:
        return MappingProxyType(self._current().notes)

    @property
    def committed(self) -> bool:
        return self._current().committed

    def check(self) -> None:
        if time.monotonic() - self._asked_at > FENCE_SECONDS:
            self._may_go_on()
            self._asked_at = time.monotonic()
        self._hear_cancel(self._current())

    def step(self, point: str, **notes: Any) -> None:
        self._before_effect(point, notes, commit=False)

    def commit(self, point: str, **notes: Any) -> None:
        self._before_effect(point, notes, commit=True)

    def progress(self, progress: Progress) -> None:
        self._journal.progress(self.command_id, progress)

    def _before_effect(self, point: str, notes: Mapping[str, Any], *, commit: bool) -> None:
        # Through JSON and back: this attempt sees its notes as the next one will.
        plain = json.loads(json.dumps(notes))

        def decide(record: Record) -> Fields:
            self._hear_cancel(record)
            return {
                "step": point,
                "notes": {**record.notes, **plain},
                "committed": record.committed or commit,
            }

        self._may_go_on()
        self._journal.change(self.command_id, decide)
        # Again: the process may have been stopped (SIGSTOP) while it wrote, and the next line is the effect.
        self._may_go_on()
        crash_point(point)

    def _hear_cancel(self, record: Record) -> None:
        if record.cancel_requested and not self.putting_back:
            raise Cancelled

    def _current(self) -> Record:
        return self._journal.record(self.command_id) or self._record


def _names(record: Record) -> Fields:
    return {"command_id": record.command_id, "attempt": record.attempt, "kind": record.envelope.kind}


def _to_be_put_back(record: Record) -> bool:
    return record.state == AgentState.INTERRUPTED and record.cancel_requested


def _started(record: Record) -> Fields | None:
    if record.state != AgentState.QUEUED:
        return None
    return {"state": AgentState.STARTED, "step": "", "answer": None, "problem": None}


def _cancelled(record: Record, attempt: int) -> Fields | None:
    """What a wish to cancel ``attempt`` does to a record; None where it comes too late or speaks of the past."""
    if attempt < record.attempt or record.state == AgentState.COMPLETED:
        return None
    fields: Fields = {"envelope": record.envelope.model_copy(update={"attempt": attempt})}
    if record.state == AgentState.QUEUED:
        return {**fields, "state": AgentState.CANCELLED}
    if record.state in AGENT_FINAL:
        # This attempt has not come yet; what it would begin is refused.
        return {**fields, "state": AgentState.CANCELLED, "problem": None} if attempt > record.attempt else None
    if record.committed:
        return None
    if record.state in AGENT_ACTIVE:
        return {"cancel_requested": True}
    return {**fields, "cancel_requested": True}
