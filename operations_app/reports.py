"""What agents say: hello, pings, reports. Each is applied entry by entry, each entry in a transaction of its own.

An entry that comes by ping counts as one that comes by report. Applying anything twice changes nothing.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Max, Min
from django.utils import timezone

from agents.protocol.messages import Acknowledge, Configuration, Hello, JournalEntry, Ping, PoolInfo, Reports, Welcome
from agents.protocol.states import AGENT_FINAL, COMMAND_FINAL, COMMAND_OPEN, AgentState, CommandState
from core_app import events, settings_rows
from core_app.transitions import transition
from infra_app import actions as infra
from infra_app.models import Agent, StoragePool
from operations_app import dispatch, reconciliation, registry
from operations_app.models import Attempt, Command, Operation
from operations_app.rules import OperationState, Reading, add_up, read_entry
from operations_app.workflow import advance, locked

logger = logging.getLogger("cloudctl.reports")

SENDS = 10
_NOT_HEARD_OF = (CommandState.CREATED, CommandState.SENT)
_ON_AGENT = (CommandState.QUEUED, CommandState.STARTED, CommandState.PROCESSING)


# --- the three messages --------------------------------------------------------------------------------------------


def hello(message: Hello) -> None:
    """An agent has started: take its epoch, tell it what it must know, settle what its death left open."""
    begun = timezone.now()
    answer = infra.record_hello(message)
    agent = Agent.objects.select_related("zone").filter(pk=message.agent_id).first()
    if agent is None:
        _refuse_unknown(message, answer.reason)
        return
    dispatch.send_control(agent, "welcome", _welcome(agent, message, answer.accepted, answer.reason))
    if not answer.accepted:
        return
    _take_entries(agent, message.entries)
    _resend_cancels(agent)
    listed = _listed(message.entries)
    missing = [command for command in _open_commands(agent) if (str(command.pk), command.attempt) not in listed]
    for command in missing:
        if command.state in _ON_AGENT:
            _interrupt(command, "the agent started again and its journal does not have the command")
    dispatch.publish([command.pk for command in missing if command.state in _NOT_HEARD_OF])
    # A question to the agent's earlier life has no answer; the others are in doubt since before.
    reconciliation.ask_all(reconciliation.open_questions().filter(agent=agent, probed_at__lt=begun))
    reconciliation.ask_all(reconciliation.askable().filter(agent=agent))
    _acknowledge(agent, message.entries)


def ping(message: Ping) -> None:
    """Compare what the agent has with what it should have, and answer with acknowledgements and its configuration."""
    if not infra.record_ping(message):
        return
    agent = Agent.objects.select_related("zone").get(pk=message.agent_id)
    _consume(_notice_corrupt, agent, message)
    _take_entries(agent, message.entries, message.facts_begun)
    _resend_cancels(agent)
    _find_lost(agent, _listed(message.entries))
    for consume in registry.ping_consumers:
        _consume(consume, agent, message)
    _acknowledge(agent, message.entries)
    dispatch.send_control(agent, "configure", _configuration(agent))


def reports(message: Reports) -> None:
    """Take news of commands."""
    agent = Agent.objects.select_related("zone").get(pk=message.agent_id)
    # Looks are counted anew in each epoch: an earlier one's number would outrank looks that are yet to come.
    _apply_all(agent, message.entries, message.facts_begun if message.epoch == agent.epoch else 0)
    stale = [UUID(command_id) for command_id, _attempt in message.stale]
    if stale and message.epoch == agent.epoch:
        dispatch.publish(stale)
    _acknowledge(agent, message.entries)


def _consume(consume: registry.PingConsumer, agent: Agent, message: Ping) -> None:
    """One consumer's trouble stops neither the others nor the acknowledgements."""
    try:
        consume(agent, message)
    except Exception:
        logger.exception("ping.not_consumed", extra={"fields": {"agent": str(agent.pk), "consumer": str(consume)}})


def _refuse_unknown(message: Hello, reason: str) -> None:
    refusal = Welcome(
        accepted=False,
        reason=reason,
        epoch=message.epoch,
        epoch_floor=0,
        floor=0,
        ping_interval_seconds=settings_rows.get("ping.interval"),
    )
    dispatch.send_control(Agent(pk=UUID(message.agent_id)), "welcome", refusal)


def _welcome(agent: Agent, message: Hello, accepted: bool, reason: str) -> Welcome:
    return Welcome(
        accepted=accepted,
        reason=reason,
        epoch=message.epoch,
        epoch_floor=agent.epoch,
        floor=_floor(agent),
        ping_interval_seconds=settings_rows.get("ping.interval"),
        pools=_pools(agent),
    )


def _configuration(agent: Agent) -> Configuration:
    return Configuration(
        epoch=agent.epoch, ping_interval_seconds=settings_rows.get("ping.interval"), pools=_pools(agent)
    )


def _pools(agent: Agent) -> tuple[PoolInfo, ...]:
    pools = StoragePool.objects.filter(zone=agent.zone_id).exclude(type="local") | StoragePool.objects.filter(
        host=agent.pk
    )
    return tuple(PoolInfo(pool_id=str(pool.pk), path=pool.path) for pool in pools)


# --- one entry -----------------------------------------------------------------------------------------------------


def _take_entries(agent: Agent, entries: Sequence[JournalEntry], facts_begun: int = 0) -> None:
    """All that an agent has in its journal, so that also what it should not have is seen."""
    _notice_ahead(agent, entries)
    _apply_all(agent, entries, facts_begun)


def _apply_all(agent: Agent, entries: Sequence[JournalEntry], facts_begun: int = 0) -> None:
    """One entry's trouble never stops the others."""
    for entry in _news(agent, entries):
        try:
            apply_entry(agent, entry, facts_begun)
        except Exception as error:
            logger.exception("report.failed", extra={"fields": {"command": entry.command_id}})
            text = f"what {agent} says of command {entry.command_id} cannot be applied: {type(error).__name__}"
            events.alarm_once("command.report_failed", agent, text)


def _news(agent: Agent, entries: Sequence[JournalEntry]) -> list[JournalEntry]:
    """Entries that change something. Most of a ping's change nothing, and so cost no transaction."""
    fields = ("pk", "state", "attempt", "outcome", "progress")
    rows = {str(row["pk"]): row for row in Command.objects.filter(agent=agent, pk__in=_ids(entries)).values(*fields)}
    return [entry for entry in entries if entry.command_id in rows and _is_news(rows[entry.command_id], entry)]


def _is_news(row: Mapping[str, Any], entry: JournalEntry) -> bool:
    reading = read_entry(row["state"], row["attempt"], entry.state, entry.attempt, row["outcome"])
    if reading is Reading.PROGRESS:
        return entry.progress is not None and entry.progress.model_dump() != row["progress"]
    return reading is not Reading.OLD


def _ids(entries: Iterable[JournalEntry]) -> set[UUID]:
    """Without what cannot be an id of ours."""
    ids = set()
    for entry in entries:
        with suppress(ValueError):
            ids.add(UUID(entry.command_id))
    return ids


def apply_entry(agent: Agent, entry: JournalEntry, facts_begun: int = 0) -> None:
    """Move a command's row by what its agent says of it, and its workflow with it."""
    found = Command.objects.filter(pk=entry.command_id, agent=agent).values_list("operation_id", flat=True).first()
    if found is None:
        return
    with transaction.atomic():
        operation = locked(found)
        command = Command.objects.select_related("agent").get(pk=entry.command_id)
        command.operation = operation
        if command.state not in COMMAND_FINAL and not reconciliation.has_answer(command, entry):
            entry = entry.model_copy(update={"state": AgentState.INTERRUPTED, "answer": None})
        reading = read_entry(command.state, command.attempt, entry.state, entry.attempt, command.outcome)
        command.facts_begun = facts_begun
        _READERS[reading](command, entry)
        if command.state in COMMAND_FINAL and reading is Reading.MOVE:
            advance(found)
        if command.state == CommandState.INTERRUPTED and reading is Reading.MOVE:
            reconciliation.ask_after_commit(command)


def _move(command: Command, entry: JournalEntry) -> None:
    now = timezone.now()
    sets: dict[str, Any] = {"agent_state": entry.state, "seen_at": now}
    if entry.state in (AgentState.STARTED, AgentState.PROCESSING) and command.deadline_at is None:
        sets |= {"started_at": command.started_at or now, "deadline_at": now + _deadline_of(command.kind)}
    if entry.state in AGENT_FINAL:
        sets |= {"finished_at": now, "answer": entry.answer, "error": _problem(command, entry)}
        sets |= {"facts_begun": command.facts_begun}
    level = "warning" if entry.state in (AgentState.FAILED, AgentState.INTERRUPTED) else "info"
    message = entry.problem.cause if entry.problem else ""
    event = f"command.{entry.state.lower()}"
    moved = transition(
        command, entry.state, event=event, message=message, sets=sets, where={"attempt": entry.attempt}, level=level
    )
    if moved:
        _show_progress(command, entry)


def _progress(command: Command, entry: JournalEntry) -> None:
    Command.objects.filter(pk=command.pk).update(seen_at=timezone.now())
    _show_progress(command, entry)


def _show_progress(command: Command, entry: JournalEntry) -> None:
    """On the command, and with that of the others of its round on the operation."""
    operation = command.operation
    if operation.state == OperationState.PENDING:
        transition(operation, OperationState.RUNNING, event="operation.running", sets={"started_at": timezone.now()})
    if entry.progress is None:
        return
    Command.objects.filter(pk=command.pk).update(progress=entry.progress.model_dump())
    of_round = operation.commands.filter(round=operation.round).order_by("seq").values_list("progress", "state")
    shown = add_up((progress, state in COMMAND_FINAL) for progress, state in of_round)
    Operation.objects.filter(pk=operation.pk).update(progress=shown)


def _old(_command: Command, _entry: JournalEntry) -> None:
    """A duplicate, or one that was overtaken."""


def _disagrees(command: Command, entry: JournalEntry) -> None:
    text = f"the database says {command.state}, the agent {command.agent} says {entry.state}"
    events.alarm_once("command.disagrees", command, text)


def _ahead(command: Command, entry: JournalEntry) -> None:
    text = f"knows attempt {entry.attempt} of command {command.pk}, of which only {command.attempt} were made"
    # Not in this transaction: it has the operation's row, and whoever makes commands locks a zone before that.
    transaction.on_commit(partial(infra.mark_ahead, command.agent, text), robust=True)


_READERS = {
    Reading.MOVE: _move,
    Reading.PROGRESS: _progress,
    Reading.OLD: _old,
    Reading.DISAGREES: _disagrees,
    Reading.AHEAD: _ahead,
}


def _problem(command: Command, entry: JournalEntry) -> dict[str, Any] | None:
    """What the agent says; of a command that was taken back, why it was."""
    if entry.state == AgentState.COMPLETED:
        return None
    return entry.problem.model_dump() if entry.problem else command.error


def _deadline_of(kind: str) -> timedelta:
    """From STARTED to the final answer."""
    return timedelta(seconds=settings_rows.get(f"command.deadline.{kind}"))


# --- comparing -----------------------------------------------------------------------------------------------------


def _open_commands(agent: Agent) -> list[Command]:
    return list(agent.commands.filter(state__in=COMMAND_OPEN).defer("payload", "sealed").order_by("seq"))


def _listed(entries: Iterable[JournalEntry]) -> set[tuple[str, int]]:
    """What the journal has. With an earlier attempt only, it has the command and yet not what was sent."""
    return {(entry.command_id, entry.attempt) for entry in entries}


def _find_lost(agent: Agent, listed: set[tuple[str, int]]) -> None:
    """Commands that should be there and are not: sent again if never begun, in doubt if they were."""
    long_ago = timezone.now() - timedelta(seconds=max(2.0, settings_rows.get("ping.interval")))
    missing = [command for command in _open_commands(agent) if (str(command.pk), command.attempt) not in listed]
    again = [command for command in missing if _is_to_be_sent(command, long_ago)]
    for command in missing:
        if command.state in _ON_AGENT and _before(command.seen_at, long_ago):
            _interrupt(command, "the agent pings, and its journal does not have the command")
    dispatch.publish([command.pk for command in again if not _in_vain(command)])


def _in_vain(command: Command) -> bool:
    """Whether an agent that is up did not take it however often it was sent; then it is asked what it knows of it."""
    often = Attempt.objects.filter(command=command, number=command.attempt, times_sent__gte=SENDS)
    if command.state != CommandState.SENT or not often.exists():
        return False
    _interrupt(command, f"it was sent {SENDS} times, and the agent's journal does not have it")
    return True


def _is_to_be_sent(command: Command, long_ago: datetime) -> bool:
    return command.state == CommandState.CREATED or (
        command.state == CommandState.SENT and _before(command.sent_at, long_ago)
    )


def _before(moment: datetime | None, limit: datetime) -> bool:
    return moment is not None and moment < limit


def _interrupt(command: Command, why: str) -> None:
    with transaction.atomic():
        if transition(command, CommandState.INTERRUPTED, event="command.interrupted", message=why, level="warning"):
            reconciliation.ask_after_commit(command)


def _resend_cancels(agent: Agent) -> None:
    """A cancel that got lost is asked for again as long as the command is open.

    It goes before the command itself if that got lost too, which is still sent: an agent past the point of no return of
    an earlier attempt does not hear the cancel, and has to go forward.
    """
    asked = timezone.now() - timedelta(seconds=1)
    states = {CommandState.SENT, *_ON_AGENT}
    for command in agent.commands.filter(cancel_requested_at__lt=asked, state__in=states).select_related("agent"):
        dispatch.send_cancel(command)


def _acknowledge(agent: Agent, entries: Iterable[JournalEntry]) -> None:
    """Only ids that the database has, and only when they are final here."""
    final = Command.objects.filter(pk__in=_ids(entries), agent=agent, state__in=COMMAND_FINAL)
    message = Acknowledge(
        epoch=agent.epoch, command_ids=tuple(str(pk) for pk in final.values_list("pk", flat=True)), floor=_floor(agent)
    )
    dispatch.send_control(agent, "acknowledge", message)


def _floor(agent: Agent) -> int:
    """The highest sequence number below which all is final. The issued number is read first: a command that is written
    in between has a higher one."""
    issued = Agent.objects.filter(pk=agent.pk).aggregate(issued=Max("last_seq"))["issued"] or 0
    lowest_open = Command.objects.filter(agent=agent, state__in=COMMAND_OPEN).aggregate(low=Min("seq"))["low"]
    floor = issued if lowest_open is None else min(issued, lowest_open - 1)
    if floor > agent.floor:
        Agent.objects.filter(pk=agent.pk, floor__lt=floor).update(floor=floor)
        agent.floor = floor
    return max(floor, agent.floor)


# --- a database older than the world -------------------------------------------------------------------------------


def _notice_ahead(agent: Agent, entries: Iterable[JournalEntry]) -> None:
    ids = Command.objects.filter(pk__in=_ids(entries)).values_list("pk", flat=True)
    known = {str(pk) for pk in ids}
    unknown = [entry.command_id for entry in entries if entry.command_id not in known]
    if unknown:
        infra.mark_ahead(agent, f"has a journal of command {unknown[0]}, which this database never issued")


def _notice_corrupt(agent: Agent, ping: Ping) -> None:
    for name in ping.corrupt_journals:
        text = f"the journal {name} was unreadable and is set aside; its command is settled by evidence"
        events.alarm_once("agent.journal_corrupt", agent, text)
