"""Lists in pages that start after a row, not at a number: fast on a million rows, and stable while rows come.

The order is one field of the row, then its id, so that it is total; the cursor holds both values of the last row seen.
REST framework's own cursor compares one field only and steps over ties by counting, which ends at a thousand equals.
"""

import base64
import json
from collections.abc import Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import Model, Q
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import remove_query_param, replace_query_param
from rest_framework.views import APIView

from core_app.errors import InvalidInput

PAGE_SIZE = 100
PAGE_SIZE_LIMIT = 1000
PARAMETERS = ("cursor", "page_size", "ordering")


class KeysetPagination(BasePagination):
    """``results``, ``next``, ``previous``. The view names its order in ``ordering`` and others in ``ordering_fields``.

    Every such field must be a column that is never null, and should lead an index with the id.
    """

    def paginate_queryset(self, queryset: Any, request: Request, view: APIView | None = None) -> list[Any]:
        self.url = request.build_absolute_uri()
        self.size = _page_size(request.query_params.get("page_size"))
        self.ordering = _ordering(request.query_params.get("ordering"), view)
        field, descending = self.ordering.removeprefix("-"), self.ordering.startswith("-")
        cursor = self._read_cursor(request.query_params.get("cursor"), queryset.model)
        backwards = cursor is not None and cursor["backwards"]
        if cursor:
            queryset = queryset.filter(_beyond(field, cursor["at"], lower=descending != backwards))
        sign = "-" if descending != backwards else ""
        rows = list(queryset.order_by(f"{sign}{field}", f"{sign}pk")[: self.size + 1])
        more = len(rows) > self.size
        self.page = rows[: self.size]
        if backwards:
            self.page.reverse()
        self.has_next = more or backwards
        self.has_previous = more if backwards else cursor is not None
        return self.page

    def get_paginated_response(self, data: Any) -> Response:
        return Response({"next": self._link(forward=True), "previous": self._link(forward=False), "results": data})

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        link = {"type": "string", "format": "uri", "nullable": True}
        return {
            "type": "object",
            "required": ["next", "previous", "results"],
            "properties": {"next": link, "previous": link, "results": schema},
        }

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        fields = [view.ordering.removeprefix("-"), *view.ordering_fields]
        orders = sorted({sign + field for field in fields for sign in ("", "-")})
        return [
            _parameter("cursor", "Where the page starts, from next or previous", {"type": "string"}),
            _parameter("page_size", "Rows a page", {"type": "integer", "minimum": 1, "maximum": PAGE_SIZE_LIMIT}),
            _parameter("ordering", f"Default: {view.ordering}", {"type": "string", "enum": orders}),
        ]

    def _link(self, *, forward: bool) -> str | None:
        if not (self.has_next if forward else self.has_previous):
            return None
        if not self.page:
            return remove_query_param(self.url, "cursor")
        row = self.page[-1 if forward else 0]
        field = row._meta.get_field(self.ordering.removeprefix("-"))
        cursor = {"order": self.ordering, "at": [field.value_to_string(row), str(row.pk)], "backwards": not forward}
        return replace_query_param(self.url, "cursor", base64.urlsafe_b64encode(json.dumps(cursor).encode()).decode())

    def _read_cursor(self, text: str | None, model: type[Model]) -> dict[str, Any] | None:
        if not text:
            return None
        try:
            cursor = json.loads(base64.urlsafe_b64decode(text))
            if cursor["order"] != self.ordering:
                raise ValueError("another order")
            value, pk = cursor["at"]
            field = model._meta.get_field(self.ordering.removeprefix("-"))
            at = (field.to_python(value), model._meta.pk.to_python(pk))  # type: ignore[union-attr]
            return {"at": at, "backwards": bool(cursor["backwards"])}
        except (ValueError, KeyError, TypeError, ValidationError):
            raise refused("cursor", "it is not one that this list gave for this order")


def refused(parameter: str, reason: str) -> InvalidInput:
    """The error for a query parameter that cannot be served."""
    return InvalidInput(
        f"The query parameter {parameter} cannot be used: {reason}.",
        "Nothing was read or done.",
        "See /api/docs/ for the parameters of this path.",
        code="invalid_query",
        errors={parameter: [reason]},
    )


def _page_size(text: str | None) -> int:
    if text is None:
        return PAGE_SIZE
    if not text.isdecimal() or not 1 <= int(text) <= PAGE_SIZE_LIMIT:
        raise refused("page_size", f"it must be a number from 1 to {PAGE_SIZE_LIMIT}")
    return int(text)


def _ordering(text: str | None, view: Any) -> str:
    default: str = view.ordering
    allowed: Sequence[str] = [default.removeprefix("-"), *view.ordering_fields]
    if text is None:
        return default
    if text.removeprefix("-") not in allowed:
        raise refused("ordering", f"it must be one of {', '.join(sorted(allowed))}, or one of them after a minus sign")
    return text


def _beyond(field: str, at: tuple[Any, Any], *, lower: bool) -> Q:
    """Rows beyond (value, id). The first condition alone lets an index do the work."""
    value, pk = at
    side = "lt" if lower else "gt"
    return Q(**{f"{field}__{side}e": value}) & (Q(**{f"{field}__{side}": value}) | Q(**{f"pk__{side}": pk}))


def _parameter(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}
