"""Shorthands of the tests about VMs."""

from typing import Any

from compute_app.actions import Deployment, vm_deploy
from compute_app.models import VM, Volume
from infra_app.models import StoragePool
from operations_app.models import Operation, Reservation, Waiter
from templates_app.actions import template_prepare
from templates_app.models import Placement, Template
from tests.unit.templates_app.fleet import GIB, Fleet, committed

MIB = 1 << 20


def deploy(fleet: Fleet, template: Template, **changes: Any) -> tuple[VM, Operation]:
    wanted = {
        "name": "vm",
        "account": fleet.account,
        "template": template,
        "zone": fleet.zone,
        "cpus": 1,
        "memory_bytes": GIB,
        **changes,
    }
    with committed():
        return vm_deploy(Deployment(**wanted))


def deployed(fleet: Fleet, template: Template, **changes: Any) -> VM:
    """A VM whose deployment is over: running unless ``start`` is false."""
    vm, operation = deploy(fleet, template, **changes)
    assert fleet.works(operation).state == "succeeded", operation.error
    vm.refresh_from_db()
    return vm


def on_pool(fleet: Fleet, template: Template, pool: StoragePool) -> Placement:
    """The template, downloaded to the pool."""
    with committed():
        operation = template_prepare(template, pool)
    fleet.works(operation)
    return Placement.objects.get(template=template, pool=pool)


def shown(vm: VM) -> tuple[str, str, str | None]:
    """State, power state and host's name, as they are in the database."""
    vm.refresh_from_db()
    return vm.state, vm.power_state, vm.host.name if vm.host else None


def volume_states(vm: VM) -> list[str]:
    return list(Volume.objects.filter(vm=vm).order_by("device_index").values_list("state", flat=True))


def nothing_held() -> bool:
    """No reservation and no waiter is left."""
    return not Reservation.objects.exists() and not Waiter.objects.exists()
