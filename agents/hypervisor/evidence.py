"""What is true of a VM on this host, for reconciliation."""

import time

from agents.hypervisor.connection import Hypervisor
from agents.hypervisor.errors import DomainNotFound, for_evidence
from agents.hypervisor.guest import Guest, PowerState
from agents.protocol.kinds import VmEvidence

SECOND_LOOK_SECONDS = 1.0


def vm_evidence(hypervisor: Hypervisor, vm_id: str, hoped_for: PowerState) -> VmEvidence:
    """Ask libvirt, once it is idle. Raises CannotTell when it does not say.

    A request whose sender died may still be on its way between libvirtd's socket and its workers. So "it did not
    happen" is only said after a second look.
    """
    with for_evidence():
        evidence = _look(hypervisor, vm_id)
        if evidence.power_state != hoped_for:
            time.sleep(SECOND_LOOK_SECONDS)
            evidence = _look(hypervisor, vm_id)
    return evidence


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
