"""What is true of a VM on this host, for reconciliation."""

import time
from typing import Literal

from agents.hypervisor.connection import Hypervisor
from agents.hypervisor.errors import DomainNotFound, for_evidence
from agents.hypervisor.guest import Guest
from agents.protocol.kinds import VmEvidence

SETTLE_SECONDS = 1.0
LOOK_SECONDS = 0.2


def vm_evidence(hypervisor: Hypervisor, vm_id: str, hoped_for: Literal["running", "off"]) -> VmEvidence:
    """Ask libvirt, once it is idle. Raises CannotTell when it does not say.

    libvirtd carries out a request whose sender is gone. One that it has read but not begun is seen by nobody: after a
    libvirtd that was stopped goes on, a first look says "off", and the VM runs half a second later. Each further look
    is behind all that was read before it; for what a worker of libvirtd has taken up and not shown yet, that something
    did not happen is only said after :data:`SETTLE_SECONDS`. A margin, no proof: what comes later still is seen by the
    looks of the pings.
    """
    deadline = time.monotonic() + SETTLE_SECONDS
    with for_evidence():
        while True:
            evidence = _look(hypervisor, vm_id)
            happened = (evidence.power_state == "off") == (hoped_for == "off")
            if happened or time.monotonic() > deadline:
                return evidence
            time.sleep(LOOK_SECONDS)


def _look(hypervisor: Hypervisor, vm_id: str) -> VmEvidence:
    guest = Guest.find(hypervisor, vm_id)
    if guest is None:
        return VmEvidence(power_state="off")
    guest.wait_idle()
    power = guest.power()
    if power.state == "off":
        return VmEvidence(power_state="off", reason=power.reason)
    try:
        return VmEvidence(power_state=power.state, reason=power.reason, accelerator=guest.description().accelerator)
    except DomainNotFound:
        return VmEvidence(power_state="off")
    except ValueError as error:
        return VmEvidence(power_state="unknown", reason=str(error))
