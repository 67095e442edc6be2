"""What this room compares in each round of the sweep."""

import logging
from datetime import timedelta

from django.utils import timezone

from compute_app.actions import vm_expunge_overdue, vm_restart_after_boot
from compute_app.models import VM
from core_app import settings_rows
from core_app.errors import CloudctlError

logger = logging.getLogger("cloudctl.sweep")

BATCH = 100


def expunge_destroyed() -> None:
    """Expunge VMs that were destroyed longer ago than the setting ``expunge.delay`` and that nobody recovered."""
    limit = timezone.now() - timedelta(seconds=settings_rows.get("expunge.delay"))
    due = VM.objects.filter(state=VM.State.DESTROYED, destroyed_at__lt=limit, zone__deletions_suspended=False)
    for vm in due.order_by("destroyed_at")[:BATCH]:
        try:
            vm_expunge_overdue(vm, limit)
        except CloudctlError as error:
            # Somebody was quicker, or holds it: the next round sees.
            logger.info("expunge.not_now", extra={"fields": {"vm": str(vm.pk), "reason": str(error)}})


def restart_after_boot() -> None:
    """Start VMs again that a boot of their host stopped and whose restart was noted and not begun."""
    for vm in VM.objects.filter(restart_due=True).order_by("pk")[:BATCH]:
        vm_restart_after_boot(vm)
