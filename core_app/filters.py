"""Filters of lists by field. Unknown parameters are refused: a typo must not return, or delete, everything."""

from collections.abc import Collection
from typing import Any, ClassVar

import django_filters
from django.db import models
from django.db.models import QuerySet
from django_filters.rest_framework import DjangoFilterBackend, FilterSet
from rest_framework.request import Request

from core_app.pagination import refused


class FieldFilterSet(FilterSet):  # type: ignore[misc]  # untyped
    """References are filtered by id, with no look whether the id exists: it may be another account's."""

    class Meta:
        filter_overrides: ClassVar[dict[Any, dict[str, Any]]] = {
            models.ForeignKey: {"filter_class": django_filters.UUIDFilter},
            models.OneToOneField: {"filter_class": django_filters.UUIDFilter},
        }


class FieldFilter(DjangoFilterBackend):  # type: ignore[misc]  # untyped
    """Filters lists by the view's ``filterset_fields`` or ``filterset_class``; objects by id are not filtered."""

    filterset_base = FieldFilterSet

    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: Any) -> QuerySet[Any]:
        if view.action != "list":
            return queryset
        filtered: QuerySet[Any] = super().filter_queryset(request, queryset, view)
        return filtered

    def names(self, view: Any) -> set[str]:
        """The parameters that this view's list is filtered by."""
        filterset = self.get_filterset_class(view, view.get_queryset())
        return set(filterset.base_filters) if filterset else set()


def refuse_unknown(request: Request, known: Collection[str]) -> None:
    """Raises InvalidInput for the first query parameter that is not among the known."""
    for name in request.query_params:
        if name not in known:
            raise refused(name, f"it is not known here; known: {', '.join(sorted(known)) or 'none'}")
