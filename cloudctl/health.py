"""``/livez``: the process answers. ``/readyz``: it can work, or why not."""

from collections.abc import Callable

from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse
from kombu.exceptions import KombuError

from agents.common.broker import CONNECT_SECONDS
from agents.common.version import own_version
from cloudctl.celery import app


def livez(_request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "alive"})


def readyz(_request: HttpRequest) -> JsonResponse:
    """200, or 503 with a reason for each part that does not answer. No addresses: they may hold passwords."""
    reasons = {part: reason for part, check in CHECKS.items() if (reason := check())}
    state = {"status": "not ready" if reasons else "ready", "reasons": reasons, "version": own_version()}
    return JsonResponse(state, status=503 if reasons else 200)


def _database() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        return f"The database does not answer ({type(error).__name__})."
    return ""


def _broker() -> str:
    with app.connection_for_write() as broker:
        try:
            broker.ensure_connection(max_retries=1, timeout=CONNECT_SECONDS)
        except KombuError as error:
            return f"The broker does not answer ({type(error).__name__})."
    return ""


CHECKS: dict[str, Callable[[], str]] = {"database": _database, "broker": _broker}
