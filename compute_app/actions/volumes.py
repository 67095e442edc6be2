"""What may be asked for: to create, attach, detach, resize and delete volumes. Each action is one transaction."""

from dataclasses import dataclass

from django.db import transaction

from accounts_app import limits
from accounts_app.models import Account, User
from compute_app import accounting, placing
from compute_app.actions.common import host_of, locked, locked_volume, new_volume
from compute_app.models import DATA_DISKS_MAX, VM, Volume
from compute_app.rules import Need
from core_app.errors import InvalidInput, NoRoom, WrongState
from core_app.names import check_name
from infra_app.models import StoragePool, Zone
from operations_app.actions import Resource, submit
from operations_app.models import Operation
from templates_app.actions import lock_zone

SECTOR_BYTES = 512
"""A disk has whole sectors."""


@dataclass(frozen=True, slots=True)
class NewVolume:
    """A volume as its user describes it. ``pool`` None: the roomiest that a host with room reaches."""

    name: str
    account: Account
    zone: Zone
    size_bytes: int
    pool: StoragePool | None = None


def volume_create(wanted: NewVolume, user: User | None = None) -> tuple[Volume, Operation]:
    """Make an empty volume that is no VM's disk yet. Raises InvalidInput, LimitExceeded, NoRoom."""
    check_name(wanted.name)
    with transaction.atomic():
        lock_zone(wanted.zone.pk)
        _check_place(wanted)
        _check_sectors(wanted.size_bytes)
        place = placing.find_place(wanted.zone, Need(0, wanted.size_bytes), pool=wanted.pool)
        limits.take(wanted.account, accounting.of_volumes([wanted.size_bytes]))
        volume = new_volume(
            account=wanted.account,
            name=wanted.name,
            pool_id=place.pool_id,
            size_bytes=wanted.size_bytes,
            outlives_vm=True,
        )
        data = {"host": str(place.host_id)}
        return volume, submit("volume.create", volume, exclusive=[_of(volume)], data=data, user=user)


def volume_attach(volume: Volume, vm: VM, user: User | None = None) -> Operation:
    """Make a volume a disk of a running or stopped VM of the same account, in a zone and on a pool that it reaches.

    Raises InvalidInput, WrongState, NoRoom (it has 23 data disks), Busy.
    """
    with transaction.atomic():
        volume = locked_volume(volume, "attached")
        if volume.vm is not None:
            raise _attached(volume, "It cannot be attached a second time.", "Detach it first.")
        _check_kin(volume, vm)
        vm = locked(vm, "given a volume", VM.State.RUNNING, VM.State.STOPPED)
        _check_reach(volume, vm)
        data = {"vm": str(vm.pk), "host": host_of(vm), "device_index": _free_index(vm)}
        return submit("volume.attach", volume, exclusive=[_of(volume), ("vm", vm.pk)], data=data, user=user)


def volume_detach(volume: Volume, user: User | None = None) -> Operation:
    """Take a data disk from its VM; a guest that runs is asked to let go of it. Raises WrongState, Busy."""
    with transaction.atomic():
        volume = locked_volume(volume, "detached")
        if volume.vm is None:
            raise WrongState(f"{volume} is no VM's disk.", "There is nothing to detach it from.", "Look at its VM.")
        if volume.device_index == 0:
            raise WrongState(
                f"{volume} is the root disk of {volume.vm}.",
                "It stays attached: no VM is without one.",
                "Detach data disks; expunge the VM to be rid of its root disk.",
            )
        vm = locked(volume.vm, "relieved of a volume", VM.State.RUNNING, VM.State.STOPPED, VM.State.DESTROYED)
        data = {"vm": str(vm.pk), "host": host_of(vm)}
        return submit("volume.detach", volume, exclusive=[_of(volume), ("vm", vm.pk)], data=data, user=user)


def volume_resize(volume: Volume, size_bytes: int, user: User | None = None) -> Operation:
    """Let a volume grow; its VM, if it has one, runs or is stopped. The room is promised to it at once.

    Raises InvalidInput (not larger, no whole sectors), LimitExceeded, NoRoom, WrongState, Busy.
    """
    with transaction.atomic():
        volume = locked_volume(volume, "resized")
        _check_sectors(size_bytes)
        _check_larger(volume, size_bytes)
        vm = locked(volume.vm, "given a larger disk", VM.State.RUNNING, VM.State.STOPPED) if volume.vm else None
        growth = size_bytes - volume.size_bytes
        place = placing.find_place(volume.pool.zone, Need(0, growth), pool=volume.pool)
        limits.take(volume.account, accounting.of_growth(growth))
        data = {
            "host": (vm and host_of(vm)) or str(place.host_id),
            "was_bytes": volume.size_bytes,
            "size_bytes": size_bytes,
        }
        Volume.objects.filter(pk=volume.pk).update(size_bytes=size_bytes)
        holds = [_of(volume), *([("vm", vm.pk)] if vm else [])]
        return submit("volume.resize", volume, exclusive=holds, data=data, user=user)


def volume_delete(volume: Volume, user: User | None = None) -> Operation:
    """Remove a volume that is no VM's disk, with its files, for good. Raises WrongState, Busy."""
    with transaction.atomic():
        volume = locked_volume(volume, "deleted")
        if volume.vm is not None:
            raise _attached(volume, "It was not deleted.", "Detach it first; a root disk goes when its VM is expunged.")
        return submit("volume.delete", volume, exclusive=[_of(volume)], user=user)


def _of(volume: Volume) -> Resource:
    return ("volume", volume.pk)


def _check_place(wanted: NewVolume) -> None:
    errors = {}
    if not wanted.zone.enabled:
        errors["zone"] = [f"{wanted.zone} is disabled."]
    if wanted.pool is not None and wanted.pool.zone_id != wanted.zone.pk:
        errors["pool"] = [f"{wanted.pool} is not in zone {wanted.zone}."]
    if errors:
        raise InvalidInput(
            " ".join(message for messages in errors.values() for message in messages),
            "No volume was made.",
            "Choose a zone that is enabled, and a pool in it; or leave the pool out: one is chosen.",
            errors=errors,
        )


def _check_sectors(size_bytes: int) -> None:
    if size_bytes % SECTOR_BYTES:
        raise InvalidInput(
            f"{size_bytes} is not a multiple of {SECTOR_BYTES}.",
            "Nothing was made or changed.",
            f"A disk has whole sectors: ask for {-(-size_bytes // SECTOR_BYTES) * SECTOR_BYTES} bytes.",
            errors={"size_bytes": [f"It must be a multiple of {SECTOR_BYTES}."]},
        )


def _check_larger(volume: Volume, size_bytes: int) -> None:
    if size_bytes <= volume.size_bytes:
        raise InvalidInput(
            f"{volume} has {volume.size_bytes} bytes, {size_bytes} is not more.",
            "It was not changed: a volume never shrinks, since its end would be cut off.",
            "Ask for more; to have less, create a smaller volume and copy the data inside a guest.",
            errors={"size_bytes": [f"More than {volume.size_bytes}."]},
        )


def _check_kin(volume: Volume, vm: VM) -> None:
    why = ""
    if vm.account_id != volume.account_id:
        why = f"{vm} and {volume} belong to different accounts."
    elif vm.zone_id != volume.pool.zone_id:
        why = f"{vm} is in zone {vm.zone}, {volume} in zone {volume.pool.zone}."
    if why:
        raise InvalidInput(
            why,
            "It was not attached.",
            "Choose a VM of the volume's account and zone.",
            errors={"vm": [why]},
        )


def _check_reach(volume: Volume, vm: VM) -> None:
    """The host that it runs on, or one that it could start on, reaches this pool beside those it needs already."""
    pools = set(vm.volumes.exclude(state=Volume.State.REMOVED).values_list("pool_id", flat=True)) | {volume.pool_id}
    reaching = placing.hosts_reaching(vm.zone, pools)
    if vm.host_id in reaching or (vm.host_id is None and reaching):
        return
    where = f"{vm.host} does not reach" if vm.host else f"No host reaches all pools of {vm} and"
    raise WrongState(
        f"{where} pool {volume.pool}, where {volume} lies.",
        "It was not attached.",
        "Make the pool reachable there, or have the volume on a pool that is.",
        code="pool_not_reached",
    )


def _free_index(vm: VM) -> int:
    taken = set(vm.volumes.exclude(state=Volume.State.REMOVED).values_list("device_index", flat=True))
    for index in range(1, DATA_DISKS_MAX + 1):
        if index not in taken:
            return index
    raise NoRoom(
        f"{vm} has {DATA_DISKS_MAX} data disks.",
        "No other was attached.",
        "Detach one first.",
    )


def _attached(volume: Volume, consequence: str, remedy: str) -> WrongState:
    return WrongState(f"{volume} is {volume.device} of {volume.vm}.", consequence, remedy)
