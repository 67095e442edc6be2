"""Zones, agents, hosts, pools and join tokens in the admin: what agents say of themselves, so to look at."""

from django.contrib import admin

from core_app.admin import ReadOnlyAdmin
from infra_app.models import Agent, Host, JoinToken, PoolReach, StoragePool, Zone


@admin.register(Zone)
class ZoneAdmin(ReadOnlyAdmin):
    list_display = ("name", "enabled", "deletions_suspended", "created_at")


@admin.register(Agent)
class AgentAdmin(ReadOnlyAdmin):
    list_display = ("name", "role", "zone", "state", "last_ping_at", "epoch", "last_seq", "ahead")
    list_filter = ("state", "role", "zone", "ahead")
    list_select_related = ("zone",)
    search_fields = ("name", "id")


@admin.register(Host)
class HostAdmin(ReadOnlyAdmin):
    list_display = ("name", "state", "cpus", "memory_bytes", "libvirt_version", "qemu_version", "accelerator")
    list_filter = ("agent__state", "agent__zone")
    list_select_related = ("agent",)

    @admin.display(ordering="agent__state")
    def state(self, host: Host) -> str:
        return host.agent.get_state_display()


@admin.register(StoragePool)
class StoragePoolAdmin(ReadOnlyAdmin):
    list_display = ("name", "zone", "type", "host", "path", "capacity_bytes", "available_bytes")
    list_filter = ("type", "zone")
    list_select_related = ("zone", "host__agent")


@admin.register(PoolReach)
class PoolReachAdmin(ReadOnlyAdmin):
    list_display = ("pool", "host", "reachable", "available_bytes", "reason", "reported_at")
    list_filter = ("reachable",)
    list_select_related = ("pool", "host__agent")


@admin.register(JoinToken)
class JoinTokenAdmin(ReadOnlyAdmin):
    list_display = ("zone", "role", "reusable", "expires_at", "used_at", "used_by")
    list_select_related = ("zone", "used_by")
    exclude = ("digest",)
