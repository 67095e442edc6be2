"""Commands whose outcome is in doubt: ask the agent, judge the evidence, settle.

The sweep, for each command in INTERRUPTED, TIMED_OUT or RECONCILE_RETRY:

1. It is claimed for asking by the guarded move to RECONCILING, with a new probe id; one that asked too often goes to
   RECONCILE_FAILED, and its operation needs attention. A host that cannot be asked costs no attempt.
2. The evidence counts only with that probe id and the agent's present epoch.
3. The kind's rule makes a verdict of it; verdict and evidence are stored on the command and shown.
4. A question that was not answered within the grace becomes RECONCILE_RETRY.
"""

import logging
import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from agents.protocol.kinds import KINDS
from agents.protocol.messages import Evidence, JournalEntry
from agents.protocol.states import AGENT_FINAL, COMMAND_FINAL, CommandState
from core_app import settings_rows
from core_app.transitions import transition
from infra_app.models import Agent
from operations_app import dispatch, registry
from operations_app.models import Attempt, Command, Operation
from operations_app.rules import Judgement, Outcome, Verdict, bound_redo
from operations_app.workflow import advance

logger = logging.getLogger("cloudctl.reconciliation")

ASKABLE = frozenset(
    {CommandState.INTERRUPTED, CommandState.TIMED_OUT, CommandState.RECONCILE_RETRY, CommandState.RECONCILE_FAILED}
)
_GRACE = timedelta(seconds=10)


def ask_all(commands: QuerySet[Command]) -> None:
    """Ask for evidence about each; one row's trouble never stops the round."""
    for command in commands.select_related("agent")[: settings_rows.get("reconcile.commands.workers")]:
        try:
            ask(command)
        except Exception:
            logger.exception("reconcile.failed", extra={"fields": {"command": str(command.pk)}})


def ask(command: Command) -> bool:
    """Send a probe. False when the host cannot be asked now, or when someone else asks."""
    agent = Agent.objects.get(pk=command.agent_id)
    if agent.state not in (Agent.State.UP, Agent.State.MAINTENANCE) or agent.ahead:
        return False
    now = timezone.now()
    if command.state == CommandState.RECONCILING:
        sets: dict[str, Any] = {"probe_id": uuid.uuid4(), "probed_at": now}
        if not Command.objects.filter(pk=command.pk, probe_id=command.probe_id, state=command.state).update(**sets):
            return False
        command.probe_id = sets["probe_id"]
    else:
        sets = {"probe_id": uuid.uuid4(), "probed_at": now, "reconcile_attempts": command.reconcile_attempts + 1}
        if not transition(command, CommandState.RECONCILING, event="command.reconciling", sets=sets):
            return False
    command.agent = agent
    dispatch.send_probe(command)
    return True


def evidence(message: Evidence) -> None:
    """Judge an answer to a probe. Answers to older questions, or from an earlier life of the agent, count nothing."""
    found = (
        Command.objects.filter(pk=message.command_id, agent_id=UUID(message.agent_id)).select_related("agent").first()
    )
    if found is None or found.agent.epoch != message.epoch:
        return
    with transaction.atomic():
        Operation.objects.select_for_update().get(pk=found.operation_id)
        command = Command.objects.select_related("agent").get(pk=found.pk)
        command.facts_begun = message.facts_begun
        if command.state != CommandState.RECONCILING or str(command.probe_id) != message.probe_id:
            return
        _settle(command, message)
        if command.state in COMMAND_FINAL or command.state == CommandState.RECONCILE_FAILED:
            advance(command.operation_id)
    dispatch.publish_after_commit([command.pk] if command.state == CommandState.CREATED else [])


def _settle(command: Command, message: Evidence) -> None:
    if message.status == "running":
        _follow(command, message)
    elif message.status == "cannot_tell":
        _again(command, message, message.reason)
    elif message.entry is not None and message.entry.state in AGENT_FINAL and message.entry.attempt == command.attempt:
        _late_answer(command, message, message.entry)
    else:
        _apply_verdict(command, message, _verdict(command, message))


def _verdict(command: Command, message: Evidence) -> Verdict:
    evidence_model = KINDS[command.kind].evidence.model_validate(message.evidence or {})
    return bound_redo(
        registry.judge(command.kind, command.payload, evidence_model),
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
    sets = {
        "evidence": _stored(message, "follow", message.reason or "it runs"),
        "deadline_at": timezone.now() + timedelta(seconds=settings_rows.get(f"command.deadline.{command.kind}")),
        "seen_at": timezone.now(),
        "reconcile_attempts": max(command.reconcile_attempts - 1, 0),
    }
    transition(command, CommandState.PROCESSING, event="command.followed", message=message.reason, sets=sets)


def _again(command: Command, message: Evidence, reason: str) -> None:
    """Cannot tell yet: touch nothing; a person is asked when this was so too often."""
    sets = {"evidence": _stored(message, "retry", reason)}
    if command.reconcile_attempts >= settings_rows.get("reconcile.commands.max.attempts"):
        event = "command.reconcile_failed"
        transition(command, CommandState.RECONCILE_FAILED, event=event, message=reason, sets=sets, level="alarm")
        return
    transition(command, CommandState.RECONCILE_RETRY, event="command.reconcile_retry", message=reason, sets=sets)


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
    sets = {"attempt": command.attempt + 1, "sent_at": None, "deadline_at": None, "evidence": stored, "agent_state": ""}
    where = {"attempt": command.attempt}
    event = "command.redo"
    if transition(command, CommandState.CREATED, event=event, message=verdict.reason, sets=sets, where=where):
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
            "consequence": "It was not done; what it left behind is removed.",
            "remedy": "Ask for it again. If it happens again, look into the host's log for the cause.",
            "elsewhere": True,
        }
    transition(command, CommandState.RECONCILED, event="command.reconciled", message=verdict.reason, sets=sets)


# --- the sweep -----------------------------------------------------------------------------------------------------


def sweep_unanswered(now: datetime) -> None:
    """Questions without an answer are asked again."""
    for command in Command.objects.filter(state=CommandState.RECONCILING, probed_at__lt=now - _grace()):
        message = "the agent did not answer the probe"
        where = {"probe_id": command.probe_id}
        transition(command, CommandState.RECONCILE_RETRY, event="command.reconcile_retry", message=message, where=where)


def _grace() -> timedelta:
    return min(_GRACE, timedelta(seconds=3 * settings_rows.get("reconcile.commands.interval")))


def sweep_overdue(now: datetime) -> None:
    """Deadlines: from STARTED to the end, and of waiting to be started."""
    running = (CommandState.STARTED, CommandState.PROCESSING)
    for command in Command.objects.filter(state__in=running, deadline_at__lt=now):
        message = "no end within its deadline"
        transition(command, CommandState.TIMED_OUT, event="command.timed_out", message=message, level="warning")


def overdue_in_queue(now: datetime) -> Iterable[Command]:
    """Commands that waited too long to be started, and were not cancelled for it yet."""
    limit = now - timedelta(seconds=settings_rows.get("command.queue.deadline"))
    waiting = (CommandState.CREATED, CommandState.SENT, CommandState.QUEUED)
    return Command.objects.filter(state__in=waiting, created_at__lt=limit, cancel_requested_at=None)
