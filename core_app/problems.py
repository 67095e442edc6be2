"""Every error of the API as RFC 9457 problem details, ``application/problem+json``.

Members: ``type`` (a URI reference, ``/problems/<code>``), ``title``, ``status``, ``detail`` (the whole story in text),
and our own ``cause``, ``consequence``, ``remedy``, ``errors`` (by field, for 400), ``operation`` (what is in the way).
"""

import logging
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from rest_framework import exceptions
from rest_framework.response import Response

from core_app.errors import CloudctlError

logger = logging.getLogger("cloudctl.problems")

CONTENT_TYPE = "application/problem+json"

# By status, for errors that come from the frameworks: title, code, consequence, remedy.
_FRAMEWORK_ERRORS: dict[int, tuple[str, str, str, str]] = {
    400: ("Invalid input", "invalid_input", "Nothing was done.", "Correct the request and send it again."),
    401: (
        "Not authenticated",
        "not_authenticated",
        "Nothing was done.",
        "Send the header Authorization: Token <token> with a token that is valid.",
    ),
    403: ("Not permitted", "not_permitted", "Nothing was done.", "Ask an operator, or use a token of one."),
    404: ("Not found", "not_found", "Nothing was done.", "Check the path and the id; the object may be gone."),
    405: ("Method not allowed", "method_not_allowed", "Nothing was done.", "See /api/docs/ for what this path takes."),
    406: ("Not acceptable", "not_acceptable", "Nothing was done.", "Accept application/json."),
    415: ("Unsupported media type", "unsupported_media_type", "Nothing was done.", "Send application/json."),
    429: ("Too many requests", "too_many_requests", "Nothing was done.", "Wait as Retry-After says, then try again."),
    500: (
        "Internal error",
        "internal_error",
        "What was not answered with success may or may not have been done.",
        "Look at the object's state, then try again; the server's log has the reason.",
    ),
    503: ("Unavailable", "unavailable", "Nothing was done.", "Try again in a minute; /readyz says what is missing."),
}


def problem(status: int, cause: str, **members: Any) -> dict[str, Any]:
    """The body for an error of a framework. ``members`` replace or add members."""
    title, code, consequence, remedy = _FRAMEWORK_ERRORS.get(status, _FRAMEWORK_ERRORS[500])
    return {
        "type": f"/problems/{code}",
        "title": title,
        "status": status,
        "detail": f"{cause} {consequence} {remedy}",
        "cause": cause,
        "consequence": consequence,
        "remedy": remedy,
        **members,
    }


def problem_of(error: CloudctlError) -> dict[str, Any]:
    """The body for one of our own errors."""
    body: dict[str, Any] = {
        "type": f"/problems/{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": str(error),
        "cause": error.cause,
        "consequence": error.consequence,
        "remedy": error.remedy,
    }
    if error.errors:
        body["errors"] = error.errors
    if error.operation:
        body["operation"] = error.operation
    return body


def exception_handler(error: Exception, _context: Mapping[str, Any]) -> Response | None:
    """REST framework's hook. What it does not know goes on to Django, which logs it and calls :func:`server_error`."""
    if isinstance(error, CloudctlError):
        return _response(problem_of(error), _headers(error))
    if isinstance(error, OperationalError):
        logger.error("database.unavailable", exc_info=error)
        return _response(problem(503, "The database did not answer in time."))
    if isinstance(error, Http404):
        error = exceptions.NotFound()
    if isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    if isinstance(error, exceptions.ValidationError):
        return _response(problem(400, "Some fields are not as they must be.", errors=fields_of(error.detail)))
    if isinstance(error, exceptions.APIException):
        return _response(problem(error.status_code, _sentence(error.detail)), _headers(error))
    return None


def fields_of(detail: Any, path: str = "") -> dict[str, list[str]]:
    """REST framework's nested error details, flat: ``disks.0.size_bytes`` → messages. No field: ``request``."""
    if isinstance(detail, Mapping):
        parts = [
            (path if key == "non_field_errors" else f"{path}.{key}".strip("."), part) for key, part in detail.items()
        ]
    elif isinstance(detail, list) and any(isinstance(part, Mapping | list) for part in detail):
        parts = [(f"{path}.{number}".strip("."), part) for number, part in enumerate(detail) if part]
    else:
        messages = detail if isinstance(detail, list) else [detail]
        return {path or "request": [str(message) for message in messages]}
    flat: dict[str, list[str]] = {}
    for name, part in parts:
        flat |= fields_of(part, name)
    return flat


def _headers(error: exceptions.APIException | CloudctlError) -> dict[str, str]:
    headers = {}
    if (seconds := getattr(error, "retry_after_seconds", None)) is not None:
        headers["Retry-After"] = str(seconds)
    if challenge := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    if (wait := getattr(error, "wait", None)) is not None:
        headers["Retry-After"] = str(int(wait) + 1)
    return headers


def _response(body: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(body, status=body["status"], headers=headers, content_type=CONTENT_TYPE)


def _sentence(detail: Any) -> str:
    text = str(detail)
    return text if text.endswith(".") else f"{text}."


def _page(status: int, cause: str) -> HttpResponse:
    return JsonResponse(problem(status, cause), status=status, content_type=CONTENT_TYPE)


# Django's own handlers, for what never reaches a view of REST framework.


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _page(400, "The request cannot be read.")


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _page(403, "This may not be done here.")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _page(404, f"There is nothing at {request.path}.")


def server_error(request: HttpRequest) -> HttpResponse:
    return _page(500, "The server made a mistake.")
