"""What the actions of this room share."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from compute_app.models import VM, Volume, VolumeFile
from core_app.errors import WrongState
from operations_app.actions import Resource
from operations_app.models import Reservation
from templates_app.actions import lock_zone
from templates_app.models import Placement


def locked(vm: VM, verb: str, *needed: str) -> VM:
    """The VM as it is, locked after its zone. Raises WrongState unless its state is one of those."""
    lock_zone(vm.zone_id)
    found = VM.objects.select_for_update(no_key=True).get(pk=vm.pk)
    _check_state(found, ("vm", vm.pk), verb, needed)
    return found


def locked_volume(volume: Volume, verb: str) -> Volume:
    """The volume as it is, locked after its zone. Raises WrongState unless it is ready."""
    lock_zone(volume.pool.zone_id)
    found = Volume.objects.select_for_update(no_key=True).get(pk=volume.pk)
    _check_state(found, ("volume", volume.pk), verb, (Volume.State.READY,))
    return found


def _check_state(found: VM | Volume, resource: Resource, verb: str, needed: Collection[str]) -> None:
    if found.state not in needed:
        raise WrongState(
            f"{found} is {found.state}.",
            f"It cannot be {verb} now.",
            f"It can be {verb} when it is {' or '.join(needed)}.",
            operation=_holder_of(*resource),
        )


def _holder_of(resource_type: str, resource_id: UUID) -> UUID | None:
    """The operation that has it for itself now."""
    held = Reservation.objects.filter(resource_type=resource_type, resource_id=resource_id, exclusive=True)
    return held.values_list("operation_id", flat=True).first()


def host_of(vm: VM) -> str | None:
    """The host where it may run, as an operation's data has it."""
    return str(vm.host_id) if vm.host_id else None


def new_volume(backing: Placement | None = None, **fields: Any) -> Volume:
    """The rows of a volume that is yet to be made, as an overlay on a template's copy or empty."""
    volume = Volume.objects.create(**fields)
    volume.top = VolumeFile.objects.create(
        volume=volume,
        file_name=f"volume-{volume.pk}.qcow2",
        virtual_size_bytes=volume.size_bytes,
        backing_placement=backing,
    )
    volume.save(update_fields=["top"])
    return volume


def resources(vm: VM) -> list[Resource]:
    """What an operation on a VM as a whole takes: the VM and its volumes."""
    volumes = vm.volumes.exclude(state=Volume.State.REMOVED).values_list("pk", flat=True)
    return [("vm", vm.pk), *(("volume", pk) for pk in volumes)]
