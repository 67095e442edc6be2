"""What the operations on volumes do, step by step."""

from collections.abc import Sequence
from typing import Any

from accounts_app import limits
from compute_app import accounting
from compute_app.models import Volume, VolumeFile, device_name
from compute_app.workflows.payloads import (
    attachment,
    creation,
    detachment,
    growth,
    removal_anywhere,
    uncreation,
    volume_lane,
)
from core_app import events
from operations_app.models import Command, Operation
from operations_app.rules import OperationState
from operations_app.workflow import CommandSpec, Step, Workflow, left_nothing


def volume_of(operation: Operation) -> Volume:
    return Volume.objects.select_related("pool", "top").get(pk=operation.target_id)


def let_go(volume: Volume) -> None:
    """A volume is no VM's disk any more, and is nobody's but its account's from now on."""
    message = f"it was {volume.device} of {volume.vm}"
    if Volume.objects.filter(pk=volume.pk, vm=volume.vm_id).update(vm=None, device_index=0, outlives_vm=True):
        events.record("volume.detached", volume, message)


# --- steps ---------------------------------------------------------------------------------------------------------


class CreateFile(Step):
    """The volume's file, empty."""

    name = "create the file"

    def send(self, operation: Operation) -> Sequence[CommandSpec]:
        volume = volume_of(operation)
        host = operation.data["host"]
        return [CommandSpec("volume.create", host, volume_lane(volume), creation(volume), str(volume.pk))]

    def undo(self, operation: Operation) -> Sequence[CommandSpec]:
        return uncreation(operation, volume_of(operation), operation.data["host"])


class AttachDisk(Step):
    """Give the disk to the running VM; one that is stopped has it with its next start."""

    name = "attach"

    def send(self, operation: Operation) -> Sequence[CommandSpec]:
        said = operation.data
        if said["host"] is None:
            return ()
        return [attachment(volume_of(operation), said["vm"], said["host"], said["device_index"])]

    def undo(self, operation: Operation) -> Sequence[CommandSpec]:
        """Where an agent itself gave up nothing is attached; in any other case that is made sure."""
        attach = operation.commands.filter(kind="volume.attach").first()
        if attach is None or left_nothing(attach):
            return ()
        return [detachment(volume_of(operation), operation.data["vm"], operation.data["host"])]


class DetachDisk(Step):
    """Ask the running guest to let go; a stopped VM holds nothing."""

    name = "detach"

    def send(self, operation: Operation) -> Sequence[CommandSpec]:
        host_id = operation.data["host"]
        return [detachment(volume_of(operation), operation.data["vm"], host_id)] if host_id else ()


class Grow(Step):
    """Let it grow where it is open, or its file. What has not grown is as before, so there is nothing to undo."""

    name = "resize"

    def send(self, operation: Operation) -> Sequence[CommandSpec]:
        return [growth(volume_of(operation), operation.data["host"])]

    def done(self, operation: Operation, command: Command) -> None:
        operation.result = command.answer


class RemoveFiles(Step):
    """Remove all its files, for good."""

    name = "remove the files"
    forward_only = True

    def send(self, operation: Operation) -> Sequence[CommandSpec]:
        return [removal_anywhere(volume_of(operation), None)]


# --- workflows -----------------------------------------------------------------------------------------------------


class CreateVolume(Workflow):
    kind = "volume.create"
    steps = (CreateFile(),)

    def ended(self, operation: Operation) -> None:
        volume = volume_of(operation)
        if operation.state == OperationState.SUCCEEDED:
            accounting.volume_made(volume)
        else:
            accounting.volume_removed(volume)


class AttachVolume(Workflow):
    """The volume is the VM's when all is done, not before."""

    kind = "volume.attach"
    steps = (AttachDisk(),)

    def ended(self, operation: Operation) -> None:
        if operation.state != OperationState.SUCCEEDED:
            return
        said, volume = operation.data, volume_of(operation)
        attached: dict[str, Any] = {"vm": said["vm"], "device_index": said["device_index"]}
        if Volume.objects.filter(pk=volume.pk, vm=None, state=Volume.State.READY).update(**attached):
            events.record("volume.attached", volume, f"as {device_name(said['device_index'])}", details=attached)


class DetachVolume(Workflow):
    kind = "volume.detach"
    steps = (DetachDisk(),)

    def ended(self, operation: Operation) -> None:
        if operation.state == OperationState.SUCCEEDED:
            let_go(volume_of(operation))


class ResizeVolume(Workflow):
    """The room was promised when it was asked for; what did not grow gives it back."""

    kind = "volume.resize"
    steps = (Grow(),)

    def ended(self, operation: Operation) -> None:
        volume, was, now = volume_of(operation), operation.data["was_bytes"], operation.data["size_bytes"]
        if operation.state == OperationState.SUCCEEDED:
            VolumeFile.objects.filter(top_of=volume.pk).update(virtual_size_bytes=now)
            accounting.volume_resized(volume)
            events.record("volume.resized", volume, details={"was_bytes": was, "size_bytes": now})
        elif Volume.objects.filter(pk=volume.pk, size_bytes=now).update(size_bytes=was):
            limits.give_back(volume.account, accounting.of_growth(now - was))


class DeleteVolume(Workflow):
    """It has only one end: its step goes forward until it is done."""

    kind = "volume.delete"
    steps = (RemoveFiles(),)

    def ended(self, operation: Operation) -> None:
        accounting.volume_removed(volume_of(operation))
