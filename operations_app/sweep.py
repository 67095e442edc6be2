"""What beat asks for: comparing what should be with what is. Harmless when run twice at once."""

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from django.db.models import Case, F, Value, When
from django.utils import timezone

from agents.protocol.states import COMMAND_OPEN, CommandState
from core_app import settings_rows
from infra_app import actions as infra
from infra_app.models import Agent
from operations_app import actions, dispatch, reconciliation
from operations_app.models import Command, ControlPulse, Operation, Waiter
from operations_app.rules import OPERATION_FINAL, OperationState
from operations_app.workflow import advance, retry_round

logger = logging.getLogger("cloudctl.sweep")

T = TypeVar("T")


def watch() -> None:
    """Each ping interval: note that ``control`` is being consumed, and judge who has been silent since it is."""
    interval = timedelta(seconds=settings_rows.get("ping.interval"))
    now = timezone.now()
    resumed = Case(When(last_at__lt=now - 2 * interval, then=Value(now)), default=F("resumed_at"))
    if not ControlPulse.objects.filter(pk=1).update(resumed_at=resumed, last_at=now):
        ControlPulse.objects.get_or_create(pk=1, defaults={"last_at": now, "resumed_at": now})
    resumed_at = ControlPulse.objects.get(pk=1).resumed_at
    limit = now - 3 * interval
    if resumed_at < limit:
        infra.mark_silent(limit)


def sweep() -> None:
    """Each reconcile interval: everything that a lost message, a dead worker or a restart may have left standing."""
    for part in (_publish_waiting, _settle_waiters, _end_overdue, _reconcile, _retry):
        try:
            part()
        except Exception:
            logger.exception("sweep.failed", extra={"fields": {"part": part.__name__}})


def _publish_waiting() -> None:
    waiting = Command.objects.filter(state=CommandState.CREATED, agent__state=Agent.State.UP).order_by("seq")
    dispatch.publish(waiting.values_list("pk", flat=True)[:1000])


def _settle_waiters() -> None:
    over = Waiter.objects.filter(awaited__state__in=OPERATION_FINAL).values_list("operation_id", flat=True)
    _each(advance, list(over[:1000]))
    unwanted = Operation.objects.filter(
        state__in=(OperationState.PENDING, OperationState.RUNNING),
        data__for_waiters=True,
        cancel_requested_at=None,
        waiters=None,
    )
    _each(actions.cancel_if_unwanted, list(unwanted.values_list("pk", flat=True)[:1000]))


def _end_overdue() -> None:
    now = timezone.now()
    reconciliation.sweep_overdue(now)
    _each(actions.request_cancel, list(reconciliation.overdue_in_queue(now)))


def _reconcile() -> None:
    if not settings_rows.get("reconcile.commands.enabled"):
        return
    reconciliation.sweep_unanswered(timezone.now())
    reconciliation.ask_all(Command.objects.filter(state__in=reconciliation.ASKABLE).order_by("probed_at"))


def _retry() -> None:
    stuck = Operation.objects.filter(state=OperationState.NEEDS_ATTENTION)
    _each(retry_round, list(stuck.values_list("pk", flat=True)[:1000]))
    still = Operation.objects.filter(state__in=(OperationState.PENDING, OperationState.RUNNING))
    idle = still.exclude(commands__state__in=COMMAND_OPEN).filter(waits_for=None)
    _each(advance, list(idle.values_list("pk", flat=True)[:1000]))


def _each(do: Callable[[T], object], items: list[T]) -> None:
    """One row's trouble never stops the round."""
    for item in items:
        try:
            do(item)
        except Exception:
            logger.exception("sweep.row_failed", extra={"fields": {"row": str(item)}})
