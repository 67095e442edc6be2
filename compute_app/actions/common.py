"""What the actions of this room share."""

from compute_app.models import VM, Volume
from core_app.errors import WrongState
from operations_app.actions import Resource
from operations_app.models import Reservation
from templates_app.actions import lock_zone


def locked(vm: VM, verb: str, *needed: str) -> VM:
    """The VM as it is, locked after its zone. Raises WrongState unless its state is one of those."""
    lock_zone(vm.zone_id)
    found = VM.objects.select_for_update(no_key=True).get(pk=vm.pk)
    if found.state in needed:
        return found
    holder = Reservation.objects.filter(resource_type="vm", resource_id=vm.pk, exclusive=True).first()
    raise WrongState(
        f"{found} is {found.state}.",
        f"It cannot be {verb} now.",
        f"It can be {verb} when it is {' or '.join(needed)}.",
        operation=holder.operation_id if holder else None,
    )


def resources(vm: VM) -> list[Resource]:
    """What an operation on a VM as a whole takes: the VM and its volumes."""
    volumes = vm.volumes.exclude(state=Volume.State.REMOVED).values_list("pk", flat=True)
    return [("vm", vm.pk), *(("volume", pk) for pk in volumes)]
