"""What the admin's pages of all rooms are made of.

A list is Django's change list in unfold's dress. A row's page shows facts and panels, and has a button for each action
that the row's state allows; nothing is written but by a room's actions, so the admin can do what the API can and no
more. Everything works without a script; with one, what stands in the block ``live`` is fetched again every two seconds.
"""

import functools
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from django.contrib import messages
from django.contrib.admin.utils import display_for_field, display_for_value, label_for_field, lookup_field, unquote
from django.core.exceptions import PermissionDenied
from django.db import models
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from rest_framework.serializers import Serializer
from unfold.admin import ModelAdmin
from unfold.paginator import InfinitePaginator

from core_app.console import cells
from core_app.console.forms import ActionForm
from core_app.dry_run import rehearse
from core_app.errors import CloudctlError

Row = Any
Fields = dict[str, Any]


@dataclass(frozen=True)
class Secret:
    """What an action answers that is shown this once."""

    what: str
    text: str


@dataclass(frozen=True)
class Button:
    """An action as people meet it.

    ``takes``: the API's serializer of its fields, ``leaves_out`` those that the form has no use for; ``asks``: what it
    will do, to be confirmed; ``when``: in which states it makes sense (the action itself decides); ``removes``: the row
    is gone then; ``begins``: what the form of a row begins with; ``previews``: describes what the action answered, and
    all is taken back, for people who want to see what it would do.
    """

    name: str
    label: str
    takes: type[Serializer[Any]] | None = None
    leaves_out: Collection[str] = ()
    asks: str = ""
    when: Callable[[Row], bool] = lambda _row: True
    danger: bool = False
    removes: bool = False
    on_list: bool = False
    begins: Callable[[Row], Fields] = lambda _row: {}
    previews: Callable[[Any], dict[str, Any]] | None = None

    @property
    def at_once(self) -> bool:
        """Whether there is nothing to be filled in or confirmed."""
        return self.takes is None and not self.asks


def button(label: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make an admin's method a button of a row's page: ``method(user, row, **fields)``.

    The method calls an action. It may answer the row to go to, or a :class:`Secret`.
    """

    def mark(method: Callable[..., Any]) -> Callable[..., Any]:
        method.button = Button(method.__name__, label, **options)  # type: ignore[attr-defined]
        return method

    return mark


@dataclass(frozen=True)
class Panel:
    """A part of a row's page: a table, or any text."""

    title: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()
    empty: str = "None."
    body: SafeString | None = None
    css: str = ""
    more: tuple[str, str] | None = None
    """Text and address of where there is more."""


@dataclass(frozen=True)
class Fact:
    label: str
    value: object


def problem_message(request: HttpRequest, error: CloudctlError) -> None:
    """Show a refusal at the top of the next page."""
    parts = {"cause": error.cause, "consequence": error.consequence, "remedy": error.remedy}
    text = cells.problem(parts)
    if error.operation:
        text += format_html("<p><b>In the way</b> {}</p>", cells.link_to("operation", error.operation, "the operation"))
    messages.error(request, text)


class RoomAdmin(ModelAdmin):  # type: ignore[misc]  # untyped
    """Lists and pages of one model's rows, to look at, with buttons for those who operate."""

    paginator = InfinitePaginator  # no COUNT(*) over a million rows
    show_full_result_count = False
    list_per_page = 50
    sortable_by = ()
    actions = None
    name_lookup: ClassVar[str] = "name"
    """The field by which people name a row, in forms and searches."""
    name_match: ClassVar[str] = "istartswith"
    ids: ClassVar[Sequence[str]] = ("id",)
    """Fields that a search for an id looks at."""
    facts: ClassVar[Sequence[str]] = ()
    """Fields and methods shown at the top of a row's page."""
    live: ClassVar[bool] = False
    """Whether list and pages are fetched again while they are looked at."""
    _added: ClassVar[dict[type, list[Callable[[Row], Iterable[Panel]]]]] = {}

    change_list_template = "cloudctl/list.html"

    # --- who -------------------------------------------------------------------------------------------------------

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return bool(getattr(request.user, "sees_everything", False))

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    # --- lists -----------------------------------------------------------------------------------------------------

    def get_ordering(self, request: HttpRequest) -> Sequence[str]:
        """Newest first, by the index; no column is sorted by that has none."""
        return self.ordering or ("-created_at", "-pk")

    def get_search_fields(self, request: HttpRequest) -> Sequence[str]:
        return self.search_fields or (self.name_lookup,)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """An id is looked up by its index; anything else is the beginning of a name, or a whole kind."""
        term = search_term.strip()
        if not term:
            return queryset, False
        try:
            pk = uuid.UUID(term)
        except ValueError:
            return queryset.filter(**{f"{self.name_lookup}__{self.name_match}": term}), False
        return queryset.filter(functools.reduce(Q.__or__, (Q(**{name: pk}) for name in self.ids))), False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        extra = {
            "live": self.live and "q" not in request.GET,  # a search reads many rows: once is enough
            "buttons": self._buttons_of(request, None),
            "title": cells.sentence(self.opts.verbose_name_plural),
            **(extra_context or {}),
        }
        response: HttpResponse = super().changelist_view(request, extra)
        return response

    # --- a row's page ----------------------------------------------------------------------------------------------

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method not in {"GET", "HEAD"}:
            return HttpResponseNotAllowed(["GET"])
        row = self.get_object(request, unquote(object_id))
        if row is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)  # type: ignore[no-any-return]
        return self._page(request, "cloudctl/row.html", row, title=str(row))

    def _page(self, request: HttpRequest, template: str, row: Row, **context: Any) -> TemplateResponse:
        request.current_app = self.admin_site.name
        shown = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "row": row,
            "live": self.live,
            "plural": cells.sentence(self.opts.verbose_name_plural),
            "list_url": self._list_url(),
            "row_url": self._page_url(row),
        }
        if row is not None and "form" not in context:
            shown |= {
                "facts": self.facts_of(row),
                "panels": self.panels_of(row),
                "badges": self.badges_of(row),
                "problem": cells.problem(row.error) if getattr(row, "error", None) else "",
                "buttons": self._buttons_of(request, row),
            }
        return TemplateResponse(request, template, shown | context)

    def facts_of(self, row: Row) -> list[Fact]:
        return [
            Fact(cells.sentence(label_for_field(name, self.model, self)), self._cell(row, name)) for name in self.facts
        ]

    def _cell(self, row: Row, name: str) -> object:
        column, _, value = lookup_field(name, row, self)
        if isinstance(value, models.Model):
            return cells.link(value)
        if isinstance(value, bool):
            return "yes" if value else "no"
        if column is None:
            return display_for_value(value, cells.NOTHING)
        return display_for_field(value, column, cells.NOTHING)

    def badges_of(self, row: Row) -> Sequence[SafeString]:
        """What is said beside the title."""
        return [cells.badge(row.state)] if hasattr(row, "state") else []

    def panels(self, row: Row) -> Iterable[Panel]:
        """The parts of the row's page."""
        return ()

    def panels_of(self, row: Row) -> list[Panel]:
        added = self._added.get(type(self), ())
        return [*self.panels(row), *(panel for more in added for panel in more(row))]

    @classmethod
    def add_panels(cls, more: Callable[[Row], Iterable[Panel]]) -> None:
        """Let a later room show what it knows of this room's rows."""
        cls._added.setdefault(cls, []).append(more)

    # --- buttons ---------------------------------------------------------------------------------------------------

    @classmethod
    def buttons(cls) -> dict[str, Button]:
        """By name, in the order in which they are written."""
        members = [member for base in reversed(cls.__mro__) for member in vars(base).values()]
        return {found.name: found for member in members if (found := getattr(member, "button", None))}

    def _buttons_of(self, request: HttpRequest, row: Row | None) -> list[tuple[Button, str]]:
        if not getattr(request.user, "operates", False):
            return []
        return [
            (found, self._url_of(found, row))
            for found in self.buttons().values()
            if found.on_list == (row is None) and (row is None or found.when(row))
        ]

    def _url_of(self, found: Button, row: Row | None) -> str:
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_{found.name}"
        return reverse(name, args=[] if row is None else [row.pk])

    def get_urls(self) -> list[URLPattern]:
        prefix = f"{self.opts.app_label}_{self.opts.model_name}"
        acts = [
            path(
                f"do/{found.name}/" if found.on_list else f"<path:object_id>/do/{found.name}/",
                self.admin_site.admin_view(functools.partial(self._act, found)),
                name=f"{prefix}_{found.name}",
            )
            for found in self.buttons().values()
        ]
        return [*acts, *super().get_urls()]

    def _act(self, found: Button, request: HttpRequest, object_id: str | None = None) -> HttpResponse:
        if not getattr(request.user, "operates", False):
            raise PermissionDenied
        row = None if object_id is None else self.get_object(request, unquote(object_id))
        if row is None and object_id is not None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)  # type: ignore[no-any-return]
        given: Mapping[str, Any] | None = request.POST if request.method == "POST" else None
        form, plan = None, None
        if found.takes is not None:
            begins = dict(request.GET.items()) if row is None else found.begins(row)
            form = ActionForm(found.takes, found.leaves_out, request, data=given, initial=begins)
        if given is not None:
            fields: Fields | None = form.fields_taken() if form else {}
            if fields is not None and "preview" in given:
                plan = self._preview(request, found, row, form, fields)
            elif fields is not None and (response := self._do(request, found, row, form, fields)):
                return response
        context = {"title": found.label, "button": found, "form": form, "act_url": request.path}
        return self._page(request, "cloudctl/act.html", row, **context, plan=cells.pretty(plan) if plan else "")

    def _preview(
        self, request: HttpRequest, found: Button, row: Row, form: ActionForm | None, fields: Fields
    ) -> dict[str, Any] | None:
        """What the action would do; None where it would be refused, and the form says why."""
        act = functools.partial(getattr(self, found.name), request.user, row, **fields)
        try:
            return rehearse(act, found.previews or (lambda _answer: {}))
        except CloudctlError as error:
            if form is not None:
                form.refuse(error)
            return None

    def _do(
        self, request: HttpRequest, found: Button, row: Row | None, form: ActionForm | None, fields: Fields
    ) -> HttpResponse | None:
        method = getattr(self, found.name)
        try:
            answer = method(request.user, fields) if row is None else method(request.user, row, **fields)
        except CloudctlError as error:
            if form is not None:
                form.refuse(error)
                return None
            problem_message(request, error)
            return HttpResponseRedirect(self._page_url(row))
        if isinstance(answer, Secret):
            return self._page(request, "cloudctl/secret.html", row, title=answer.what, secret=answer, form=None)
        messages.success(request, f"{found.label}: accepted.")
        goes_to = answer if isinstance(answer, models.Model) else row
        return HttpResponseRedirect(self._page_url(None if found.removes else goes_to))

    def _list_url(self) -> str:
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist")

    def _page_url(self, row: Row | None) -> str:
        return self._list_url() if row is None else cells.url_of(row)
