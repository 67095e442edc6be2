"""The sweeps' rows in the scheduler's tables follow the settings of the same meaning."""

from typing import Any

from django_celery_beat.models import IntervalSchedule, PeriodicTask

TASK_BY_SETTING = {"reconcile.commands.interval": "operations.sweep", "ping.interval": "operations.watch"}
LONGEST_EXACT_SECONDS = 2000


def follow_setting(name: str, value: Any, **_signal: Any) -> None:
    """Receiver of ``setting_changed``: an interval takes effect on the schedule at once."""
    task = TASK_BY_SETTING.get(name)
    if task is None:
        return
    interval, _ = IntervalSchedule.objects.get_or_create(**_interval(float(value)))
    for row in PeriodicTask.objects.filter(name=task):
        row.interval = interval
        row.save()  # its save() is what tells a running beat


def _interval(seconds: float) -> dict[str, Any]:
    """As the scheduler's rows have it: a 32-bit number, so that only a short one can be exact to the millisecond."""
    if seconds < LONGEST_EXACT_SECONDS:
        return {"every": max(1, round(seconds * 1000)) * 1000, "period": IntervalSchedule.MICROSECONDS}
    return {"every": round(seconds), "period": IntervalSchedule.SECONDS}
