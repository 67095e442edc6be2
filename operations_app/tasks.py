"""Celery tasks of the management server: three lines each."""

from typing import Any

from celery import shared_task

from agents.protocol.messages import CONTROL_QUEUE, Evidence, Hello, Ping, Reports
from operations_app import reconciliation, reports
from operations_app import sweep as sweeping


@shared_task(name="operations.hello", queue=CONTROL_QUEUE)
def hello(message: dict[str, Any]) -> None:
    reports.hello(Hello.model_validate(message))


@shared_task(name="operations.ping", queue=CONTROL_QUEUE)
def ping(message: dict[str, Any]) -> None:
    reports.ping(Ping.model_validate(message))


@shared_task(name="operations.reports", queue=CONTROL_QUEUE)
def take_reports(message: dict[str, Any]) -> None:
    reports.reports(Reports.model_validate(message))


@shared_task(name="operations.evidence", queue=CONTROL_QUEUE)
def evidence(message: dict[str, Any]) -> None:
    reconciliation.evidence(Evidence.model_validate(message))


@shared_task(name="operations.watch", queue=CONTROL_QUEUE)
def watch() -> None:
    sweeping.watch()


@shared_task(name="operations.sweep", queue=CONTROL_QUEUE)
def sweep() -> None:
    sweeping.sweep()
