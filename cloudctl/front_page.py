"""The admin's first page: what needs a person, then the fleet's health and what is under way.

It is fetched every other second by everybody who looks, so each question to the database has an index and a bound.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.db.models import F, QuerySet
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from compute_app.models import VM
from core_app.console import cells
from core_app.console.pages import Panel
from core_app.models import Event
from infra_app.admin import room
from infra_app.hooks import running_commands
from infra_app.models import Agent, PoolReach, StoragePool, Zone
from operations_app.admin import ENDED_COLUMNS, OPERATION_COLUMNS, ended_rows, operation_rows
from operations_app.models import Operation
from operations_app.rules import OPERATION_FINAL, OPERATION_OPEN, OperationState

SHOWN = 20
ENDED_SHOWN = 10
COUNTED = 1000
LOW_ROOM = 0.10
"""A pool with a smaller share of its capacity left needs a person."""

Item = tuple[SafeString, SafeString, object]
"""Badge, what it is about, and why."""


def context() -> dict[str, Any]:
    return {"title": "Fleet", "needs": needs(), "figures": figures(), "panels": panels(), "live": True}


def needs() -> list[tuple[str, list[Item]]]:
    """What needs a person, under headings; empty when all is well."""
    groups = [
        ("Operations that need attention", _operations()),
        ("Hosts", _hosts()),
        ("Storage", _pools()),
        ("Alarms of the last day", _alarms()),
    ]
    return [(title, items) for title, items in groups if items]


def _operations() -> list[Item]:
    stuck = Operation.objects.filter(state=OperationState.NEEDS_ATTENTION).order_by("created_at", "pk")
    return [
        (cells.badge(row.state), cells.link(row), (row.error or {}).get("cause", "Its page says why."))
        for row in stuck[:SHOWN]
    ]


def _hosts() -> list[Item]:
    silent = Agent.objects.filter(state=Agent.State.DISCONNECTED).order_by("name")
    ahead = Agent.objects.filter(ahead=True).order_by("name")
    suspended = Zone.objects.filter(deletions_suspended=True).order_by("name")
    return [
        *((cells.badge("disconnected"), cells.link(row), _last_ping(row)) for row in silent[:SHOWN]),
        *((cells.badge("alarm"), cells.link(row), "It knows commands that this database never issued: the database"
           " was restored. It gets no commands until it is adopted.") for row in ahead[:SHOWN]),
        *((cells.badge("warning"), cells.link(row), "Nothing in this zone is deleted until its agents are adopted.")
          for row in suspended[:SHOWN]),
    ]  # fmt: skip


def _last_ping(agent: Agent) -> SafeString:
    return format_html("Its last ping came {}. What runs there goes on.", cells.ago(agent.last_ping_at))


def _pools() -> list[Item]:
    low = StoragePool.objects.filter(capacity_bytes__gt=0, available_bytes__lt=F("capacity_bytes") * LOW_ROOM)
    lost = PoolReach.objects.filter(reachable=False, host__agent__state=Agent.State.UP).select_related(
        "pool", "host__agent"
    )
    return [
        *((cells.badge("warning"), cells.link(row), _room_left(row)) for row in low.order_by("name")[:SHOWN]),
        *(
            (cells.badge("warning"), cells.link(row.pool), f"{row.host} does not reach it: {row.reason or 'no reason'}")
            for row in lost.order_by("pool__name", "pk")[:SHOWN]
        ),
    ]


def _room_left(pool: StoragePool) -> SafeString:
    left, whole = cells.size(pool.available_bytes), cells.size(pool.capacity_bytes)
    return format_html("Low on room: {} of {} left.", left, whole)


def _alarms() -> list[Item]:
    since = timezone.now() - timedelta(days=1)
    alarms = Event.objects.filter(level=Event.Level.ALARM, created_at__gt=since)
    return [
        (
            cells.badge(row.kind),
            cells.link_to(row.target_type, row.target_id, row.target_name),
            format_html("{} {}", cells.ago(row.created_at), row.message),
        )
        for row in alarms[:SHOWN]
    ]


def figures() -> list[tuple[str, str, str, str]]:
    """Number, what it counts, a word more, and where to see it."""
    hosts = Agent.objects.filter(role=Agent.Role.HOST)
    up, others = hosts.filter(state=Agent.State.UP), hosts.exclude(state=Agent.State.UP)
    running = VM.objects.filter(host__isnull=False, state=VM.State.RUNNING)
    under_way = Operation.objects.filter(state__in=sorted(OPERATION_OPEN))
    stuck = Operation.objects.filter(state=OperationState.NEEDS_ATTENTION)
    return [
        (_count(up), "hosts up", f"{_count(others)} not up" if others.exists() else "", _list("infra_app_host")),
        (_count(running), "VMs running", "", _list("compute_app_vm")),
        (_count(under_way), "operations under way", "", _list("operations_app_operation")),
        (_count(stuck), "need a person", "", f"{_list('operations_app_operation')}?state=needs_attention"),
    ]


def _count(rows: QuerySet[Any]) -> str:
    """Up to a bound: nobody reads further, and a count of a million rows is slow."""
    counted = rows.order_by()[: COUNTED + 1].count()
    return f"{COUNTED}+" if counted > COUNTED else str(counted)


def _list(name: str) -> str:
    return reverse(f"admin:{name}_changelist")


def _ended_last() -> list[Operation]:
    """A question for each final state: one for all of them together would sort a million rows."""
    by_state = (Operation.objects.filter(state=state).select_related("requested_by") for state in OPERATION_FINAL)
    newest = [row for rows in by_state for row in rows[:ENDED_SHOWN]]
    return sorted(newest, key=lambda row: (row.created_at, row.pk), reverse=True)[:ENDED_SHOWN]


def panels() -> Iterable[Panel]:
    going = Operation.objects.filter(state__in=(OperationState.PENDING, OperationState.RUNNING))
    hosts = Agent.objects.filter(role=Agent.Role.HOST).select_related("host", "zone").order_by("name")
    pools = StoragePool.objects.select_related("zone", "host__agent").order_by("name")
    all_operations = ("All operations", _list("operations_app_operation"))
    return [
        Panel("Under way", OPERATION_COLUMNS, operation_rows(going[:SHOWN]), "Nothing is under way.", css="wide"),
        Panel(
            "Hosts",
            ("Host", "State", "Last ping", "Commands running"),
            [
                (cells.link(row.host, row.name), cells.badge(row.state), cells.ago(row.last_ping_at), row.running)
                for row in hosts.annotate(running=running_commands())[:SHOWN]
            ],
            "No host has joined yet.",
            more=("All hosts", _list("infra_app_host")),
        ),
        Panel(
            "Storage",
            ("Pool", "Type", "Room"),
            [(cells.link(row), row.type, room(row)) for row in pools[:SHOWN]],
            "There is no storage pool yet.",
            more=("All pools", _list("infra_app_storagepool")),
        ),
        Panel(
            "Ended last",
            ENDED_COLUMNS,
            ended_rows(_ended_last()),
            "Nothing has ended yet.",
            css="wide",
            more=all_operations,
        ),
    ]
