"""vm.stop: asks the guest to shut down and waits, or takes the power away."""

import time
from collections.abc import Mapping
from typing import Any, Literal

from agents.common.crash import crash_point
from agents.common.errors import CommandError
from agents.handlers.base import Context
from agents.hypervisor.connection import Hypervisor
from agents.hypervisor.errors import HypervisorRefused, unknown_outcome_interrupts
from agents.hypervisor.evidence import vm_evidence
from agents.hypervisor.guest import Guest
from agents.protocol.kinds import VmEvidence, VmStop, VmStopAnswer

POLL_SECONDS = 0.2


class VmStopHandler:
    """A transient domain that is off is gone."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor

    def run(self, context: Context, payload: VmStop) -> VmStopAnswer:
        """Stop it, or find it off."""
        with unknown_outcome_interrupts():
            guest = Guest.find(self._hypervisor, payload.vm_id)
            power = guest.power() if guest else None
            if guest is None or power is None or power.state == "off":
                return VmStopAnswer(was_running=bool(context.notes.get("was_running")))
            mode = payload.mode
            if mode == "graceful" and power.state == "paused":
                if not payload.then_force:
                    raise _cannot_be_asked(f"it is {power.reason or 'paused'}")
                mode = "force"
            context.commit("vm_stop.before_request", was_running=True)
            deadline = time.monotonic() + payload.timeout_seconds
            _request(guest, mode)
            crash_point("vm_stop.after_request")
            if not self._is_off_by(context, payload, deadline):
                self._not_in_time(guest, payload)
            return VmStopAnswer(was_running=True)

    def cancel(self, context: Context, payload: VmStop) -> None:
        """Nothing to put back: before the request nothing was done."""

    def probe(self, notes: Mapping[str, Any], payload: VmStop) -> VmEvidence:
        """Is it off?"""
        return vm_evidence(self._hypervisor, payload.vm_id, hoped_for="off")

    def _is_off_by(self, context: Context, payload: VmStop, deadline: float) -> bool:
        while Guest.find(self._hypervisor, payload.vm_id) is not None:
            context.check()
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    @staticmethod
    def _not_in_time(guest: Guest, payload: VmStop) -> None:
        if payload.then_force:
            _request(guest, "force")
            return
        raise CommandError(
            "guest_did_not_stop",
            f"The guest did not shut down within {payload.timeout_seconds} s.",
            "The VM still runs; the guest may yet shut down.",
            "Stop it by force, or from inside the guest.",
        )


def _request(guest: Guest, mode: Literal["graceful", "force"]) -> None:
    try:
        if mode == "force":
            guest.force_off()
        else:
            guest.ask_shutdown()
    except HypervisorRefused as error:
        if mode == "graceful":
            raise _cannot_be_asked(str(error)) from error
        raise CommandError(
            "vm_not_stopped",
            f"libvirt could not end the VM's QEMU: {error}",
            "The VM still holds its disks.",
            "Look at the host: a QEMU that waits for dead storage ends only when the storage answers.",
        ) from error


def _cannot_be_asked(why: str) -> CommandError:
    return CommandError(
        "guest_cannot_be_asked",
        f"The guest cannot be asked to shut down: {why}.",
        "It was left as it is.",
        "Stop it by force.",
    )
