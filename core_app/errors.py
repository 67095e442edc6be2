"""Errors by what a person can do about them.

Each says its cause (what happened), consequence (what that means for the request) and remedy (what to do now), in text
that is safe for users. ``code`` is stable; ``status`` is the HTTP status. Details for operators belong into the log.
The names are states of the world and go without the suffix "Error", as a problem's title does.
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

FieldErrors = Mapping[str, Sequence[str]]


class CloudctlError(Exception):
    """Base of the hierarchy. ``errors`` names fields; ``operation`` is the operation that is in the way, if one is."""

    status = 500
    title = "Internal error"
    default_code = "internal_error"
    retry_after_seconds: int | None = None

    def __init__(  # noqa: PLR0913, PLR0917  (the parts of every problem report, in the order they are read)
        self,
        cause: str,
        consequence: str,
        remedy: str,
        code: str = "",
        errors: FieldErrors | None = None,
        operation: UUID | str | None = None,
    ) -> None:
        super().__init__(f"{cause} {consequence} {remedy}")
        self.cause = cause
        self.consequence = consequence
        self.remedy = remedy
        self.code = code or self.default_code
        self.errors = {field: list(messages) for field, messages in (errors or {}).items()}
        self.operation = str(operation) if operation else None


class InvalidInput(CloudctlError):  # noqa: N818
    """Change the request."""

    status = 400
    title = "Invalid input"
    default_code = "invalid_input"


class NotPermitted(CloudctlError):  # noqa: N818
    """Ask someone who may, or for the right to."""

    status = 403
    title = "Not permitted"
    default_code = "not_permitted"


class NotFound(CloudctlError):  # noqa: N818
    """Look up the id again; it is wrong, gone, or another account's."""

    status = 404
    title = "Not found"
    default_code = "not_found"


class WrongState(CloudctlError):  # noqa: N818
    """Bring the object into another state first."""

    status = 409
    title = "Wrong state"
    default_code = "wrong_state"


class Busy(CloudctlError):  # noqa: N818
    """Wait for ``operation``, or cancel it."""

    status = 409
    title = "Busy"
    default_code = "busy"


class InProgress(CloudctlError):  # noqa: N818
    """Send the same request again in ``retry_after_seconds``."""

    status = 409
    title = "In progress"
    default_code = "in_progress"
    retry_after_seconds = 1


class KeyReused(CloudctlError):  # noqa: N818
    """Make a new key for each new request."""

    status = 422
    title = "Key reused"
    default_code = "idempotency_key_reused"


class LimitExceeded(CloudctlError):  # noqa: N818
    """Free something of the account's own, or have its limit raised."""

    status = 409
    title = "Limit exceeded"
    default_code = "limit_exceeded"


class NoRoom(CloudctlError):  # noqa: N818
    """Free or add capacity, or choose another place."""

    status = 409
    title = "No room"
    default_code = "no_room"


class Unavailable(CloudctlError):  # noqa: N818
    """Try again later; a part that is needed does not answer."""

    status = 503
    title = "Unavailable"
    default_code = "unavailable"
