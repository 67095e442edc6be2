"""Shorthands of the tests about VMs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

from django.db import connection

from compute_app.actions import Deployment, vm_deploy
from compute_app.models import VM, Volume, VolumeFile
from core_app.errors import CloudctlError
from infra_app.models import Agent, StoragePool
from operations_app.models import Operation, Reservation, Waiter
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


def existing(fleet: Fleet, template: Template, pool: StoragePool, host: Agent | None, **changes: Any) -> VM:
    """The rows of a VM with a data disk that was deployed a while ago; it runs if it has a host."""
    placement = Placement.objects.filter(template=template, pool=pool).first() or fleet.on_pool(template, pool)
    power = {"state": "running", "power_state": "running"} if host else {"state": "stopped", "power_state": "off"}
    power["host_boot_id"] = host.boot_id if host else ""
    where = {"host_id": host and host.pk, "last_host": pool.reaches.first().host, "facts_epoch": 1}  # type: ignore[union-attr]
    fields = {"name": "vm", "account": fleet.account, "zone": fleet.zone, "template": template, "cpus": 1}
    vm = VM.objects.create(**(fields | power | where | {"memory_bytes": GIB} | changes))
    for index, size in enumerate((GIB, MIB)):
        name = f"{vm.name}-root" if index == 0 else f"{vm.name}-data{index}"
        volume = Volume.objects.create(
            account=vm.account, name=name, vm=vm, device_index=index, pool=pool, size_bytes=size, state="ready"
        )
        volume.top = VolumeFile.objects.create(
            volume=volume,
            file_name=f"volume-{volume.pk}.qcow2",
            virtual_size_bytes=size,
            backing_placement=placement if index == 0 else None,
        )
        volume.save()
    return vm


def shown(vm: VM) -> tuple[str, str, str | None]:
    """State, power state and host's name, as they are in the database."""
    vm.refresh_from_db()
    return vm.state, vm.power_state, vm.host.name if vm.host else None


def volume_states(vm: VM) -> list[str]:
    return list(Volume.objects.filter(vm=vm).order_by("device_index").values_list("state", flat=True))


def nothing_held() -> bool:
    """No reservation and no waiter is left."""
    return not Reservation.objects.exists() and not Waiter.objects.exists()


def at_once(*deeds: Callable[[], Any]) -> list[Any]:
    """What a thread for each got, or the refusal it was given, all having begun together."""
    barrier = Barrier(len(deeds))

    def one(deed: Callable[[], Any]) -> Any:
        try:
            barrier.wait()
            return deed()
        except CloudctlError as refusal:
            return refusal
        finally:
            connection.close()

    with ThreadPoolExecutor(len(deeds)) as threads:
        return list(threads.map(one, deeds))
