"""Operations and their commands in the admin: what is under way, what happened, and what people may do about it."""

from collections.abc import Iterable, Sequence
from typing import Any

from django.contrib import admin
from django.db.models import Model, Prefetch, QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django_celery_beat import models as beat

from accounts_app.models import User
from agents.protocol.states import CommandState
from core_app.console import cells
from core_app.console.pages import Panel, RoomAdmin, button
from core_app.errors import WrongState
from core_app.models import Event
from core_app.sizes import size_text
from infra_app.admin import AgentAdmin, HostAdmin
from infra_app.models import Agent, Host
from operations_app import actions, api, registry
from operations_app.models import Attempt, Command, Operation
from operations_app.reconciliation import ASKABLE
from operations_app.rules import OPERATION_FINAL, Judgement, OperationState, eta_seconds_of, percent_of
from operations_app.workflow import may_cancel

EVENTS_SHOWN = 500
ROWS_SHOWN = 10
OPERATION_COLUMNS = ("Operation", "State", "Step", "Progress", "Asked by", "Asked")
ENDED_COLUMNS = ("Operation", "State", "Why", "Asked by", "Ended")
_COMMAND_COLUMNS = ("Command", "Agent", "State", "Attempt", "Progress", "Asked")

SAID_BY_AGENT = frozenset(
    f"command.{word}"
    for word in ("queued", "started", "processing", "completed", "failed", "cancelled", "interrupted", "followed")
)
"""Kinds of events that tell what an agent said; all others are the management server's."""


# --- cells of other pages, too -------------------------------------------------------------------------------------


def operation_rows(operations: QuerySet[Operation]) -> list[Sequence[object]]:
    """Rows of a table with ``OPERATION_COLUMNS``."""
    return [
        (
            cells.link(operation),
            operation_badge(operation),
            step_text(operation),
            progress_bar(operation),
            operation.requested_by or "the system",
            cells.ago(operation.created_at),
        )
        for operation in operations.select_related("requested_by")
    ]


def ended_rows(operations: Iterable[Operation]) -> list[Sequence[object]]:
    """Rows of a table with ``ENDED_COLUMNS``."""
    return [
        (
            cells.link(operation),
            cells.badge(operation.state),
            (operation.error or {}).get("cause", cells.NOTHING),
            operation.requested_by or "the system",
            cells.ago(operation.finished_at),
        )
        for operation in operations
    ]


def operations_of(row: Model) -> Iterable[Panel]:
    """The last operations on a row, for its page."""
    rows = Operation.objects.filter(target_id=row.pk)[:ROWS_SHOWN]
    every = f"{reverse('admin:operations_app_operation_changelist')}?q={row.pk}"
    return [Panel("Operations", OPERATION_COLUMNS, operation_rows(rows), css="wide", more=("All", every))]


def happenings_of(row: Model) -> Iterable[Panel]:
    """The last events about a row, for its page."""
    rows = Event.objects.filter(target_id=str(row.pk))[:ROWS_SHOWN]
    every = f"{reverse('admin:core_app_event_changelist')}?q={row.pk}"
    told = [(cells.ago(event.created_at), cells.badge(event.level), event.kind, event.message) for event in rows]
    return [Panel("Events", ("When", "Level", "Kind", "Message"), told, css="wide", more=("All", every))]


def operation_badge(operation: Operation) -> SafeString:
    return cells.badge(operation.state, "busy" if operation.state == OperationState.RUNNING else "")


def step_text(operation: Operation) -> str:
    """``2 of 3: create volumes``."""
    names = registry.step_names(operation.kind)
    if operation.state in OPERATION_FINAL or operation.position >= len(names):
        return cells.NOTHING
    undoing = ", being put back" if operation.undoing else ""
    return f"{operation.position + 1} of {len(names)}: {names[operation.position]}{undoing}"


def progress_bar(operation: Operation) -> SafeString:
    """Percent, and the bytes of the present step where it has any."""
    progress = operation.progress if operation.sent_position == operation.position else {}
    percent = percent_of(operation.state, operation.position, len(registry.step_names(operation.kind)), progress)
    kind = "busy" if operation.state == OperationState.RUNNING else cells.tone(operation.state)
    told = "" if operation.state in OPERATION_FINAL else progress_text(progress)
    return cells.meter(percent, f"{percent} %, {told}" if told else "", kind)


def progress_text(progress: dict[str, Any]) -> str:
    """``12 MiB of 16 MiB, 3 MiB/s, 2 s left``."""
    parts = []
    if total := progress.get("total_bytes"):
        parts.append(f"{size_text(progress.get('done_bytes', 0))} of {size_text(total)}")
    if rate := progress.get("rate"):
        parts.append(f"{size_text(rate)}/s")
    if (left := eta_seconds_of(progress)) is not None:
        parts.append(f"{left} s left")
    if message := progress.get("message"):
        parts.append(message)
    return ", ".join(parts)


# --- operations ----------------------------------------------------------------------------------------------------


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state.value, state.value.replace("_", " ")) for state in OperationState]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Operation]) -> QuerySet[Operation]:
        return queryset.filter(state=self.value()) if self.value() else queryset


class KindFilter(admin.SimpleListFilter):
    """From the registry: Django's own would look for the different values in all rows."""

    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(kind, kind) for kind in registry.workflow_kinds()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Operation]) -> QuerySet[Operation]:
        return queryset.filter(kind=self.value()) if self.value() else queryset


def _in_doubt(operation: Operation) -> list[Command]:
    return [command for command in operation.commands.all() if command.state in ASKABLE or _stuck(operation, command)]


def _stuck(operation: Operation, command: Command) -> bool:
    needs_person = operation.state == OperationState.NEEDS_ATTENTION and command.round == operation.round
    return needs_person and actions.waits_for_another_try(command)


@admin.register(Operation)
class OperationAdmin(RoomAdmin):
    list_display = ("name", "state_badge", "step", "progress_cell", "asked_by", "account", "asked")
    list_display_links = ("name",)
    list_filter = (StateFilter, KindFilter)
    list_select_related = ("account", "requested_by")
    name_lookup = "target_name"
    ids = ("id", "target_id")
    search_help_text = "Target's name, or an id"
    facts = (
        "target",
        "step",
        "progress_cell",
        "waiting",
        "asked_by",
        "account",
        "asked",
        "started",
        "ended",
        "uid",
    )
    live = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Operation]:
        rows: QuerySet[Operation] = super().get_queryset(request)
        return rows.select_related("account", "requested_by")

    @admin.display(description="operation")
    def name(self, operation: Operation) -> str:
        return str(operation)

    @admin.display(description="id")
    def uid(self, operation: Operation) -> SafeString:
        return cells.mono(operation.pk)

    @admin.display(description="state")
    def state_badge(self, operation: Operation) -> SafeString:
        return operation_badge(operation)

    @admin.display
    def step(self, operation: Operation) -> str:
        return step_text(operation)

    @admin.display(description="progress")
    def progress_cell(self, operation: Operation) -> SafeString:
        return progress_bar(operation)

    @admin.display
    def target(self, operation: Operation) -> SafeString:
        return cells.link_to(operation.target_type, operation.target_id, operation.target_name)

    @admin.display(description="waits for")
    def waiting(self, operation: Operation) -> SafeString:
        waiter = getattr(operation, "waits_for", None)
        return cells.link(waiter.awaited) if waiter else cells.NOTHING

    @admin.display
    def asked_by(self, operation: Operation) -> object:
        return cells.link(operation.requested_by) if operation.requested_by else "the system"

    @admin.display
    def asked(self, operation: Operation) -> SafeString:
        return cells.when(operation.created_at)

    @admin.display
    def started(self, operation: Operation) -> SafeString:
        return cells.when(operation.started_at)

    @admin.display
    def ended(self, operation: Operation) -> SafeString:
        return cells.when(operation.finished_at)

    def badges_of(self, row: Operation) -> Sequence[SafeString]:
        badges = [operation_badge(row)]
        if row.cancel_requested_at and row.state not in OPERATION_FINAL:
            badges.append(cells.badge("cancel requested"))
        return badges

    def panels(self, row: Operation) -> Iterable[Panel]:
        commands = list(
            row.commands.select_related("agent")
            .defer("payload", "sealed")
            .prefetch_related(Prefetch("attempts", Attempt.objects.order_by("number")))
            .order_by("created_at", "pk")
        )
        held = row.reservations.order_by("resource_type", "pk")
        yield Panel("Commands", body=_two_lanes(row, commands), css="wide plain")
        yield Panel(
            "Holds",
            ("What", "How"),
            [
                (
                    cells.link_to(one.resource_type, one.resource_id, f"{one.resource_type} {one.resource_id}"),
                    "alone" if one.exclusive else "shared",
                )
                for one in held
            ],
            "Nothing any more: it has ended." if row.state in OPERATION_FINAL else "Nothing.",
            css="wide",
        )
        if row.result:
            yield Panel("Result", body=cells.pretty(row.result), css="wide")

    @button("Reconcile now", when=lambda operation: bool(_in_doubt(operation)))
    def reconcile(self, user: User, operation: Operation) -> None:
        """Every command in doubt is asked about."""
        in_doubt = _in_doubt(operation)
        if not in_doubt:
            raise WrongState(
                "None of its commands is in doubt.",
                "Nobody was asked.",
                "Watch it: it goes on by itself, or has ended.",
            )
        for command in in_doubt:
            actions.reconcile_now(command.pk)

    @button(
        "Settle",
        takes=api.SettleSerializer,
        previews=api.after_settling,
        when=lambda operation: operation.state == OperationState.NEEDS_ATTENTION,
        asks="Say what became of the command that nobody could find out. The operation goes on as if evidence had said"
        " so: look at the host first.",
    )
    def settle(self, user: User, operation: Operation, **fields: Any) -> Operation:
        said = actions.Settlement(**fields | {"verdict": Judgement(fields["verdict"])})
        return actions.settle(operation.pk, said, user)

    @button(
        "Cancel",
        danger=True,
        when=may_cancel,
        asks="What was begun is put back, step by step. What the hosts have finished meanwhile is taken away again.",
    )
    def cancel(self, user: User, operation: Operation) -> None:
        actions.cancel(operation.pk)


def _two_lanes(operation: Operation, commands: Sequence[Command]) -> SafeString:
    """What happened, oldest first: the management server's part on the left, the agents' on the right."""
    by_id = {str(command.pk): command for command in commands}
    ids = [str(operation.pk), *by_id]
    told = list(Event.objects.filter(target_id__in=ids).order_by("created_at", "id")[:EVENTS_SHOWN])
    steps = registry.step_names(operation.kind)
    return SafeString(
        render_to_string(
            "cloudctl/lanes.html",
            {
                "commands": [_described(command, steps) for command in commands],
                "events": [_told(event, by_id.get(event.target_id)) for event in told],
                "more": len(told) == EVENTS_SHOWN,
            },
        )
    )


def _described(command: Command, steps: Sequence[str]) -> dict[str, Any]:
    evidence = command.evidence or {}
    return {
        "row": command,
        "url": cells.url_of(command),
        "badge": cells.badge(command.state),
        "step": steps[command.position] if command.position < len(steps) else "",
        "undoing": command.direction == Operation.Direction.UNDO,
        "agent": cells.link(command.agent),
        "progress": progress_text(command.progress),
        "error": cells.problem(command.error) if command.error else "",
        "verdict": evidence.get("verdict", ""),
        "reason": evidence.get("reason", ""),
        "evidence": cells.folded("Evidence", cells.pretty(evidence.get("evidence"))) if evidence else "",
        "answer": cells.folded("Answer", cells.pretty(command.answer)) if command.answer else "",
        "attempts": [attempt for attempt in command.attempts.all() if attempt.number > 1],
    }


def _told(event: Event, command: Command | None) -> dict[str, Any]:
    return {
        "time": cells.when(event.created_at),
        "kind": event.kind,
        "tone": cells.tone(event.level if event.level != Event.Level.INFO else event.kind.rpartition(".")[2]),
        "message": event.message,
        "by_agent": event.kind in SAID_BY_AGENT,
        "agent": command.agent.name if command else "",
        "command": command.kind if command else "",
    }


def _event_tone(event: Event) -> str:
    by_kind = cells.tone(event.kind.rpartition(".")[2])
    return cells.tone(event.level) if by_kind == "quiet" else by_kind


# --- commands ------------------------------------------------------------------------------------------------------


def command_rows(commands: QuerySet[Command]) -> list[Sequence[object]]:
    """Rows of a table with columns of commands."""
    return [
        (
            cells.link(command, command.kind),
            cells.link(command.agent),
            cells.badge(command.state),
            command.attempt,
            progress_text(command.progress) or cells.NOTHING,
            cells.ago(command.created_at),
        )
        for command in commands.select_related("agent").defer("payload", "sealed")
    ]


def _commands_of(row: Agent | Host) -> Iterable[Panel]:
    rows = Command.objects.filter(agent_id=row.pk)[:ROWS_SHOWN]
    return [Panel("Commands", _COMMAND_COLUMNS, command_rows(rows), css="wide")]


for _page in (AgentAdmin, HostAdmin):
    _page.add_panels(_commands_of)
    _page.add_panels(happenings_of)


class CommandStateFilter(StateFilter):
    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state.value, state.value.lower().replace("_", " ")) for state in CommandState]


@admin.register(Command)
class CommandAdmin(RoomAdmin):
    list_display = ("kind", "state_badge", "agent", "attempt", "operation", "asked")
    list_filter = (CommandStateFilter,)
    name_match = "exact"
    list_select_related = ("agent", "operation")
    name_lookup = "kind"
    ids = ("id", "operation_id", "agent_id")
    search_help_text = "Kind, or an id of the command, its operation or its agent"
    facts = (
        "operation",
        "agent",
        "step",
        "label",
        "lane",
        "asked",
        "sent",
        "started",
        "due",
        "ended",
        "verdict",
        "uid",
    )
    live = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Command]:
        rows: QuerySet[Command] = super().get_queryset(request)
        return rows.select_related("agent", "operation").defer("payload", "sealed")

    @admin.display(description="state")
    def state_badge(self, command: Command) -> SafeString:
        return cells.badge(command.state)

    @admin.display(description="id")
    def uid(self, command: Command) -> SafeString:
        return cells.mono(command.pk)

    @admin.display
    def step(self, command: Command) -> str:
        names = registry.step_names(command.operation.kind)
        name = names[command.position] if command.position < len(names) else str(command.position)
        return f"{name} ({command.direction}, round {command.round})"

    @admin.display
    def asked(self, command: Command) -> SafeString:
        return cells.when(command.created_at)

    @admin.display
    def sent(self, command: Command) -> SafeString:
        return cells.when(command.sent_at)

    @admin.display
    def started(self, command: Command) -> SafeString:
        return cells.when(command.started_at)

    @admin.display(description="in doubt from")
    def due(self, command: Command) -> SafeString:
        return cells.when(command.deadline_at)

    @admin.display
    def ended(self, command: Command) -> SafeString:
        return cells.when(command.finished_at)

    @admin.display
    def verdict(self, command: Command) -> SafeString:
        evidence = command.evidence or {}
        if not evidence:
            return cells.NOTHING
        return format_html("{} {}", cells.badge(evidence.get("verdict", "")), evidence.get("reason", ""))

    def panels(self, row: Command) -> Iterable[Panel]:
        attempts = row.attempts.order_by("number")
        yield Panel(
            "Attempts",
            ("Number", "Begun", "Agent's epoch", "Times sent", "Ended", "Why it was made"),
            [
                (one.number, cells.when(one.created_at), one.epoch, one.times_sent, cells.badge(one.ended), one.reason)
                for one in attempts
            ],
            css="wide",
        )
        yield Panel("Evidence", body=cells.pretty(row.evidence), css="wide")
        journal = {
            "seq": row.seq,
            "attempt": row.attempt,
            "state": row.agent_state,
            "progress": row.progress,
            "answer": row.answer,
            "error": row.error,
        }
        yield Panel("The agent's journal, as it was last told", body=cells.pretty(journal), css="wide")
        yield from happenings_of(row)

    @button("Reconcile now", when=lambda command: command.state in ASKABLE or _stuck(command.operation, command))
    def reconcile(self, user: User, command: Command) -> None:
        actions.reconcile_now(command.pk)


# --- the schedule --------------------------------------------------------------------------------------------------

for _model in (
    beat.PeriodicTask,
    beat.IntervalSchedule,
    beat.CrontabSchedule,
    beat.SolarSchedule,
    beat.ClockedSchedule,
):
    admin.site.unregister(_model)  # the settings are where intervals are changed


@admin.register(beat.PeriodicTask)
class ScheduleAdmin(RoomAdmin):
    """What beat asks for, how often, and when it last did."""

    ordering = ("name",)
    list_display = ("name", "enabled", "scheduler", "ran", "total_run_count")
    list_select_related = ("interval",)
    facts = ("task", "enabled", "scheduler", "ran", "total_run_count", "description")

    @admin.display(description="last run")
    def ran(self, row: Any) -> SafeString:
        return cells.ago(row.last_run_at)
