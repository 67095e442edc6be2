"""What the operations on VMs do, step by step."""

from collections.abc import Sequence
from typing import Any, Literal

from django.utils import timezone

from accounts_app import limits
from compute_app import accounting
from compute_app.models import OFF, VM, Volume
from compute_app.workflows.payloads import (
    console,
    creation,
    domain,
    reboot,
    removal_anywhere,
    resume,
    seed,
    stop,
    uncreation,
    vm_lane,
    vm_of,
    volume_lane,
    volumes_on_disk,
)
from compute_app.workflows.volumes import let_go
from core_app import events
from core_app.transitions import transition
from operations_app.models import Command, Operation
from operations_app.rules import OperationState
from operations_app.workflow import CommandSpec, Refused, Step, Wait, Workflow, left_nothing
from templates_app.models import Placement

# --- steps ---------------------------------------------------------------------------------------------------------


class WaitForTemplate(Step):
    """The template on the pool: any number of deployments wait for the one download."""

    name = "template on the pool"

    def send(self, operation: Operation) -> Sequence[CommandSpec] | Wait:
        placement = Placement.objects.select_related("operation").get(pk=operation.data["placement"])
        if placement.state == Placement.State.READY:
            return ()
        if placement.operation is None:
            raise Refused(
                "template_not_on_pool",
                f"{placement} is {placement.state}.",
                "The VM was not deployed.",
                "Deploy it again.",
            )
        return Wait(placement.operation)


class CreateVolumes(Step):
    """The root overlay on the template's copy, and empty data disks; each its own command."""

    name = "create volumes"

    def send(self, operation: Operation) -> Sequence[CommandSpec]:
        volumes = vm_of(operation).volumes.filter(state=Volume.State.CREATING).select_related("top", "pool")
        return [
            CommandSpec("volume.create", operation.data["host"], volume_lane(volume), creation(volume), str(volume.pk))
            for volume in volumes
        ]

    def done(self, operation: Operation, command: Command) -> None:
        accounting.volume_made(Volume.objects.get(pk=command.label))

    def failed(self, operation: Operation, command: Command) -> Sequence[CommandSpec]:
        """A copy of the template that is gone or damaged is had again by the next deployment, not by this one."""
        error = command.error or {}
        if error.get("code") == "backing_refused":
            placement = Placement.objects.get(pk=operation.data["placement"])
            event, cause = "placement.damaged", error["cause"]
            transition(
                placement, Placement.State.FAILED, event=event, message=cause, sets={"error": error}, level="alarm"
            )
        return ()

    def undo(self, operation: Operation) -> Sequence[CommandSpec]:
        host = operation.data["host"]
        volumes = volumes_on_disk(vm_of(operation))
        return [command for volume in volumes for command in uncreation(operation, volume, host)]


class WriteSeed(Step):
    """User data and SSH keys as a file beside the root disk, where the guest finds them. It is removed with that disk.

    Made before every start: whoever moved or lost it need not know of it.
    """

    name = "write the seed"

    def send(self, operation: Operation) -> Sequence[CommandSpec]:
        vm = vm_of(operation)
        return [seed(vm, operation.data["host"])] if vm.seed else ()


class StartDomain(Step):
    """Define and start the transient domain, with the chains that the database has."""

    name = "start"

    def send(self, operation: Operation) -> Sequence[CommandSpec]:
        if not operation.data.get("start", True):
            return ()
        vm = vm_of(operation)
        return [CommandSpec("vm.start", operation.data["host"], vm_lane(vm.pk), domain(vm))]

    def done(self, operation: Operation, command: Command) -> None:
        operation.result = {"host": command.agent.name, "accelerator": (command.answer or {}).get("accelerator")}

    def undo(self, operation: Operation) -> Sequence[CommandSpec]:
        """Where an agent itself gave up nothing of ours runs; what was there before, it has left alone."""
        start = operation.commands.filter(kind="vm.start").first()
        if start is None or left_nothing(start):
            return ()
        return [stop(vm_of(operation), operation.data["host"], "force")]


class StopDomain(Step):
    """Ask the guest to stop, or take its power away."""

    name = "stop"

    def send(self, operation: Operation) -> Sequence[CommandSpec]:
        return [
            stop(vm_of(operation), operation.data["host"], _mode(operation), operation.data.get("then_force_after"))
        ]


class RebootGuest(Step):
    """Ask the guest to boot anew, or reset its machine."""

    name = "reboot"

    def send(self, operation: Operation) -> Sequence[CommandSpec]:
        then_force_after = operation.data["then_force_after"]
        return [reboot(vm_of(operation), operation.data["host"], _mode(operation), then_force_after)]

    def done(self, operation: Operation, command: Command) -> None:
        operation.result = {"forced": (command.answer or {}).get("forced")}


class ResumeGuest(Step):
    """Let a paused guest go on."""

    name = "resume"

    def send(self, operation: Operation) -> Sequence[CommandSpec]:
        return [resume(vm_of(operation), operation.data["host"])]


class ReadConsole(Step):
    """Read the last lines on the host where the VM runs, or ran last."""

    name = "read the console"

    def send(self, operation: Operation) -> Sequence[CommandSpec]:
        return [console(vm_of(operation), operation.data["host"], operation.data["lines"])]

    def done(self, operation: Operation, command: Command) -> None:
        operation.result = command.answer


def _mode(operation: Operation) -> Literal["graceful", "force"]:
    return "force" if operation.data["force"] else "graceful"


class PowerOff(Step):
    """Take the power away, if it may run anywhere. From here on a VM is not brought back by a cancel."""

    name = "power off"
    forward_only = True

    def send(self, operation: Operation) -> Sequence[CommandSpec]:
        host = operation.data["host"]
        return [stop(vm_of(operation), host, "force")] if host else ()


class RemoveVolumes(Step):
    """Remove all files of all volumes of an expunged VM, save those that outlive it."""

    name = "remove volumes"
    forward_only = True

    def send(self, operation: Operation) -> Sequence[CommandSpec]:
        if not operation.data["expunge"]:
            return ()
        vm = vm_of(operation)
        return [removal_anywhere(volume, vm.last_host_id) for volume in volumes_on_disk(vm).filter(outlives_vm=False)]

    def done(self, operation: Operation, command: Command) -> None:
        accounting.volume_removed(Volume.objects.get(pk=command.label))


# --- workflows -----------------------------------------------------------------------------------------------------


class DeployVM(Workflow):
    kind = "vm.deploy"
    steps = (WaitForTemplate(), CreateVolumes(), WriteSeed(), StartDomain())

    def ended(self, operation: Operation) -> None:
        vm = vm_of(operation)
        if operation.state == OperationState.SUCCEEDED:
            _settle_power(operation, running=operation.data["start"])
            return
        for volume in vm.volumes.exclude(state=Volume.State.REMOVED):
            accounting.volume_removed(volume)
        sets = OFF | _looks(operation) | {"error": operation.error or _cancelled()}
        transition(vm, VM.State.ERROR, event="vm.error", sets=sets, level="warning")


class StartVM(Workflow):
    kind = "vm.start"
    steps = (WriteSeed(), StartDomain())

    def ended(self, operation: Operation) -> None:
        _settle_power(operation, running=operation.state == OperationState.SUCCEEDED)


class StopVM(Workflow):
    kind = "vm.stop"
    steps = (StopDomain(),)

    def ended(self, operation: Operation) -> None:
        _settle_power(operation, running=operation.state != OperationState.SUCCEEDED)


class RebootVM(Workflow):
    kind = "vm.reboot"
    steps = (RebootGuest(),)

    def ended(self, operation: Operation) -> None:
        if operation.state == OperationState.SUCCEEDED:
            _still_runs(operation, "vm.rebooted")


class ResumeVM(Workflow):
    kind = "vm.resume"
    steps = (ResumeGuest(),)

    def ended(self, operation: Operation) -> None:
        if operation.state == OperationState.SUCCEEDED:
            _still_runs(operation, "vm.resumed")


class ReadVMConsole(Workflow):
    """It holds nothing: a console is read whatever else is done to the VM."""

    kind = "vm.console"
    steps = (ReadConsole(),)


class DestroyVM(Workflow):
    """It has only one end: both steps go forward until they are done."""

    kind = "vm.destroy"
    steps = (PowerOff(), RemoveVolumes())

    def ended(self, operation: Operation) -> None:
        to = VM.State.EXPUNGED if operation.data["expunge"] else VM.State.DESTROYED
        vm = vm_of(operation)
        sets = OFF | _looks(operation)
        # What is expunged keeps no secrets.
        sets |= {"destroyed_at": timezone.now()} if to == VM.State.DESTROYED else {"seed": ""}
        if transition(vm, to, event=f"vm.{to}", sets=sets) and to == VM.State.EXPUNGED:
            vm.nics.all().delete()
            limits.give_back(vm.account, accounting.of_vm())
            for volume in volumes_on_disk(vm).filter(outlives_vm=True):
                let_go(volume)
        accounting.vm_moved(vm)


_TOUCHING = ("vm.start", "vm.stop", "vm.reboot", "vm.resume")
"""Kinds of commands that change what a look at libvirt shows."""
_ON: dict[str, Any] = {"power_state": "running", "guest_agent": VM.GuestAgent.UNKNOWN, "addresses": []}


def _settle_power(operation: Operation, *, running: bool) -> None:
    state, sets = (VM.State.RUNNING, _ON) if running else (VM.State.STOPPED, OFF)
    sets = sets | _looks(operation) | _boot(operation) | {"error": operation.error, "power_reason": ""}
    vm = vm_of(operation)
    transition(vm, state, event=f"vm.{state}", sets=sets)
    accounting.vm_moved(vm)


def _still_runs(operation: Operation, event: str) -> None:
    """It was rebooted or resumed: it runs as before, and what its agent said before says nothing of now."""
    vm = vm_of(operation)
    VM.objects.filter(pk=vm.pk, state=VM.State.RUNNING).update(**_ON | _looks(operation) | {"power_reason": ""})
    events.record(event, vm)


def _looks(operation: Operation) -> dict[str, int]:
    """Looks at libvirt that began before the operation's last word on the domain say nothing about what it made."""
    last = operation.commands.filter(kind__in=_TOUCHING).select_related("agent").order_by("-seq").first()
    if last is None or last.sent_at is None:
        return {}
    return {"facts_epoch": last.agent.epoch, "facts_number": last.facts_begun}


def _boot(operation: Operation) -> dict[str, str]:
    """In which boot of its host the VM was started."""
    start = operation.commands.filter(kind="vm.start").select_related("agent").order_by("-seq").first()
    return {"host_boot_id": start.agent.boot_id} if start else {}


def _cancelled() -> dict[str, str]:
    return {
        "code": "cancelled",
        "cause": "The deployment was cancelled.",
        "consequence": "Its disks were removed.",
        "remedy": "Destroy the VM, and deploy another when it is wanted.",
    }
