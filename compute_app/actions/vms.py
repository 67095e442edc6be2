"""What may be asked for: to deploy VMs and all that is done to them as a whole. Each action is one transaction."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db import transaction

from accounts_app import limits
from accounts_app.models import Account, User
from compute_app import accounting, placing
from compute_app.actions.common import host_of, locked, new_volume, resources
from compute_app.actions.networks import new_mac
from compute_app.models import VM, Network, Nic, Volume
from compute_app.rules import Need
from core_app import events
from core_app.errors import CloudctlError, InvalidInput, WrongState
from core_app.names import check_name
from core_app.sealing import encrypt_at_rest
from core_app.transitions import transition
from infra_app.models import Agent, Host, StoragePool, Zone
from operations_app.actions import submit
from operations_app.models import Operation
from templates_app.actions import ensure_placement, lock_zone
from templates_app.models import Placement, Template


@dataclass(frozen=True, slots=True)
class Deployment:
    """A VM as its user describes it. Sizes in bytes; ``root_size_bytes`` None: as large as the template."""

    name: str
    account: Account
    template: Template
    zone: Zone
    cpus: int
    memory_bytes: int
    root_size_bytes: int | None = None
    data_disk_sizes: Sequence[int] = field(default=())
    pool: StoragePool | None = None
    host: Host | None = None
    start: bool = True
    user_data: str = ""
    ssh_keys: Sequence[str] = field(default=())
    networks: Sequence[Network] = field(default=())
    restart_after_boot: bool = False


def vm_deploy(wanted: Deployment, user: User | None = None) -> tuple[VM, Operation]:
    """Make a VM from a template: its host and pool are chosen by room, and what it needs is promised to it.

    Raises InvalidInput, WrongState (template not ready, host not up), LimitExceeded, NoRoom, Busy (as
    ``ensure_placement``).
    """
    check_name(wanted.name)
    with transaction.atomic():
        lock_zone(wanted.zone.pk)
        _check_where(wanted)
        sizes = _disk_sizes(wanted)
        limits.take(wanted.account, accounting.of_vm() | accounting.of_volumes(sizes))
        need = Need(
            memory_bytes=wanted.memory_bytes if wanted.start else 0,
            disk_bytes=sum(sizes),
            template_bytes=max(wanted.template.size_bytes or 0, 0),
        )
        place = placing.find_place(wanted.zone, need, template=wanted.template, host=wanted.host, pool=wanted.pool)
        pool = StoragePool.objects.get(pk=place.pool_id)
        placement, _ = ensure_placement(wanted.template, pool, for_waiters=True, user=user)
        vm = VM.objects.create(
            account=wanted.account,
            name=wanted.name,
            zone=wanted.zone,
            template=wanted.template,
            cpus=wanted.cpus,
            memory_bytes=wanted.memory_bytes,
            host_id=place.host_id if wanted.start else None,
            last_host_id=place.host_id,
            seed=_seed(wanted),
            restart_after_boot=wanted.restart_after_boot,
        )
        Nic.objects.bulk_create(
            Nic(vm=vm, network=network, index=index, mac=new_mac()) for index, network in enumerate(wanted.networks)
        )
        volumes = [_new_volume(vm, index, size, pool, placement) for index, size in enumerate(sizes)]
        operation = submit(
            "vm.deploy",
            vm,
            exclusive=[("vm", vm.pk), *(("volume", volume.pk) for volume in volumes)],
            shared=[("placement", placement.pk)],
            data={"placement": str(placement.pk), "host": str(place.host_id), "start": wanted.start},
            user=user,
        )
    return vm, operation


def _seed(wanted: Deployment) -> str:
    """Encrypted; empty where the user gave nothing for it."""
    if not wanted.user_data and not wanted.ssh_keys:
        return ""
    return encrypt_at_rest(json.dumps({"user_data": wanted.user_data, "ssh_keys": list(wanted.ssh_keys)}))


def _check_where(wanted: Deployment) -> None:
    zone = wanted.zone
    errors = {}
    if not zone.enabled:
        errors["zone"] = [f"{zone} is disabled."]
    elif not wanted.template.zones.filter(pk=zone.pk).exists():
        errors["zone"] = [f"{wanted.template} is not in zone {zone}."]
    if wanted.pool is not None and wanted.pool.zone_id != zone.pk:
        errors["pool"] = [f"{wanted.pool} is not in zone {zone}."]
    if strangers := [network.name for network in wanted.networks if network.zone_id != zone.pk]:
        errors["networks"] = [f"{', '.join(strangers)} is not in zone {zone}."]
    if wanted.host is not None and wanted.host.agent.zone_id != zone.pk:
        errors["host"] = [f"{wanted.host} is not in zone {zone}."]
    if errors:
        raise InvalidInput(
            " ".join(message for messages in errors.values() for message in messages),
            "The VM was not deployed.",
            "Choose a zone that is enabled and has all of them.",
            errors=errors,
        )
    if wanted.host is not None and wanted.host.agent.state != Agent.State.UP:
        raise WrongState(
            f"{wanted.host} is {wanted.host.agent.state}.",
            "The VM was not deployed.",
            "Bring the host up, or leave it out: one is chosen.",
        )


def _disk_sizes(wanted: Deployment) -> list[int]:
    template = wanted.template
    if template.is_iso:
        raise InvalidInput(
            f"{template} is an ISO.",
            "A VM cannot be deployed from it.",
            "Choose a template with a disk image.",
            errors={"template": ["It is an ISO."]},
        )
    smallest = max(template.virtual_size_bytes or 0, 0)
    root = wanted.root_size_bytes or smallest
    if root < smallest:
        raise InvalidInput(
            f"The root disk would have {root} bytes, the template has {smallest}.",
            "The VM was not deployed: its disk would be cut off.",
            f"Ask for {smallest} bytes or more, or leave the size out.",
            errors={"root_size_bytes": [f"At least {smallest}."]},
        )
    return [root, *wanted.data_disk_sizes]


def _new_volume(vm: VM, index: int, size: int, pool: StoragePool, placement: Placement) -> Volume:
    name = f"{vm.name[:240]}-root" if index == 0 else f"{vm.name[:240]}-data{index}"
    backing = placement if index == 0 else None
    return new_volume(backing, account=vm.account, name=name, vm=vm, device_index=index, pool=pool, size_bytes=size)


def vm_start(vm: VM, user: User | None = None, *, host: Host | None = None) -> Operation:
    """Start a stopped VM on a host with room that reaches its pools; on ``host`` if it is given.

    Raises WrongState, NoRoom, Busy.
    """
    with transaction.atomic():
        vm = locked(vm, "started", VM.State.STOPPED)
        host_id = placing.find_host(vm, host)
        sets = {"host_id": host_id, "last_host_id": host_id, "restart_due": False}
        transition(vm, VM.State.STARTING, event="vm.starting", sets=sets)
        return submit("vm.start", vm, exclusive=resources(vm), data={"host": str(host_id)}, user=user)


def vm_stop(vm: VM, *, force: bool, then_force_after: int | None = None, user: User | None = None) -> Operation:
    """Stop a running VM: ask the guest, or take its power away; ``then_force_after``: seconds between the two.

    Without it a guest that was asked and does not stop runs on. Raises WrongState, Busy.
    """
    with transaction.atomic():
        vm = locked(vm, "stopped", VM.State.RUNNING)
        transition(vm, VM.State.STOPPING, event="vm.stopping")
        data = {"host": str(vm.host_id), "force": force, "then_force_after": then_force_after}
        return submit("vm.stop", vm, exclusive=resources(vm), data=data, user=user)


def vm_reboot(vm: VM, *, force: bool, then_force_after: int | None = None, user: User | None = None) -> Operation:
    """Reboot a running VM: ask the guest, or reset its machine; ``then_force_after`` as in :func:`vm_stop`."""
    with transaction.atomic():
        vm = locked(vm, "rebooted", VM.State.RUNNING)
        data = {"host": str(vm.host_id), "force": force, "then_force_after": then_force_after}
        return submit("vm.reboot", vm, exclusive=resources(vm), data=data, user=user)


def vm_resume(vm: VM, user: User | None = None) -> Operation:
    """Let a VM go on that is paused where it runs, such as one whose pool was full. Raises WrongState, Busy."""
    with transaction.atomic():
        vm = locked(vm, "resumed", VM.State.RUNNING)
        return submit("vm.resume", vm, exclusive=resources(vm), data={"host": str(vm.host_id)}, user=user)


def vm_console(vm: VM, *, lines: int, user: User | None = None) -> Operation:
    """Read the last lines of a VM's serial console, also while something else is done to it, and when it is off.

    Raises WrongState: no host has it, or the host is not up.
    """
    with transaction.atomic():
        hosts = Agent.objects.filter(pk__in=[pk for pk in (vm.host_id or vm.last_host_id,) if pk])
        host = hosts.filter(state=Agent.State.UP).first()
        if host is None or vm.state == VM.State.EXPUNGED:
            raise WrongState(
                f"{vm} is expunged." if vm.state == VM.State.EXPUNGED else f"The host where {vm} last ran is not up.",
                "Its console cannot be read.",
                "Bring the host up; only there its console is kept.",
            )
        return submit("vm.console", vm, data={"host": str(host.pk), "lines": lines}, user=user)


def vm_destroy(vm: VM, *, expunge: bool, user: User | None = None) -> Operation:
    """Take a VM's power away; with ``expunge`` remove its volumes too, for good. Raises WrongState, Busy.

    Volumes that were made by themselves, or detached once, are not the VM's own: expunging it detaches them.

    One that has no volumes, since its deployment failed, is gone for good either way: there is nothing to keep.
    """
    destroyable = [VM.State.STOPPED, VM.State.RUNNING, VM.State.ERROR]
    with transaction.atomic():
        vm = locked(vm, "destroyed", *destroyable, *([VM.State.DESTROYED] if expunge else []))
        expunge = expunge or not vm.volumes.exclude(state=Volume.State.REMOVED).exists()
        return _destroy(vm, expunge=expunge, user=user)


def vm_change(vm: VM, *, restart_after_boot: bool) -> VM:
    """Change what may be changed of a VM at any time."""
    with transaction.atomic():
        vm = VM.objects.select_for_update(no_key=True).get(pk=vm.pk)
        if vm.restart_after_boot != restart_after_boot:
            vm.restart_after_boot = restart_after_boot
            vm.save(update_fields=["restart_after_boot"])
            events.record("vm.changed", vm, details={"restart_after_boot": restart_after_boot})
    return vm


def vm_restart_after_boot(vm: VM) -> None:
    """Start a VM again on the host that booted anew under it, if that is still wanted; once, whatever comes of it."""
    with transaction.atomic():
        lock_zone(vm.zone_id)
        if not VM.objects.filter(pk=vm.pk, restart_due=True).update(restart_due=False):
            return
        try:
            vm_start(vm, host=vm.last_host)
        except CloudctlError as error:
            text = f"it was not started again after its host's boot: {error}"
            events.record("vm.not_restarted", vm, text, level="alarm")


def _destroy(vm: VM, *, expunge: bool, user: User | None) -> Operation:
    transition(vm, VM.State.DESTROYING, event="vm.destroying", sets={"restart_due": False})
    data = {"host": host_of(vm), "expunge": expunge}
    return submit("vm.destroy", vm, exclusive=resources(vm), data=data, user=user)


def vm_recover(vm: VM) -> VM:
    """Take back a destruction: the VM is stopped, with all its volumes. Raises WrongState."""
    with transaction.atomic():
        vm = locked(vm, "recovered", VM.State.DESTROYED)
        if not vm.volumes.filter(device_index=0, state=Volume.State.READY).exists():
            raise WrongState(
                f"{vm} has no root disk: its deployment had failed.",
                "It cannot be recovered.",
                "Expunge it, and deploy another.",
            )
        transition(vm, VM.State.STOPPED, event="vm.recovered", sets={"destroyed_at": None})
    return vm


def vm_expunge_overdue(vm: VM, destroyed_before: datetime) -> Operation | None:
    """Expunge a VM that was destroyed before that moment, by itself: nobody asks for it.

    None where it is not due any more (recovered meanwhile), or where nothing is to be deleted by itself.
    """
    with transaction.atomic():
        vm = locked(vm, "expunged", VM.State.DESTROYED)
        suspended = Zone.objects.filter(pk=vm.zone_id, deletions_suspended=True).exists()
        if suspended or vm.destroyed_at is None or vm.destroyed_at >= destroyed_before:
            return None
        return _destroy(vm, expunge=True, user=None)
