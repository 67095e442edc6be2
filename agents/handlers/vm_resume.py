"""vm.resume: lets a paused guest go on, and looks whether it does."""

import time
from collections.abc import Mapping
from typing import Any

from agents.common.crash import crash_point
from agents.common.errors import CommandError
from agents.handlers.base import Context
from agents.hypervisor.connection import Hypervisor
from agents.hypervisor.errors import HypervisorRefused, WrongState, unknown_outcome_interrupts
from agents.hypervisor.evidence import vm_evidence
from agents.hypervisor.guest import OFF, Guest
from agents.protocol.kinds import VmEvidence, VmResume, VmResumeAnswer

WATCH_SECONDS = 1.0
"""QEMU tries the failed request again at once: a guest whose pool is still full is paused again within milliseconds."""
POLL_SECONDS = 0.1


class VmResumeHandler:
    """It runs again, or is paused for the same reason, and then this fails."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor

    def run(self, context: Context, payload: VmResume) -> VmResumeAnswer:
        """Resume it, or find it running."""
        with unknown_outcome_interrupts():
            guest = Guest.find(self._hypervisor, payload.vm_id)
            power = guest.power() if guest else OFF
            if guest is None or power.state == "off":
                raise CommandError("vm_off", "The VM is off.", "It was not resumed.", "Start it.")
            if power.state == "paused":
                context.commit("vm_resume.before_request")
                _request(guest)
                crash_point("vm_resume.after_request")
            _watch(guest)
            return VmResumeAnswer()

    def cancel(self, context: Context, payload: VmResume) -> None:
        """Nothing to put back: before the request nothing was done."""

    def probe(self, notes: Mapping[str, Any], payload: VmResume) -> VmEvidence:
        """Does it run?"""
        return vm_evidence(self._hypervisor, payload.vm_id, hoped_for="running")


def _request(guest: Guest) -> None:
    try:
        guest.resume()
    except (HypervisorRefused, WrongState) as error:
        raise CommandError(
            "vm_not_resumed",
            f"libvirt could not resume the VM: {error}",
            "It stays paused.",
            "Look at the host, or stop the VM by force.",
        ) from error


def _watch(guest: Guest) -> None:
    deadline = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < deadline:
        power = guest.power()
        if power.state == "paused":
            raise CommandError(
                "vm_paused_again",
                f"The VM went on and was {power.reason or 'paused'} again at once.",
                "It stays paused; nothing of the guest's data is lost.",
                "Make room on its pools, or bring their storage back, then resume it again.",
            )
        time.sleep(POLL_SECONDS)
