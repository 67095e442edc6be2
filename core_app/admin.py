"""Events and settings in the admin."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.safestring import SafeString

from core_app import settings_rows
from core_app.console import cells
from core_app.console.pages import RoomAdmin, problem_message
from core_app.errors import CloudctlError, NotPermitted
from core_app.models import Event, Setting


@admin.register(Event)
class EventAdmin(RoomAdmin):
    list_display = ("at", "grade", "kind", "about", "message")
    list_display_links = ("at",)
    list_filter = ("level",)
    name_lookup = "kind"
    name_match = "exact"
    ids = ("id", "target_id", "account_id")
    search_help_text = "Kind, or the id of what it is about"
    facts = ("at", "grade", "kind", "about", "message", "details_text")
    live = True

    @admin.display(description="when")
    def at(self, event: Event) -> SafeString:
        return cells.when(event.created_at)

    @admin.display(description="level")
    def grade(self, event: Event) -> SafeString:
        return cells.badge(event.level)

    @admin.display
    def about(self, event: Event) -> SafeString:
        return cells.link_to(event.target_type, event.target_id, event.target_name)

    @admin.display(description="details")
    def details_text(self, event: Event) -> SafeString:
        return cells.pretty(event.details)


@admin.register(Setting)
class SettingAdmin(RoomAdmin):
    """One page with all settings; a row of the table exists only where a value is not the default."""

    ordering = ("name",)

    def get_urls(self) -> list[URLPattern]:
        put = path("put/", self.admin_site.admin_view(self.put), name="core_app_setting_put")
        return [put, *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        context = {**self.admin_site.each_context(request), "opts": self.opts, "title": "Settings"}
        return TemplateResponse(request, "cloudctl/settings.html", {**context, "groups": _groups()})

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return HttpResponseRedirect(f"{self._list_url()}#{object_id}")

    def put(self, request: HttpRequest) -> HttpResponse:
        """Store one value."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        name = request.POST.get("name", "")
        try:
            if not getattr(request.user, "operates", False):
                raise NotPermitted("Only operators change settings.", "It stays as it was.", "Ask an operator.")
            value = settings_rows.put(name, _typed(name, request.POST.get("value", "")))
        except CloudctlError as error:
            problem_message(request, error)
        else:
            self.message_user(request, f"{name} is now {value}.")
        return HttpResponseRedirect(f"{self._list_url()}#{name}")


def _typed(name: str, text: str) -> str | float:
    """A form has only text: numbers are read here, the rest by the setting's own reader."""
    if settings_rows.definition_of(name).kind not in {"integer", "number"}:
        return text
    try:
        return float(text)
    except ValueError:
        return text


def _groups() -> list[tuple[str, list[dict[str, Any]]]]:
    """The settings by the first word of their names."""
    values = settings_rows.values()
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in settings_rows.definitions():
        groups.setdefault(one.name.partition(".")[0], []).append(
            {
                "definition": one,
                "value": _shown(values[one.name]),
                "default": _shown(one.default),
                "bounds": _bounds(one),
                "choices": _choices(one),
                "changed": values[one.name] != one.default,
            }
        )
    return list(groups.items())


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _choices(one: settings_rows.Definition) -> Sequence[str]:
    return ("true", "false") if one.kind == "boolean" else one.bounds if one.kind == "choice" else ()


def _bounds(one: settings_rows.Definition) -> str:
    return f"{_shown(one.bounds[0])} to {_shown(one.bounds[1])}" if one.kind in {"integer", "number"} else ""
