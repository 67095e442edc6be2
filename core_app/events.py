"""Events are history and outbox in one: a row in the transaction of the change, and a log line with the same fields."""

import logging
from datetime import timedelta
from functools import partial
from typing import Any

from django.db import models, transaction
from django.utils import timezone

from core_app.models import Event
from core_app.references import reference

logger = logging.getLogger("cloudctl.events")

_LOG_LEVELS = {
    Event.Level.INFO: logging.INFO,
    Event.Level.WARNING: logging.WARNING,
    Event.Level.ERROR: logging.ERROR,
    Event.Level.ALARM: logging.CRITICAL,
}


def record(
    kind: str,
    target: models.Model | None = None,
    message: str = "",
    *,
    level: str = Event.Level.INFO,
    details: dict[str, Any] | None = None,
) -> Event:
    """Write an event. The account is the target's. ``details`` must hold no secrets: they are stored and logged."""
    named = reference(target) if target is not None else {"type": "", "id": "", "name": ""}
    event = Event.objects.create(
        kind=kind,
        level=level,
        account_id=getattr(target, "account_id", None),
        target_type=named["type"],
        target_id=named["id"],
        target_name=named["name"],
        message=message,
        details=details or {},
    )
    fields = {f"target_{key}": value for key, value in named.items()} | {"details": event.details, "text": message}
    log = partial(logger.log, _LOG_LEVELS[Event.Level(level)], kind, extra={"fields": fields})
    transaction.on_commit(log, robust=True)  # what is rolled back did not happen
    return event


def alarm_once(kind: str, target: models.Model, message: str, *, every: timedelta = timedelta(hours=1)) -> Event | None:
    """Write an alarm unless the same one about the same target is younger than ``every``."""
    recent = Event.objects.filter(
        kind=kind, target_id=reference(target)["id"], message=message, created_at__gt=timezone.now() - every
    )
    return None if recent.exists() else record(kind, target, message, level=Event.Level.ALARM)
