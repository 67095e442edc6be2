"""How much of what an account had, from when to when: the figures that a bill is made of."""

from django.db import models, transaction
from django.utils import timezone

from accounts_app.models import UsageRecord
from core_app.references import reference


def record(kind: str, target: models.Model, *, count: int = 1, size_bytes: int = 0) -> None:
    """From now on ``target`` uses this much; ``count`` 0: nothing more.

    Call it in the transaction that makes it so. What is the same as before goes on as one record. ``target`` has an
    ``account_id``.
    """
    named = reference(target)
    with transaction.atomic():
        going_on = UsageRecord.objects.filter(target_id=target.pk, kind=kind, ended_at=None)
        if going_on.filter(count=count, size_bytes=size_bytes).exists():
            return
        now = timezone.now()
        going_on.update(ended_at=now)
        if count:
            UsageRecord.objects.create(
                kind=kind,
                account_id=target.account_id,  # type: ignore[attr-defined]
                target_type=named["type"],
                target_id=named["id"],
                target_name=named["name"],
                count=count,
                size_bytes=size_bytes,
                created_at=now,
            )
