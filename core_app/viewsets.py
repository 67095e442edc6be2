"""What the views of all rooms have in common."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from django.http import HttpResponseBase
from rest_framework import mixins, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from core_app import idempotency, pagination, polling
from core_app.filters import FieldFilter, refuse_unknown


class RoomViewSet(viewsets.GenericViewSet[Any]):
    """Base of every view set: ids are UUIDs, unknown query parameters are refused.

    ``query_parameters`` names what an action takes beside a list's own: ``{"destroy": {"dry_run"}}``.
    ``answers_with_secrets``: its answers are for the user who asked alone, not for others of the account.
    ``writable_by_users``: users may call the writing actions too, or those that it names, on what their account sees.
    ``operators_only``: nobody who sees but an account's objects may call any.
    """

    lookup_value_regex = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    ordering = "-created_at"
    ordering_fields: ClassVar[Collection[str]] = ()
    query_parameters: ClassVar[Mapping[str, Collection[str]]] = {}
    writable_by_users: ClassVar[bool | Collection[str]] = False
    operators_only = False
    answers_with_secrets = False
    post: Callable[..., Any]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        known = set(self.query_parameters.get(self.action or "", ()))
        if self.action == "list" and self.pagination_class is not None:
            known |= {*pagination.PARAMETERS, *FieldFilter().names(self)}
        refuse_unknown(request, known)
        if request.method == "POST" and idempotency.HEADER in request.headers and request.user.is_authenticated:
            # REST framework looks for the method's handler when this is done.
            scope = self._sharing_keys(request)
            self.post = partial(idempotency.answer_once, self.post, self.handle_exception, scope)

    def _sharing_keys(self, request: Request) -> str:
        account_id = getattr(request.user, "account_id", None)
        return str(request.user.pk if self.answers_with_secrets or account_id is None else account_id)


class ReadViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, RoomViewSet):
    """Lists and details of rows: filtered, ordered, in pages, and only those that the user may see."""


class PolledViewSet(ReadViewSet):
    """What programs poll: an unchanged list or object is 304, without being rendered."""

    def list(self, request: Request, *args: Any, **kwargs: Any) -> HttpResponseBase:  # type: ignore[override]
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        return self.answer_page(request, page or [])

    def answer_page(self, request: Request, page: Sequence[Any]) -> HttpResponseBase:
        """A page of the view's serializer, or 304."""

        def render() -> Response:
            return self.get_paginated_response(self.get_serializer(page, many=True).data)

        links = (getattr(self.paginator, "has_next", None), getattr(self.paginator, "has_previous", None))
        return polling.answer(request, page, render, links=links)

    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> HttpResponseBase:  # type: ignore[override]
        row = self.get_object()
        return polling.answer(request, [row], lambda: Response(self.get_serializer(row).data))
