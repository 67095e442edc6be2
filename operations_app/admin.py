"""Operations, their commands and what happened to them: to look at; people act through the actions."""

import json
from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from core_app.admin import ReadOnlyAdmin
from core_app.errors import CloudctlError
from core_app.models import Event
from operations_app import actions, registry
from operations_app.models import Attempt, Command, Operation, Reservation, Waiter
from operations_app.reconciliation import ASKABLE
from operations_app.rules import percent_of

TIMELINE_LENGTH = 500


class ReadOnlyInline(admin.TabularInline):  # type: ignore[type-arg]  # not generic when it runs
    """Rows of another row, to look at."""

    extra = 0
    can_delete = False
    show_change_link = True

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class CommandInline(ReadOnlyInline):
    model = Command
    fields = ["kind", "label", "agent", "direction", "state", "outcome", "attempt", "seq", "why", "evidence"]
    readonly_fields = ["why"]
    ordering = ["created_at", "id"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Command]:
        return super().get_queryset(request).select_related("agent").defer("payload", "sealed")

    @admin.display(description="error")
    def why(self, command: Command) -> str:
        return str((command.error or {}).get("cause", ""))


class ReservationInline(ReadOnlyInline):
    model = Reservation
    show_change_link = False


class AttemptInline(ReadOnlyInline):
    model = Attempt
    ordering = ["number"]
    show_change_link = False


class WithTimeline(ReadOnlyAdmin):
    """A page that tells what happened, oldest first, and buttons for those who operate."""

    @admin.display(description="timeline")
    def timeline(self, row: Model) -> SafeString:
        lines = self.events_of(row).order_by("created_at", "id")[:TIMELINE_LENGTH]
        return format_html_join(
            "",
            "<div>{} <strong>{}</strong> {} {} {}</div>",
            ((f"{e.created_at:%Y-%m-%d %H:%M:%S}", e.kind, e.level, e.target_name, e.message) for e in lines),
        )

    def events_of(self, row: Any) -> QuerySet[Event]:
        return Event.objects.filter(target_id=str(row.pk))

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return bool(getattr(request.user, "operates", False))

    def _each(self, request: HttpRequest, rows: QuerySet[Any], act: Callable[[Any], object], done: str) -> None:
        for row in rows:
            try:
                act(row.pk)
            except CloudctlError as error:
                self.message_user(request, f"{row}: {error}", messages.ERROR)
            else:
                self.message_user(request, f"{row}: {done}", messages.SUCCESS)


def _as_text(value: Any) -> SafeString:
    return format_html("<pre>{}</pre>", json.dumps(value, indent=2, sort_keys=True))


@admin.register(Operation)
class OperationAdmin(WithTimeline):
    list_display = [
        "created_at",
        "kind",
        "target_name",
        "account",
        "state",
        "step",
        "percent",
        "requested_by",
        "finished_at",
    ]
    list_filter = ["state", "kind", "direction", "created_at"]
    list_select_related = ["account", "requested_by"]
    search_fields = ["id", "target_id", "target_name"]
    show_full_result_count = False
    inlines = [CommandInline, ReservationInline]
    actions = ["cancel", "reconcile"]
    fields = [
        "id",
        "kind",
        ("target_type", "target_id", "target_name"),
        ("account", "requested_by"),
        ("state", "step", "percent", "direction"),
        "cancel_requested_at",
        ("created_at", "started_at", "finished_at"),
        "error_text",
        "result_text",
        "progress_text",
        "waits_for",
        "timeline",
    ]

    @admin.display
    def step(self, operation: Operation) -> str:
        names = registry.step_names(operation.kind)
        return names[operation.position] if operation.position < len(names) else "-"

    @admin.display
    def percent(self, operation: Operation) -> str:
        steps = len(registry.step_names(operation.kind))
        return f"{percent_of(operation.state, operation.position, steps, operation.progress)} %"

    @admin.display(description="error")
    def error_text(self, operation: Operation) -> SafeString:
        return _as_text(operation.error)

    @admin.display(description="result")
    def result_text(self, operation: Operation) -> SafeString:
        return _as_text(operation.result)

    @admin.display(description="progress")
    def progress_text(self, operation: Operation) -> SafeString:
        return _as_text(operation.progress)

    @admin.display(description="waits for")
    def waits_for(self, operation: Operation) -> str:
        waiter = Waiter.objects.select_related("awaited").filter(operation=operation).first()
        return f"{waiter.awaited} ({waiter.awaited_id})" if waiter else "-"

    def events_of(self, row: Operation) -> QuerySet[Event]:
        ids = [str(row.pk), *map(str, row.commands.values_list("pk", flat=True))]
        return Event.objects.filter(target_id__in=ids)

    @admin.action(description="Cancel", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Operation]) -> None:
        self._each(request, queryset, actions.cancel, "is being cancelled")

    @admin.action(description="Reconcile the commands in doubt now", permissions=["operate"])
    def reconcile(self, request: HttpRequest, queryset: QuerySet[Operation]) -> None:
        doubtful = Command.objects.filter(operation__in=queryset, state__in=ASKABLE)
        if not doubtful.exists():
            self.message_user(request, "No command of these is in doubt.", messages.WARNING)
        self._each(request, doubtful, actions.reconcile_now, "is asked about")


@admin.register(Command)
class CommandAdmin(WithTimeline):
    list_display = ["created_at", "kind", "agent", "state", "outcome", "attempt", "seq", "operation"]
    list_filter = ["state", "kind", "agent", "outcome"]
    list_select_related = ["agent", "operation"]
    search_fields = ["id", "operation__id", "label"]
    show_full_result_count = False
    inlines = [AttemptInline]
    actions = ["reconcile"]
    fields = [
        "id",
        "operation",
        ("kind", "label", "lane"),
        ("agent", "seq"),
        ("state", "outcome", "agent_state", "attempt", "reconcile_attempts"),
        ("created_at", "sent_at", "seen_at", "started_at", "deadline_at", "finished_at"),
        ("cancel_requested_at", "probed_at"),
        "error_text",
        "answer_text",
        "evidence_text",
        "timeline",
    ]

    @admin.display(description="error")
    def error_text(self, command: Command) -> SafeString:
        return _as_text(command.error)

    @admin.display(description="answer")
    def answer_text(self, command: Command) -> SafeString:
        return _as_text(command.answer)

    @admin.display(description="evidence and verdict")
    def evidence_text(self, command: Command) -> SafeString:
        return _as_text(command.evidence)

    @admin.action(description="Reconcile now", permissions=["operate"])
    def reconcile(self, request: HttpRequest, queryset: QuerySet[Command]) -> None:
        self._each(request, queryset, actions.reconcile_now, "is asked about")


@admin.register(Attempt)
class AttemptAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "command", "number", "epoch", "times_sent", "ended", "reason"]
    list_filter = ["ended"]
    list_select_related = ["command"]
    search_fields = ["command__id"]
    show_full_result_count = False


@admin.register(Reservation)
class ReservationAdmin(ReadOnlyAdmin):
    list_display = ["resource_type", "resource_id", "exclusive", "operation"]
    list_filter = ["resource_type", "exclusive"]
    list_select_related = ["operation"]
    search_fields = ["resource_id", "operation__id"]


@admin.register(Waiter)
class WaiterAdmin(ReadOnlyAdmin):
    list_display = ["operation", "awaited"]
    list_select_related = ["operation", "awaited"]
