"""What beat asks for: comparing what should be with what is. Harmless when run twice at once."""

import logging
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TypeVar

from django.db.models import Case, F, Max, Value, When
from django.utils import timezone

from agents.protocol.states import COMMAND_OPEN
from core_app import settings_rows
from core_app.clock import database_now
from infra_app import actions as infra
from operations_app import actions, dispatch, reconciliation, registry
from operations_app.models import ControlPulse, Operation, Waiter
from operations_app.rules import OPERATION_OPEN, OperationState
from operations_app.workflow import advance, retry_round, rounds_of_step

logger = logging.getLogger("cloudctl.sweep")

T = TypeVar("T")
BATCH = 1000
LONGEST_PAUSE = timedelta(hours=1)
_GOING_ON = (OperationState.PENDING, OperationState.RUNNING)


def watch() -> None:
    """Each ping interval: note that ``control`` is being consumed, and judge who has been silent since it is."""
    interval = timedelta(seconds=settings_rows.get("ping.interval"))
    now = database_now()
    resumed = Case(When(last_at__lt=now - 2 * interval, then=Value(now)), default=F("resumed_at"))
    if not ControlPulse.objects.filter(pk=1).update(resumed_at=resumed, last_at=now):
        ControlPulse.objects.get_or_create(pk=1, defaults={"last_at": now, "resumed_at": now})
    resumed_at = ControlPulse.objects.get(pk=1).resumed_at
    limit = now - 3 * interval
    if resumed_at < limit:
        infra.mark_silent(limit)


def sweep() -> None:
    """Each reconcile interval: everything that a lost message, a dead worker or a restart may have left standing."""
    for part in (_end_overdue, dispatch.publish_waiting, _settle_waiters, _reconcile, _go_on, *registry.sweeps):
        try:
            part()
        except Exception:
            logger.exception("sweep.failed", extra={"fields": {"part": part.__name__}})


def _settle_waiters() -> None:
    # Said of what is not open: "is final" makes SQLite walk all operations that ever ended, waited for or not.
    over = Waiter.objects.exclude(awaited__state__in=OPERATION_OPEN)
    _each(advance, over.values_list("operation_id", flat=True)[:BATCH])
    unwanted = Operation.objects.filter(
        state__in=_GOING_ON, data__for_waiters=True, cancel_requested_at=None, waiters=None
    )
    _each(actions.cancel_if_unwanted, unwanted.values_list("pk", flat=True)[:BATCH])


def _end_overdue() -> None:
    now = timezone.now()
    _each(reconciliation.time_out, reconciliation.overdue(now))
    _each(actions.cancel_waiting, reconciliation.overdue_in_queue(now))


def _reconcile() -> None:
    if not settings_rows.get("reconcile.commands.enabled"):
        return
    _each(reconciliation.give_up_question, reconciliation.unanswered(timezone.now()))
    reconciliation.ask_all(reconciliation.askable())


def _go_on() -> None:
    """Operations that nothing moves: what cannot be given up is sent again, what was left between two steps goes on."""
    _each(_retry, Operation.objects.filter(state=OperationState.NEEDS_ATTENTION)[:BATCH])
    idle = Operation.objects.filter(state__in=_GOING_ON, waits_for=None).exclude(commands__state__in=COMMAND_OPEN)
    _each(advance, idle.values_list("pk", flat=True)[:BATCH])


def _retry(operation: Operation) -> None:
    """At once after the first failure, then at ever longer intervals, up to an hour."""
    last = operation.commands.filter(round=operation.round).aggregate(last=Max("finished_at"))["last"]
    interval = timedelta(seconds=settings_rows.get("reconcile.commands.interval"))
    pause = min(interval * (rounds_of_step(operation) - 1), LONGEST_PAUSE)
    if last is None or last + pause <= timezone.now():
        retry_round(operation.pk)


def _each(do: Callable[[T], object], rows: Iterable[T]) -> None:
    """One row's trouble never stops the round."""
    for row in list(rows):
        try:
            do(row)
        except Exception:
            logger.exception("sweep.row_failed", extra={"fields": {"row": str(row)}})
