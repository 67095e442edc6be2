"""Commands whose outcome is in doubt: ask the agent, judge the evidence, settle.

The sweep, for each command in INTERRUPTED, TIMED_OUT or RECONCILE_RETRY:

1. It is claimed for asking by the guarded move to RECONCILING. A host that cannot be asked costs no attempt.
2. The evidence counts only with the question's probe id and the agent's present epoch. A question keeps its id until it
   is answered, also when it is repeated: an answer that takes longer than the grace is an answer.
3. The kind's rule makes a verdict of it; verdict and evidence are stored on the command and shown.
4. A question that was not answered within the grace becomes RECONCILE_RETRY.
5. What was asked ``reconcile.commands.max.attempts`` times becomes RECONCILE_FAILED, and its operation needs attention.
   It is still asked, quietly, and settles itself when evidence comes.
"""

import logging
import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone
from pydantic import ValidationError

from agents.protocol.kinds import KINDS
from agents.protocol.messages import Evidence, JournalEntry
from agents.protocol.states import AGENT_FINAL, COMMAND_FINAL, AgentState, CommandState
from core_app import events, settings_rows
from core_app.transitions import transition
from infra_app.models import Agent
from operations_app import dispatch, registry
from operations_app.models import Attempt, Command
from operations_app.rules import Judgement, Outcome, Verdict, bound_redo
from operations_app.workflow import advance, locked

logger = logging.getLogger("cloudctl.reconciliation")

ASKABLE = frozenset(
    {CommandState.INTERRUPTED, CommandState.TIMED_OUT, CommandState.RECONCILE_RETRY, CommandState.RECONCILE_FAILED}
)
ASKABLE_AGENTS = (Agent.State.UP, Agent.State.MAINTENANCE)
_ASKED_QUIETLY = (CommandState.RECONCILING, CommandState.RECONCILE_FAILED)
_AWAITING_EVIDENCE = (CommandState.RECONCILING, CommandState.RECONCILE_RETRY, CommandState.RECONCILE_FAILED)
_GRACE = timedelta(seconds=10)
_BATCH = 1000


def askable() -> QuerySet[Command]:
    """Commands in doubt whose agents can be asked, those that waited longest for a question first."""
    agents = Q(agent__state__in=ASKABLE_AGENTS, agent__ahead=False)
    return Command.objects.filter(agents, state__in=ASKABLE).order_by(F("probed_at").asc(nulls_first=True))


def open_questions() -> QuerySet[Command]:
    """Commands whose agents were asked and have not answered."""
    return Command.objects.filter(state=CommandState.RECONCILING)


def ask_all(commands: QuerySet[Command]) -> None:
    """Ask for evidence about each; one row's trouble never stops the round, the broker's does."""
    for command in commands[: settings_rows.get("reconcile.commands.workers")]:
        try:
            if not ask(command):
                return
        except Exception:
            logger.exception("reconcile.failed", extra={"fields": {"command": str(command.pk)}})


def may_ask(agent: Agent) -> bool:
    return agent.state in ASKABLE_AGENTS and not agent.ahead


def ask(command: Command) -> bool:
    """Send a probe, if its host can be asked and nobody else does. False when the broker did not take it."""
    return dispatch.send_probe(command) if _claim(command) else True


def ask_after_commit(command: Command) -> None:
    """As :func:`ask`, for a transaction that has put the command in doubt."""
    if _claim(command):
        transaction.on_commit(partial(dispatch.send_probe, command), robust=True)


def _claim(command: Command) -> bool:
    command.agent = Agent.objects.get(pk=command.agent_id)
    if not may_ask(command.agent):
        return False
    sets: dict[str, Any] = {"probe_id": command.probe_id or uuid.uuid4(), "probed_at": timezone.now()}
    where = {"attempt": command.attempt, "probe_id": command.probe_id}
    if command.state in _ASKED_QUIETLY:
        rows = Command.objects.filter(pk=command.pk, state=command.state, **where)
        command.probe_id = sets["probe_id"]
        return bool(rows.update(**sets))
    sets["reconcile_attempts"] = command.reconcile_attempts + 1
    return transition(command, CommandState.RECONCILING, event="command.reconciling", sets=sets, where=where)


def evidence(message: Evidence) -> None:
    """Judge an answer to a probe. Answers to older questions, or from an earlier life of the agent, count nothing."""
    found = Command.objects.filter(pk=message.command_id, agent_id=UUID(message.agent_id))
    operation_id = found.values_list("operation_id", flat=True).first()
    if operation_id is None:
        return
    with transaction.atomic():
        locked(operation_id)
        command = found.select_related("agent").get()
        if not _is_answer(command, message):
            return
        command.facts_begun = message.facts_begun
        _settle(command, message)
        if command.state in COMMAND_FINAL or command.state == CommandState.RECONCILE_FAILED:
            advance(operation_id)
        dispatch.publish_after_commit([command.pk] if command.state == CommandState.CREATED else [])


def _is_answer(command: Command, message: Evidence) -> bool:
    asked = (str(command.probe_id), command.attempt, command.agent.epoch)
    answered = (message.probe_id, message.attempt, message.epoch)
    return command.state in _AWAITING_EVIDENCE and asked == answered


def _settle(command: Command, message: Evidence) -> None:
    if message.status == "running":
        _follow(command, message)
    elif message.status == "cannot_tell":
        _again(command, message, message.reason)
    elif message.entry is not None and _is_end(command, message.entry):
        _late_answer(command, message, message.entry)
    else:
        _apply_verdict(command, message, _verdict(command, message))


def _is_end(command: Command, entry: JournalEntry) -> bool:
    return entry.state in AGENT_FINAL and entry.attempt == command.attempt and has_answer(command, entry)


def has_answer(command: Command, entry: JournalEntry) -> bool:
    """Whether what is said to be done comes with its kind's answer. Without one it is no word at all, and an alarm."""
    if entry.state != AgentState.COMPLETED:
        return True
    try:
        KINDS[command.kind].answer.model_validate(entry.answer or {})
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(map(str, one["loc"])) for one in error.errors()}))
        text = f"{command.agent} says that {command.kind} is done, and its answer is none ({fields}); evidence decides"
        events.alarm_once("command.answer_malformed", command, text)
        return False
    return True


def _verdict(command: Command, message: Evidence) -> Verdict:
    try:
        found = KINDS[command.kind].evidence.model_validate(message.evidence or {})
    except ValidationError as error:
        return Verdict(Judgement.RETRY, f"the evidence cannot be read: {error}")
    return bound_redo(
        registry.judge(command.kind, command.payload, found),
        attempt=command.attempt,
        max_attempts=1 + settings_rows.get("command.redo.max"),
        cancel_requested=command.cancel_requested_at is not None,
    )


def _stored(message: Evidence, judgement: str, reason: str) -> dict[str, Any]:
    return {
        "status": message.status,
        "evidence": message.evidence,
        "epoch": message.epoch,
        "verdict": judgement,
        "reason": reason,
        "at": timezone.now().isoformat(),
    }


def _follow(command: Command, message: Evidence) -> None:
    """It runs, or waits for its turn, on the agent: what was feared did not happen, so it gets a new deadline."""
    _reopen(command)
    sets = {
        "probe_id": None,
        "evidence": _stored(message, "follow", message.reason or "it runs"),
        "deadline_at": timezone.now() + timedelta(seconds=settings_rows.get(f"command.deadline.{command.kind}")),
        "seen_at": timezone.now(),
        "reconcile_attempts": max(command.reconcile_attempts - 1, 0),
    }
    transition(command, CommandState.PROCESSING, event="command.followed", message=message.reason, sets=sets)


def _reopen(command: Command) -> None:
    """An answer that came after its grace: as if it had come within."""
    if command.state != CommandState.RECONCILING:
        transition(command, CommandState.RECONCILING, event="command.reconciling", message="a late answer came")


def _again(command: Command, message: Evidence, reason: str) -> None:
    """Cannot tell yet: touch nothing; a person is asked when this was so too often."""
    sets = {"probe_id": None, "evidence": _stored(message, "retry", reason)}
    if command.state == CommandState.RECONCILE_FAILED:
        Command.objects.filter(pk=command.pk).update(**sets)
        return
    _reopen(command)
    _leave_open(command, reason, sets)


def _leave_open(command: Command, reason: str, sets: dict[str, Any], where: dict[str, Any] | None = None) -> None:
    too_often = command.reconcile_attempts >= settings_rows.get("reconcile.commands.max.attempts")
    to = CommandState.RECONCILE_FAILED if too_often else CommandState.RECONCILE_RETRY
    level = "alarm" if too_often else "info"
    transition(command, to, event=f"command.{to.lower()}", message=reason, sets=sets, where=where, level=level)


def _late_answer(command: Command, message: Evidence, entry: JournalEntry) -> None:
    sets = {
        "agent_state": entry.state,
        "answer": entry.answer,
        "error": entry.problem.model_dump() if entry.problem else None,
        "finished_at": timezone.now(),
        "facts_begun": command.facts_begun,
        "evidence": _stored(message, entry.state, "the agent's journal has the final answer"),
    }
    transition(command, entry.state, event=f"command.{entry.state.lower()}", sets=sets)


def _apply_verdict(command: Command, message: Evidence, verdict: Verdict) -> None:
    stored = _stored(message, verdict.judgement, verdict.reason)
    if verdict.judgement is Judgement.REDO:
        _redo(command, verdict, stored)
    elif verdict.judgement is Judgement.FOLLOW:
        _follow(command, message)
    elif verdict.judgement is Judgement.RETRY:
        _again(command, message, verdict.reason)
    else:
        _end(command, verdict, stored)


def _redo(command: Command, verdict: Verdict, stored: dict[str, Any]) -> None:
    ended = Attempt.objects.filter(command=command, number=command.attempt)
    _reopen(command)
    sets = {
        "attempt": command.attempt + 1,
        "sent_at": None,
        "deadline_at": None,
        "probe_id": None,
        "agent_state": "",
        "evidence": stored,
    }
    if transition(command, CommandState.CREATED, event="command.redo", message=verdict.reason, sets=sets):
        ended.update(ended=CommandState.INTERRUPTED)
        Attempt.objects.create(command=command, number=command.attempt, reason=verdict.reason[:1024])


def _end(command: Command, verdict: Verdict, stored: dict[str, Any]) -> None:
    done = verdict.judgement is Judgement.DONE
    sets: dict[str, Any] = {
        "outcome": Outcome.DONE if done else Outcome.UNDONE,
        "finished_at": timezone.now(),
        "facts_begun": command.facts_begun,
        "evidence": stored,
    }
    if done:
        sets["answer"] = dict(verdict.answer)
    elif command.cancel_requested_at is None:
        sets["error"] = {
            "code": "interrupted",
            "cause": f"{command.kind} was interrupted: {verdict.reason}.",
            "consequence": "It was not done; what it left unfinished is removed.",
            "remedy": "Ask for it again. If it happens again, look into the host's log for the cause.",
            "elsewhere": True,
        }
    _reopen(command)
    transition(command, CommandState.RECONCILED, event="command.reconciled", message=verdict.reason, sets=sets)


# --- a person's word -----------------------------------------------------------------------------------------------


def settle(command: Command, judgement: Judgement, note: str, by: str) -> None:
    """Take a person's word for what became of a command; call it with its operation locked, then advance that.

    One whose outcome is not known is settled as if evidence had said so; one that failed where nothing can be given up
    may be ``done`` only: its state stays, its outcome counts.
    """
    reason = f"{by} settled it as {judgement}: {note}"
    stored = {"status": "person", "by": by, "verdict": judgement, "reason": note, "at": timezone.now().isoformat()}
    if command.state == CommandState.RECONCILE_FAILED:
        verdict = bound_redo(
            Verdict(judgement, reason),
            attempt=command.attempt,
            max_attempts=command.attempt + 1,
            cancel_requested=command.cancel_requested_at is not None,
        )
        (_redo if verdict.judgement is Judgement.REDO else _end)(command, verdict, stored)
        return
    Command.objects.filter(pk=command.pk).update(outcome=Outcome.DONE, evidence=stored)
    events.record("command.settled", command, reason)


# --- the sweep -----------------------------------------------------------------------------------------------------


def unanswered(now: datetime) -> Iterable[Command]:
    """Commands whose question got no answer within its grace."""
    due = open_questions().filter(probed_at__lt=now - _grace())
    return due.select_related("agent")[:_BATCH]


def give_up_question(command: Command) -> None:
    """To be asked again; a question to a host that cannot answer now costs no attempt."""
    sets: dict[str, Any] = {}
    if not may_ask(command.agent):
        command.reconcile_attempts = sets["reconcile_attempts"] = max(command.reconcile_attempts - 1, 0)
    with transaction.atomic():
        locked(command.operation_id)
        where = {"probe_id": command.probe_id, "probed_at": command.probed_at}
        _leave_open(command, "the agent did not answer the probe", sets, where)
        if command.state == CommandState.RECONCILE_FAILED:
            advance(command.operation_id)


def _grace() -> timedelta:
    return min(_GRACE, timedelta(seconds=3 * settings_rows.get("reconcile.commands.interval")))


def overdue(now: datetime) -> Iterable[Command]:
    """Commands past their deadline, which counts from STARTED to the end."""
    running = (CommandState.STARTED, CommandState.PROCESSING)
    return Command.objects.filter(state__in=running, deadline_at__lt=now)[:_BATCH]


def time_out(command: Command) -> None:
    """From now on its outcome is in doubt."""
    where = {"deadline_at": command.deadline_at, "attempt": command.attempt}
    message = "no end within its deadline"
    transition(
        command, CommandState.TIMED_OUT, event="command.timed_out", message=message, where=where, level="warning"
    )


def overdue_in_queue(now: datetime) -> Iterable[Command]:
    """Commands whose attempt waited too long to be started, and which were not cancelled for it yet."""
    limit = now - timedelta(seconds=settings_rows.get("command.queue.deadline"))
    waiting = (CommandState.CREATED, CommandState.SENT, CommandState.QUEUED)
    late = Q(attempts__number=F("attempt"), attempts__created_at__lt=limit)
    return Command.objects.filter(late, state__in=waiting, cancel_requested_at=None).select_related("agent")[:_BATCH]
