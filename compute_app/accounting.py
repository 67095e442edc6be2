"""What VMs and volumes count for at their account: its limits, and its usage records."""

from collections.abc import Iterable
from uuid import UUID

from django.db.models import Sum

from accounts_app import limits, usage
from accounts_app.models import Resource
from compute_app.models import VM, Volume
from core_app.transitions import transition

USES_A_HOST = (VM.State.RUNNING, VM.State.STOPPING)


def of_vm() -> dict[str, int]:
    """A VM counts until it is expunged."""
    return {Resource.VMS: 1}


def of_volumes(sizes: Iterable[int]) -> dict[str, int]:
    """A volume counts with its size as the guest sees it, from when it is asked for until it is removed."""
    sizes = list(sizes)
    return {Resource.VOLUMES: len(sizes), Resource.PRIMARY_STORAGE_BYTES: sum(sizes)}


def of_growth(size_bytes: int) -> dict[str, int]:
    """What a volume that grows counts for more, from when it is asked for."""
    return {Resource.PRIMARY_STORAGE_BYTES: size_bytes}


def volume_made(volume: Volume) -> None:
    """A volume's files are there: it is used from now on."""
    if transition(volume, Volume.State.READY, event="volume.ready"):
        volume_resized(volume)


def volume_resized(volume: Volume) -> None:
    """A volume is used with the size that it has now."""
    usage.record("volume", volume, size_bytes=volume.size_bytes)


def volume_removed(volume: Volume) -> None:
    """A volume's files are gone, or there never were any: it counts no more."""
    if transition(volume, Volume.State.REMOVED, event="volume.removed"):
        limits.give_back(volume.account, of_volumes([volume.size_bytes]))
        usage.record("volume", volume, count=0)


def vm_moved(vm: VM) -> None:
    """A VM is in another state: it uses CPUs and memory where that takes both, be it running or on its way."""
    usage.record("vm.running", vm, count=vm.cpus if vm.state in USES_A_HOST else 0, size_bytes=vm.memory_bytes)


def count_vms(account_id: UUID) -> int:
    return VM.objects.filter(account=account_id).exclude(state=VM.State.EXPUNGED).count()


def count_volumes(account_id: UUID) -> int:
    return Volume.objects.filter(account=account_id).exclude(state=Volume.State.REMOVED).count()


def count_bytes(account_id: UUID) -> int:
    there = Volume.objects.filter(account=account_id).exclude(state=Volume.State.REMOVED)
    return there.aggregate(total=Sum("size_bytes"))["total"] or 0
