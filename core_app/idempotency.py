"""``Idempotency-Key``: a POST that is repeated with the same key has its effect once, and each time the first answer.

The answer is a row in the transaction of what it tells of, so that whatever dies in between leaves both or neither. A
repeat that comes while the first request still works is told to wait: PostgreSQL says so at once by an advisory lock;
on SQLite, where one transaction writes at a time, it is the database that lets it wait, and it gets the first answer.
"""

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db import connection, transaction
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from core_app.errors import InProgress, InvalidInput, KeyReused
from core_app.models import IdempotencyKey
from core_app.sealing import decrypt_at_rest, encrypt_at_rest

HEADER = "Idempotency-Key"
KEPT_FOR = timedelta(hours=24)
KEY_LENGTH = 255
_KEPT_HEADERS = ("Location",)

Handler = Callable[..., Response]


def answer_once(
    handler: Handler, refuse: Callable[[Exception], Response], scope: str, request: Request, *args: Any, **kwargs: Any
) -> HttpResponseBase:
    """The answer of ``handler``, or that which it gave before for the request's key. 5xx are not kept.

    ``refuse`` makes an answer of what the handler raises; ``scope`` is who shares keys. Raises InvalidInput for a key
    that is none, KeyReused (422), InProgress (409).
    """
    key = _key_of(request)
    digest = _digest(request.META.get("QUERY_STRING", ""), request.data)
    with transaction.atomic():
        _claim(scope, request.path, key)
        rows = IdempotencyKey.objects.filter(scope=scope, path=request.path, key=key)
        rows.filter(created_at__lt=timezone.now() - KEPT_FOR).delete()
        known = rows.first()
        if known:
            return _first_answer(known, digest)
        response = _answer(handler, refuse, request, *args, **kwargs)
        if response.status_code >= 500:
            transaction.set_rollback(True)
        else:
            _keep(IdempotencyKey(scope=scope, path=request.path, key=key, digest=digest), response)
    return response


def forget_old() -> None:
    """Delete answers that are not kept any longer."""
    IdempotencyKey.objects.filter(created_at__lt=timezone.now() - KEPT_FOR).delete()


def _key_of(request: Request) -> str:
    key = request.headers[HEADER].strip()
    if not key or len(key) > KEY_LENGTH or not key.isprintable():
        raise InvalidInput(
            f"The header {HEADER} is empty, too long or not text.",
            "Nothing was done.",
            f"Send 1 to {KEY_LENGTH} printable characters, such as a UUID.",
            code="invalid_idempotency_key",
        )
    return key


def _digest(query: str, body: Any) -> str:
    """Of what is asked for, however its JSON is written."""
    text = json.dumps([query, body], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _claim(*parts: str) -> None:
    """Hold the key until the transaction ends, or raise InProgress."""
    if connection.vendor != "postgresql":
        return
    number = int.from_bytes(hashlib.sha256("\n".join(parts).encode()).digest()[:8], signed=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [number])
        (held,) = cursor.fetchone()
    if not held:
        raise InProgress(
            f"The first request with this {HEADER} is still being answered.",
            "This one was not begun.",
            "Send it again as Retry-After says: it gets the first one's answer.",
        )


def _answer(
    handler: Handler, refuse: Callable[[Exception], Response], request: Request, *args: Any, **kwargs: Any
) -> Response:
    try:
        with transaction.atomic():
            return handler(request, *args, **kwargs)
    except Exception as error:  # noqa: BLE001  (it raises again what it has no answer to)
        return refuse(error)


def _keep(row: IdempotencyKey, response: Response) -> None:
    """An answer may hold a secret that is shown once, so it is encrypted."""
    row.status = response.status_code
    # What is not rendered yet has no Content-Type of its own.
    row.headers = {"Content-Type": response.content_type or JSONRenderer.media_type}
    row.headers |= {name: response[name] for name in _KEPT_HEADERS if name in response}
    row.body = encrypt_at_rest(JSONRenderer().render(response.data).decode())
    row.save(force_insert=True)


def _first_answer(known: IdempotencyKey, digest: str) -> HttpResponse:
    if known.digest != digest:
        raise KeyReused(
            f"This {HEADER} was used for another request to this path.",
            "Nothing was done.",
            "Make a new key for each new request.",
        )
    return HttpResponse(decrypt_at_rest(known.body), status=known.status, headers=known.headers)
