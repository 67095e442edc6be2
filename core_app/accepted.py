"""The one answer for work that a host will do: 202, where to watch it, and the operation as it stands."""

from collections.abc import Callable
from typing import Any

from rest_framework import status
from rest_framework.response import Response
from rest_framework.reverse import reverse

_describe: list[Callable[[Any], Any]] = []


def describe_operations_by(describe: Callable[[Any], Any]) -> None:
    """Set what turns an operation into its body; the room of operations calls this once in ``ready()``."""
    _describe[:] = [describe]


class Accepted(Response):
    """202 with ``Location`` of the operation and the operation as body."""

    def __init__(self, operation: Any) -> None:
        (describe,) = _describe
        super().__init__(
            describe(operation),
            status=status.HTTP_202_ACCEPTED,
            headers={"Location": reverse("operation-detail", args=[operation.pk])},
        )
