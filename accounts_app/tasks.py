"""Celery tasks of this room: three lines each."""

from celery import shared_task

from accounts_app import limits


@shared_task(name="accounts.check_limits", queue="control")
def check_limits() -> None:
    limits.check()
