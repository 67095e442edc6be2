"""volume.detach: asks the guest to let go of a disk, and waits until it did."""

import time
from collections.abc import Mapping
from typing import Any

from agents.common.crash import crash_point
from agents.common.errors import CommandError
from agents.handlers.base import Context
from agents.hypervisor.connection import Hypervisor
from agents.hypervisor.errors import HypervisorRefused, WrongState, unknown_outcome_interrupts
from agents.hypervisor.evidence import look_at_disk, settled
from agents.hypervisor.guest import Guest
from agents.protocol.kinds import DiskAnswer, DiskEvidence, VolumeDetach

POLL_SECONDS = 0.2


class VolumeDetachHandler:
    """A disk that the live document does not show is not open in QEMU any more. A VM that is off has none open."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor

    def run(self, context: Context, payload: VolumeDetach) -> DiskAnswer:
        """Detach it, or find it gone."""
        with unknown_outcome_interrupts():
            seen = self._look(payload)
            if not seen.attached:
                return DiskAnswer(live=seen.power_state != "off")
            if seen.power_state == "paused":
                raise _cannot_be_asked(seen.reason or "paused")
            context.commit("volume_detach.before_request")
            deadline = time.monotonic() + payload.timeout_seconds
            refusal = self._ask(payload)
            crash_point("volume_detach.after_request")
            self._wait_gone(context, payload, deadline, refusal)
            return DiskAnswer(live=True)

    def cancel(self, context: Context, payload: VolumeDetach) -> None:
        """Nothing to put back: before the request nothing was done."""

    def probe(self, notes: Mapping[str, Any], payload: VolumeDetach) -> DiskEvidence:
        """Does the VM still have the disk?"""
        return settled(lambda: self._look(payload), lambda seen: not seen.attached)

    def _look(self, payload: VolumeDetach) -> DiskEvidence:
        return look_at_disk(self._hypervisor, payload.vm_id, payload.volume_id)

    def _ask(self, payload: VolumeDetach) -> str:
        """Why libvirt would not ask the guest; empty when it did. An earlier request may still be open, so either way
        it is waited for."""
        guest = Guest.find(self._hypervisor, payload.vm_id)
        disk = guest.description().disk_of(payload.volume_id) if guest else None
        try:
            if guest and disk:
                guest.ask_detach(disk)
        except (HypervisorRefused, WrongState) as error:
            return str(error)
        return ""

    def _wait_gone(self, context: Context, payload: VolumeDetach, deadline: float, refusal: str) -> None:
        while self._look(payload).attached:
            context.check()
            if time.monotonic() > deadline:
                raise CommandError(
                    "guest_keeps_disk",
                    f"The guest did not let go of the disk within {payload.timeout_seconds} s"
                    + (f"; libvirt says: {refusal}" if refusal else "."),
                    "The volume is still attached; the guest may yet let go of it.",
                    "Unmount it in the guest, which must have booted, then try again; or stop the VM first.",
                )
            time.sleep(POLL_SECONDS)


def _cannot_be_asked(why: str) -> CommandError:
    return CommandError(
        "guest_cannot_be_asked",
        f"The guest cannot be asked to let go of the disk: it is {why}.",
        "The volume is still attached.",
        "Resume the VM, or stop it, and detach again.",
    )
