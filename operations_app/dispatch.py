"""Putting messages on the broker. What gets lost is found by a ping or a sweep, so a failure here is only logged."""

import logging
from collections.abc import Iterable, Sequence
from functools import lru_cache
from uuid import UUID

from celery import current_app as app
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from agents.protocol.kinds import KINDS, Data
from agents.protocol.messages import Cancel, Envelope, Probe, command_queue, control_queue
from agents.protocol.states import CommandState
from core_app.transitions import transition
from infra_app.models import Agent
from operations_app.models import Attempt, Command, Operation

logger = logging.getLogger("cloudctl.dispatch")

BATCH = 1000
REMOVING_KINDS = ("volume.remove", "template.remove")


@lru_cache(maxsize=4096)
def _queue(name: str) -> Queue:
    """By the default exchange, so that nothing has to be bound again after the broker lost everything."""
    return Queue(name, Exchange(""), routing_key=name)


def publish_after_commit(command_ids: Sequence[UUID]) -> None:
    """Ring the bell for new commands once their rows are there."""
    if command_ids:
        transaction.on_commit(lambda: publish(command_ids), robust=True)


def publish(command_ids: Iterable[UUID]) -> None:
    """Send what may be sent now: to agents that are up; where deleting is suspended, nothing that deletes by itself."""
    _publish_all(Command.objects.filter(pk__in=list(command_ids)))


def publish_waiting() -> None:
    """Send the oldest of what was never sent and may be."""
    _publish_all(Command.objects.filter(state=CommandState.CREATED))


def _publish_all(commands: QuerySet[Command]) -> None:
    for command in commands.filter(_sendable()).select_related("agent").order_by("seq")[:BATCH]:
        if _mark_sent(command) and not _send(command):
            return


def _sendable() -> Q:
    deletes_by_itself = Q(
        agent__zone__deletions_suspended=True, kind__in=REMOVING_KINDS, direction=Operation.Direction.UNDO
    )
    open_states = [CommandState.CREATED, CommandState.SENT]
    return Q(agent__state=Agent.State.UP, agent__ahead=False, state__in=open_states) & ~deletes_by_itself


def _mark_sent(command: Command) -> bool:
    """Written before the message goes out: a row that says CREATED was certainly never published."""
    with transaction.atomic():
        won = _move_to_sent(command)
        if won:
            Attempt.objects.filter(command=command, number=command.attempt).update(
                times_sent=F("times_sent") + 1, epoch=command.agent.epoch
            )
    return won


def _move_to_sent(command: Command) -> bool:
    now = timezone.now()
    if command.state == CommandState.CREATED:
        where = {"attempt": command.attempt}
        return transition(command, CommandState.SENT, event="command.sent", sets={"sent_at": now}, where=where)
    again = Command.objects.filter(pk=command.pk, attempt=command.attempt, state=CommandState.SENT)
    return bool(again.update(sent_at=now))


def _send(command: Command) -> bool:
    agent = command.agent
    envelope = Envelope(
        command_id=str(command.pk),
        attempt=command.attempt,
        kind=command.kind,
        epoch=agent.epoch,
        seq=command.seq,
        floor=agent.floor,
        lane=command.lane,
        payload=command.payload,
        sealed=command.sealed,
    )
    return _publish(KINDS[command.kind].task_name, envelope, command_queue(str(agent.pk)), str(command.pk))


def send_control(agent: Agent, name: str, message: Data, about: str = "") -> bool:
    """Send ``agents.control.<name>``. False when the broker cannot be reached."""
    return _publish(f"agents.control.{name}", message, control_queue(str(agent.pk)), about or str(agent.pk))


def send_cancel(command: Command) -> bool:
    """Ask the agent to stop a command; it also refuses the command if it comes later."""
    message = Cancel(
        epoch=command.agent.epoch,
        command_id=str(command.pk),
        attempt=command.attempt,
        kind=command.kind,
        seq=command.seq,
    )
    return send_control(command.agent, "cancel", message, str(command.pk))


def send_probe(command: Command) -> bool:
    """Ask the agent what is true about a command."""
    message = Probe(
        epoch=command.agent.epoch,
        probe_id=str(command.probe_id),
        command_id=str(command.pk),
        attempt=command.attempt,
        kind=command.kind,
        seq=command.seq,
        payload=command.payload,
    )
    return send_control(command.agent, "probe", message, str(command.pk))


def _publish(task: str, message: Data, queue: str, about: str) -> bool:
    try:
        with app.producer_or_acquire() as producer:
            # Left to itself it would try for seconds to connect.
            producer.connection.ensure_connection(max_retries=0)
            app.send_task(
                task,
                kwargs={"message": message.model_dump(mode="json")},
                queue=_queue(queue),  # type: ignore[arg-type]  # the stubs know names only
                argsrepr=about,
                kwargsrepr="",
                retry=False,
                ignore_result=True,
                producer=producer,
            )
    except OperationalError as error:
        logger.warning("dispatch.unreachable", extra={"fields": {"task": task, "about": about, "error": str(error)}})
        return False
    return True
