"""What the workflows' steps send, made from rows."""

import json
from typing import Any, Literal
from uuid import UUID

from django.db.models import QuerySet

from agents.protocol.kinds import (
    Disk,
    ImageFile,
    Nic,
    SeedCreate,
    VmConsole,
    VmReboot,
    VmResume,
    VmStart,
    VmStop,
    VolumeAttach,
    VolumeCreate,
    VolumeDetach,
    VolumeRemove,
    VolumeResize,
)
from agents.protocol.states import CommandState
from compute_app.models import VM, Volume, VolumeFile, device_name
from compute_app.rules import hostname_of
from core_app import settings_rows
from core_app.sealing import decrypt_at_rest
from infra_app.reaching import host_for_removal
from operations_app.models import Operation
from operations_app.workflow import CommandSpec, Refused, is_done, left_nothing
from templates_app.models import Placement

GRACEFUL_SECONDS = 60
LET_GO_SECONDS = 30
"""How long a guest has to let go of a disk."""


def vm_of(operation: Operation) -> VM:
    return VM.objects.get(pk=operation.target_id)


def vm_lane(vm_id: UUID | str) -> str:
    return f"vm:{vm_id}"


def volume_lane(volume: Volume) -> str:
    return f"volume:{volume.pk}"


def stop(vm: VM, host_id: Any, mode: Literal["graceful", "force"], then_force_after: int | None = None) -> CommandSpec:
    """``then_force_after``: seconds after which a guest that was asked has its power taken away; None: never."""
    payload = VmStop(vm_id=str(vm.pk), mode=mode, **_patience(then_force_after))
    return CommandSpec("vm.stop", host_id, vm_lane(vm.pk), payload)


def reboot(vm: VM, host_id: Any, mode: Literal["graceful", "force"], then_force_after: int | None) -> CommandSpec:
    """As :func:`stop`."""
    payload = VmReboot(vm_id=str(vm.pk), mode=mode, **_patience(then_force_after))
    return CommandSpec("vm.reboot", host_id, vm_lane(vm.pk), payload)


def _patience(then_force_after: int | None) -> dict[str, Any]:
    return {"timeout_seconds": then_force_after or GRACEFUL_SECONDS, "then_force": then_force_after is not None}


def resume(vm: VM, host_id: Any) -> CommandSpec:
    return CommandSpec("vm.resume", host_id, vm_lane(vm.pk), VmResume(vm_id=str(vm.pk)))


def console(vm: VM, host_id: Any, lines: int) -> CommandSpec:
    """In a lane of its own: who reads is never behind what is done to the VM."""
    payload = VmConsole(vm_id=str(vm.pk), console_name=_console_name(vm), lines=lines)
    return CommandSpec("vm.console", host_id, f"console:{vm.pk}", payload)


def _console_name(vm: VM) -> str:
    return f"vm-{vm.pk}.log"


def creation(volume: Volume) -> VolumeCreate:
    file = _top(volume)
    return VolumeCreate(
        volume_id=str(volume.pk),
        pool_path=volume.pool.path,
        file_name=file.file_name,
        virtual_size_bytes=file.virtual_size_bytes,
        backing=_template_file(file.backing_placement) if file.backing_placement else None,
    )


def volumes_on_disk(vm: VM) -> QuerySet[Volume]:
    return vm.volumes.exclude(state=Volume.State.REMOVED).select_related("pool", "vm").prefetch_related("files")


def uncreation(operation: Operation, volume: Volume, host_id: Any) -> list[CommandSpec]:
    """What undoes the creation of a volume: nothing where it was taken back before it left anything.

    A final file that the creation is not known to have made is somebody's: it stays.
    """
    creations = operation.commands.filter(kind="volume.create", label=str(volume.pk))
    last = creations.order_by("-seq").first()
    if last is None or (last.state == CommandState.CANCELLED and left_nothing(last)):
        return []
    return [removal(volume, host_id, keep_final=not is_done(last))]


def removal(volume: Volume, host_id: Any, *, keep_final: bool = False) -> CommandSpec:
    """All its files; the VM's seed lies beside the root disk and goes with it."""
    names = [file.file_name for file in volume.files.all()]
    if volume.device_index == 0 and volume.vm and volume.vm.seed:
        names.append(seed_name(volume.vm))
    payload = VolumeRemove(
        volume_id=str(volume.pk), pool_path=volume.pool.path, file_names=tuple(names), keep_final=keep_final
    )
    return CommandSpec("volume.remove", host_id, volume_lane(volume), payload, str(volume.pk))


def removal_anywhere(volume: Volume, preferred: UUID | None) -> CommandSpec:
    """By the preferred host if it is up, else by another that reaches the pool. Raises Refused where none ever did."""
    host_id = host_for_removal(volume.pool, preferred)
    if host_id is None:
        raise Refused(
            "no_host_reaches_pool",
            f"No host reaches pool {volume.pool}, where {volume} lies.",
            "It stays as it is until one does.",
            "Bring a host with this pool up.",
        )
    return removal(volume, host_id)


def attachment(volume: Volume, vm_id: str, host_id: Any, index: int) -> CommandSpec:
    disk = Disk(volume_id=str(volume.pk), target=device_name(index), chain=chain_of(volume))
    return CommandSpec("volume.attach", host_id, vm_lane(vm_id), VolumeAttach(vm_id=vm_id, disk=disk))


def detachment(volume: Volume, vm_id: str, host_id: Any) -> CommandSpec:
    payload = VolumeDetach(vm_id=vm_id, volume_id=str(volume.pk), timeout_seconds=LET_GO_SECONDS)
    return CommandSpec("volume.detach", host_id, vm_lane(vm_id), payload)


def growth(volume: Volume, host_id: Any) -> CommandSpec:
    payload = VolumeResize(
        volume_id=str(volume.pk),
        vm_id=str(volume.vm_id) if volume.vm_id else None,
        chain=chain_of(volume),
        virtual_size_bytes=volume.size_bytes,
    )
    lane = vm_lane(volume.vm_id) if volume.vm_id else volume_lane(volume)
    return CommandSpec("volume.resize", host_id, lane, payload)


def seed_name(vm: VM) -> str:
    """Beside the root disk, whichever pool that is on."""
    return f"seed-{vm.pk}.iso"


def seed(vm: VM, host_id: Any) -> CommandSpec:
    payload = SeedCreate(
        vm_id=str(vm.pk),
        pool_path=_root_pool(vm),
        file_name=seed_name(vm),
        local_hostname=hostname_of(vm.name, vm.pk),
    )
    return CommandSpec("seed.create", host_id, vm_lane(vm.pk), payload, secrets=json.loads(decrypt_at_rest(vm.seed)))


def _root_pool(vm: VM) -> str:
    return vm.volumes.exclude(state=Volume.State.REMOVED).select_related("pool").get(device_index=0).pool.path


def domain(vm: VM) -> VmStart:
    volumes = vm.volumes.filter(state=Volume.State.READY).select_related("pool", "top").order_by("device_index")
    return VmStart(
        vm_id=str(vm.pk),
        name=vm.name,
        cpus=vm.cpus,
        memory_bytes=vm.memory_bytes,
        disks=tuple(Disk(volume_id=str(volume.pk), target=volume.device, chain=chain_of(volume)) for volume in volumes),
        console_name=_console_name(vm),
        accelerator=settings_rows.get("host.accelerator"),
        nics=tuple(
            Nic.model_validate({"mac": nic.mac, "kind": nic.network.kind, "source": nic.network.source})
            for nic in vm.nics.select_related("network")
        ),
        seed_path=f"{_root_pool(vm)}/{seed_name(vm)}" if vm.seed else "",
    )


def chain_of(volume: Volume) -> tuple[ImageFile, ...]:
    """The volume's chain as recorded, from the file that is written to down to the template's copy."""
    chain: list[ImageFile] = []
    file: VolumeFile | None = _top(volume)
    while file is not None:
        chain.append(ImageFile(path=f"{volume.pool.path}/{file.file_name}", format="qcow2"))
        if file.backing_placement is not None:
            chain.append(_template_file(file.backing_placement))
        file = file.backing
    return tuple(chain)


def _template_file(placement: Placement) -> ImageFile:
    return ImageFile(path=placement.path, format="qcow2" if placement.template.format == "qcow2" else "raw")


def _top(volume: Volume) -> VolumeFile:
    if volume.top is None:
        raise ValueError(f"volume {volume.pk} has no file")
    return volume.top
