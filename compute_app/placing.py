"""Finding a host and a pool with room, from rows. The caller holds the zone's lock, so nothing is promised twice."""

from collections import defaultdict
from typing import Any
from uuid import UUID

from django.db.models import QuerySet, Sum

from compute_app.models import TAKES_MEMORY, VM, Volume
from compute_app.rules import HostRoom, Need, NoPlace, Place, PoolRoom, choose_place
from core_app import settings_rows
from core_app.errors import NoRoom
from infra_app.models import Agent, Host, PoolReach, StoragePool, Zone
from templates_app.models import Placement, Template


def lock_zone(zone_id: UUID) -> Zone:
    """One placing at a time in a zone. Must be the first lock of the transaction."""
    return Zone.objects.select_for_update().get(pk=zone_id)


def find_place(
    zone: Zone, need: Need, *, template: Template | None, host: Host | None = None, pools: set[UUID] | None = None
) -> Place:
    """Host and pool for a VM. ``host`` or ``pools`` restrict the choice. Raises NoRoom with each candidate's reason."""
    place = choose_place(_host_rooms(zone, host), _pool_rooms(zone, template, pools), need)
    if isinstance(place, NoPlace):
        raise NoRoom(
            f"No host and pool of zone {zone} have room: {'; '.join(place.reasons)}.",
            "Nothing was deployed or started.",
            "Free memory or storage, add a host or a pool, or ask for less.",
        )
    return place


def find_host(vm: VM) -> UUID:
    """A host for a VM whose volumes exist: one that reaches all their pools. Raises NoRoom."""
    pools = set(vm.volumes.exclude(state=Volume.State.REMOVED).values_list("pool_id", flat=True))
    reaching = [
        host
        for host in _host_rooms(vm.zone, None)
        if pools <= set(PoolReach.objects.filter(host=host.id, reachable=True).values_list("pool_id", flat=True))
    ]
    everywhere = frozenset(host.id for host in reaching)
    rooms = [PoolRoom(id=pool, name=str(pool), free_bytes=0, host_ids=everywhere) for pool in pools]
    place = choose_place(reaching, rooms, Need(memory_bytes=vm.memory_bytes, disk_bytes=0))
    if isinstance(place, NoPlace):
        raise NoRoom(
            f"No host can run {vm}: {'; '.join(place.reasons)}.",
            "It stays stopped.",
            "Bring a host up that reaches its pools, or free memory on one.",
        )
    return place.host_id


def _host_rooms(zone: Zone, only: Host | None) -> list[HostRoom]:
    hosts = Host.objects.filter(agent__zone=zone, agent__state=Agent.State.UP, agent__ahead=False)
    if only is not None:
        hosts = hosts.filter(pk=only.pk)
    factor = settings_rows.get("host.memory.overcommit")
    promised = VM.objects.filter(host__in=hosts, state__in=TAKES_MEMORY).values("host").order_by()
    taken = {row["host"]: row["memory"] for row in promised.annotate(memory=Sum("memory_bytes"))}
    return [
        HostRoom(host.pk, host.name, int(host.memory_bytes * factor) - taken.get(host.pk, 0))
        for host in hosts.select_related("agent")
    ]


def _pool_rooms(zone: Zone, template: Template | None, only: set[UUID] | None) -> list[PoolRoom]:
    pools = StoragePool.objects.filter(zone=zone)
    if only is not None:
        pools = pools.filter(pk__in=only)
    reached: dict[UUID, set[UUID]] = defaultdict(set)
    for pool_id, host_id in PoolReach.objects.filter(pool__in=pools, reachable=True).values_list("pool_id", "host_id"):
        reached[pool_id].add(host_id)
    factor = settings_rows.get("storage.overcommit")
    volumes = _sums(Volume.objects.filter(pool__in=pools).exclude(state=Volume.State.REMOVED), "size_bytes")
    copies = _sums(Placement.objects.filter(pool__in=pools, state=Placement.State.READY), "size_bytes")
    here = set(
        Placement.objects.filter(template=template, pool__isnull=False, state=Placement.State.READY).values_list(
            "pool_id", flat=True
        )
    )
    return [
        PoolRoom(
            pool.pk,
            pool.name,
            min(
                int(pool.capacity_bytes * factor) - volumes.get(pool.pk, 0) - copies.get(pool.pk, 0),
                pool.available_bytes,
            ),
            frozenset(reached[pool.pk]),
            pool.pk in here,
        )
        for pool in pools
    ]


def _sums(rows: QuerySet[Any], field: str) -> dict[UUID, int]:
    summed = rows.values("pool").order_by().annotate(total=Sum(field))
    return {row["pool"]: row["total"] or 0 for row in summed}
