"""volume.attach: another disk for a running VM, from exactly the recorded chain."""

from collections.abc import Mapping
from typing import Any

from agents.common.crash import crash_point
from agents.common.errors import CommandError, Interrupted
from agents.handlers.base import Context
from agents.hypervisor.chain import check_chain
from agents.hypervisor.connection import Hypervisor
from agents.hypervisor.domain_xml import disk_spec
from agents.hypervisor.errors import HypervisorRefused, WrongState, unknown_outcome_interrupts
from agents.hypervisor.evidence import look_at_disk, settled
from agents.hypervisor.guest import Guest
from agents.protocol.kinds import DiskAnswer, DiskEvidence, VolumeAttach


class VolumeAttachHandler:
    """A VM that is off has its disks from its next start on, so for one that is off all is done."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor

    def run(self, context: Context, payload: VolumeAttach) -> DiskAnswer:
        """Attach it, or find it attached."""
        with unknown_outcome_interrupts():
            seen = self._look(payload)
            if seen.mismatch:
                raise _otherwise(seen.mismatch)
            if _is_done(seen):
                return _answer(seen)
            check_chain(payload.disk.chain)
            context.commit("volume_attach.before_attach")
            self._attach(payload)
            crash_point("volume_attach.after_attach")
            seen = self._look(payload)
            if seen.mismatch or not _is_done(seen):
                raise Interrupted(f"libvirt does not show what it attached: {seen.mismatch or 'nothing'}")
            return _answer(seen)

    def cancel(self, context: Context, payload: VolumeAttach) -> None:
        """Nothing to put back: before the request nothing was done, and one that was refused left nothing."""

    def probe(self, notes: Mapping[str, Any], payload: VolumeAttach) -> DiskEvidence:
        """Does the VM have the disk, just as asked?"""
        return settled(lambda: self._look(payload), _is_done)

    def _look(self, payload: VolumeAttach) -> DiskEvidence:
        disk = disk_spec(payload.disk)
        return look_at_disk(self._hypervisor, payload.vm_id, payload.disk.volume_id, disk)

    def _attach(self, payload: VolumeAttach) -> None:
        guest = Guest.find(self._hypervisor, payload.vm_id)
        if guest is None:
            return
        try:
            guest.attach(disk_spec(payload.disk))
        except WrongState as error:
            raise Interrupted("the VM went off meanwhile") from error
        except HypervisorRefused as error:
            raise CommandError(
                "volume_not_attached",
                f"libvirt refused to attach the disk {payload.disk.target}: {error}",
                "The VM runs on without it.",
                "See that nothing else has the volume open; where no PCI slot is free, stop the VM and attach it then.",
            ) from error


def _is_done(seen: DiskEvidence) -> bool:
    return seen.power_state == "off" or seen.attached


def _answer(seen: DiskEvidence) -> DiskAnswer:
    return DiskAnswer(live=seen.power_state != "off")


def _otherwise(mismatch: str) -> CommandError:
    return CommandError(
        "volume_attached_otherwise",
        f"The VM has this volume as a disk already, but not as recorded: {mismatch}.",
        "It was left as it is.",
        "Stop the VM: with its next start it has its disks as recorded.",
    )
