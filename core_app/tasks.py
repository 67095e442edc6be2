"""Celery tasks of this room: three lines each."""

from celery import shared_task

from core_app import idempotency


@shared_task(name="core.forget_answers", queue="control")
def forget_answers() -> None:
    idempotency.forget_old()
