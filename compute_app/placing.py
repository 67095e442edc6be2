"""Finding a host and a pool with room, from rows. The caller holds the zone's lock, so nothing is promised twice."""

from collections import defaultdict
from collections.abc import Set as AbstractSet
from typing import Any
from uuid import UUID

from django.db.models import F, Func, QuerySet, Sum
from django.db.models.functions import Coalesce, Greatest

from compute_app.models import TAKES_MEMORY, VM, Volume
from compute_app.rules import HostRoom, Need, NoPlace, Place, PoolRoom, choose_host, choose_place
from core_app import settings_rows
from core_app.errors import NoRoom
from infra_app.models import Agent, Host, PoolReach, StoragePool, Zone
from templates_app.models import TAKES_ROOM, Placement, Template


def find_place(
    zone: Zone,
    need: Need,
    *,
    template: Template | None = None,
    host: Host | None = None,
    pool: StoragePool | None = None,
) -> Place:
    """Host and pool for a VM, or for a volume alone, which needs a host to make it.

    ``host`` or ``pool`` restrict the choice. Raises NoRoom with each candidate's reason.
    """
    place = choose_place(_host_rooms(zone, host), _pool_rooms(zone, template, pool), need)
    if isinstance(place, NoPlace):
        raise NoRoom(
            f"No host and pool of zone {zone} have room: {'; '.join(place.reasons)}.",
            "Nothing was made, started or resized.",
            "Free memory or storage, add a host or a pool, or ask for less.",
        )
    return place


def find_host(vm: VM, host: Host | None = None) -> UUID:
    """A host for a VM whose volumes exist: one that reaches all their pools; ``host`` restricts the choice.

    Raises NoRoom with each host's reason.
    """
    pools = set(vm.volumes.exclude(state=Volume.State.REMOVED).values_list("pool_id", flat=True))
    place = choose_host(_host_rooms(vm.zone, host), pools, _pools_by_host(vm.zone), vm.memory_bytes)
    if isinstance(place, NoPlace):
        raise NoRoom(
            f"No host can run {vm}: {'; '.join(place.reasons)}.",
            "It stays stopped.",
            "Bring a host up that reaches its pools, or free memory on one.",
        )
    return place


def hosts_reaching(zone: Zone, pools: AbstractSet[UUID]) -> set[UUID]:
    """The hosts that reach all of these pools, up or not."""
    return {host_id for host_id, reached in _pools_by_host(zone).items() if pools <= reached}


def _pools_by_host(zone: Zone) -> dict[UUID, set[UUID]]:
    reached: dict[UUID, set[UUID]] = defaultdict(set)
    for pool_id, host_id in PoolReach.objects.filter(pool__zone=zone, reachable=True).values_list("pool_id", "host_id"):
        reached[host_id].add(pool_id)
    return reached


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


def _pool_rooms(zone: Zone, template: Template | None, only: StoragePool | None) -> list[PoolRoom]:
    pools = StoragePool.objects.filter(zone=zone)
    if only is not None:
        pools = pools.filter(pk=only.pk)
    reached = _pools_by_host(zone)
    factor = settings_rows.get("storage.overcommit")
    volumes = _sums(Volume.objects.filter(pool__in=pools).exclude(state=Volume.State.REMOVED), F("size_bytes"))
    copies = Placement.objects.filter(pool__in=pools, state__in=TAKES_ROOM)
    copied = _sums(copies, Greatest(Coalesce("size_bytes", "template__size_bytes", 0), 0))
    here = set(copies.filter(template=template).values_list("pool_id", flat=True))
    return [
        PoolRoom(
            pool.pk,
            pool.name,
            min(
                int(pool.capacity_bytes * factor) - volumes.get(pool.pk, 0) - copied.get(pool.pk, 0),
                pool.available_bytes,
            ),
            frozenset(host_id for host_id, pool_ids in reached.items() if pool.pk in pool_ids),
            pool.pk in here,
        )
        for pool in pools
    ]


def _sums(rows: QuerySet[Any], size: F | Func) -> dict[UUID, int]:
    summed = rows.values("pool").order_by().annotate(total=Sum(size))
    return {row["pool"]: row["total"] or 0 for row in summed}
