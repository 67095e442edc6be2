"""Zones, agents, hosts, pools and join tokens in the admin."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from accounts_app.models import User
from core_app.console import cells
from core_app.console.pages import Panel, RoomAdmin, Secret, button
from core_app.sizes import size_text
from infra_app import actions, api
from infra_app.hooks import running_commands
from infra_app.models import Agent, Host, JoinToken, PoolReach, StoragePool, Zone


def room(pool: StoragePool) -> SafeString:
    """How full a pool is, as its hosts last saw it."""
    if not pool.capacity_bytes:
        return SafeString("not seen by a host yet")
    used = pool.capacity_bytes - pool.available_bytes
    percent = min(100 * used // pool.capacity_bytes, 100)
    left = f"{size_text(pool.available_bytes)} free of {size_text(pool.capacity_bytes)}"
    return cells.meter(percent, left, "bad" if percent > 90 else "quiet")


REACH_COLUMNS = ("Reached", "Free", "Seen", "Why not")


def reach_cells(row: PoolReach) -> tuple[object, ...]:
    """What stands in :data:`REACH_COLUMNS`."""
    reached = cells.badge("ready" if row.reachable else "error")
    return reached, cells.size(row.available_bytes), cells.ago(row.reported_at), row.reason


@admin.register(Zone)
class ZoneAdmin(RoomAdmin):
    list_display = ("name", "enabled", "deletions_suspended", "made")
    ordering = ("name",)
    facts = ("enabled", "deletions_suspended", "made")

    @admin.display(description="made")
    def made(self, zone: Zone) -> SafeString:
        return cells.when(zone.created_at)

    def panels(self, row: Zone) -> Iterable[Panel]:
        agents = row.agents.order_by("name")[:100]
        pools = row.pools.select_related("host__agent").order_by("name")[:100]
        yield Panel(
            "Agents",
            ("Agent", "Role", "State", "Last ping"),
            [(cells.link(one), one.role, cells.badge(one.state), cells.ago(one.last_ping_at)) for one in agents],
        )
        yield Panel("Storage pools", ("Pool", "Type", "Room"), [(cells.link(p), p.type, room(p)) for p in pools])

    @button("New zone", takes=api.ZoneSerializer, on_list=True)
    def create(self, user: User, fields: dict[str, Any]) -> Zone:
        return actions.zone_create(fields["name"])


class OfAgents(RoomAdmin):
    """What an agent's and a host's page have in common; they have one id."""

    live = True

    @admin.display(description="last ping")
    def pinged(self, row: Agent | Host) -> SafeString:
        return cells.ago(_agent(row).last_ping_at)

    @admin.display(description="state")
    def state_badge(self, row: Agent | Host) -> SafeString:
        return cells.badge(_agent(row).state)

    @admin.display
    def epoch(self, row: Agent | Host) -> int:
        return _agent(row).epoch

    def badges_of(self, row: Agent | Host) -> list[SafeString]:
        agent = _agent(row)
        return [cells.badge(agent.state), *([cells.badge("ahead of the database")] if agent.ahead else [])]


def _agent(row: Agent | Host) -> Agent:
    return row.agent if isinstance(row, Host) else row


@admin.register(Agent)
class AgentAdmin(OfAgents):
    ordering = ("role", "name")
    list_display = ("name", "role", "zone", "state_badge", "pinged", "epoch", "last_seq", "ahead")
    list_filter = ("state", "role", "ahead")
    list_select_related = ("zone",)
    facts = ("role", "zone", "pinged", "epoch", "last_seq", "floor", "ahead", "agent_version", "machine_id", "boot_id")


@admin.register(Host)
class HostAdmin(OfAgents):
    ordering = ("agent__role", "agent__name")
    list_display = ("name", "state_badge", "pinged", "running", "cpus", "memory", "accelerator", "zone")
    list_filter = ("agent__state", "agent__zone")
    name_lookup = "agent__name"
    ids = ("agent_id",)
    facts = (
        "zone",
        "pinged",
        "running",
        "epoch",
        "cpus",
        "memory",
        "accelerator",
        "accelerator_reason",
        "libvirt_version",
        "qemu_version",
        "agent",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Host]:
        rows: QuerySet[Host] = super().get_queryset(request)
        return rows.select_related("agent__zone").annotate(running_commands=running_commands())

    @admin.display(description="host")
    def name(self, host: Host) -> str:
        return host.name

    @admin.display(description="state")
    def state_badge(self, row: Agent | Host) -> SafeString:
        return super().state_badge(row)

    @admin.display(description="commands running")
    def running(self, host: Host) -> int:
        return int(host.running_commands)  # type: ignore[attr-defined]  # annotated above

    @admin.display
    def memory(self, host: Host) -> SafeString:
        return cells.size(host.memory_bytes)

    @admin.display
    def zone(self, host: Host) -> SafeString:
        return cells.link(host.agent.zone)

    def panels(self, row: Host) -> Iterable[Panel]:
        reaches = row.reaches.select_related("pool").order_by("pool__name")[:100]
        yield Panel(
            "Storage pools",
            ("Pool", *REACH_COLUMNS),
            [(cells.link(one.pool), *reach_cells(one)) for one in reaches],
            "It has not told of any pool yet.",
            css="wide",
        )


@admin.register(StoragePool)
class StoragePoolAdmin(RoomAdmin):
    list_display = ("name", "zone", "type", "host", "path", "room_cell")
    list_filter = ("type", "zone")
    list_select_related = ("zone", "host__agent")
    facts = ("zone", "type", "host", "path", "room_cell")
    live = True

    @admin.display(description="room")
    def room_cell(self, pool: StoragePool) -> SafeString:
        return room(pool)

    def panels(self, row: StoragePool) -> Iterable[Panel]:
        reaches = row.reaches.select_related("host__agent").order_by("host__agent__name")[:100]
        yield Panel(
            "Hosts",
            ("Host", *REACH_COLUMNS),
            [(cells.link(one.host), *reach_cells(one)) for one in reaches],
            "No host has seen it yet.",
            css="wide",
        )

    @button("New storage pool", takes=api.StoragePoolSerializer, on_list=True)
    def create(self, user: User, fields: dict[str, Any]) -> StoragePool:
        return actions.storage_pool_create(**{"host": None, **fields})


@admin.register(JoinToken)
class JoinTokenAdmin(RoomAdmin):
    list_display = ("zone", "role", "reusable", "expires_at", "used_at", "used_by")
    list_select_related = ("zone", "used_by")
    name_lookup = "zone__name"
    facts = ("zone", "role", "reusable", "expires_at", "used_at", "used_by")

    @button("New join token", takes=api.NewJoinTokenSerializer, on_list=True)
    def create(self, user: User, fields: dict[str, Any]) -> Secret:
        valid = timedelta(seconds=fields.pop("valid_seconds"))
        _, secret = actions.join_token_create(fields.pop("zone"), valid=valid, **fields)
        return Secret("The join token, shown this once", secret)
