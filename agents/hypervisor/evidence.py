"""What is true of a VM and of its disks on this host, for reconciliation."""

import time
from collections.abc import Callable
from typing import Literal, TypeVar

from agents.hypervisor.connection import Hypervisor
from agents.hypervisor.domain_xml import DiskSpec
from agents.hypervisor.errors import DomainNotFound, for_evidence
from agents.hypervisor.guest import OFF, Guest, Power
from agents.protocol.kinds import DiskEvidence, VmEvidence

SETTLE_SECONDS = 1.0
LOOK_SECONDS = 0.2

E = TypeVar("E")


def vm_evidence(hypervisor: Hypervisor, vm_id: str, hoped_for: Literal["running", "off"]) -> VmEvidence:
    """Ask libvirt, once it is idle. Raises CannotTell when it does not say."""
    return settled(
        lambda: _look(hypervisor, vm_id), lambda evidence: (evidence.power_state == "off") == (hoped_for == "off")
    )


def settled(look: Callable[[], E], happened: Callable[[E], bool]) -> E:
    """What a look at libvirt shows when what was asked for has happened, or certainly does not happen any more.

    libvirtd carries out a request whose sender is gone. One that it has read but not begun is seen by nobody: after a
    libvirtd that was stopped goes on, a first look says "off", and the VM runs half a second later. Each further look
    is behind all that was read before it; for what a worker of libvirtd has taken up and not shown yet, that something
    did not happen is only said after :data:`SETTLE_SECONDS`. A margin, no proof: what comes later still is seen by the
    looks of the pings.
    """
    deadline = time.monotonic() + SETTLE_SECONDS
    with for_evidence():
        while True:
            evidence = look()
            if happened(evidence) or time.monotonic() > deadline:
                return evidence
            time.sleep(LOOK_SECONDS)


def look_at_disk(hypervisor: Hypervisor, vm_id: str, volume_id: str, asked: DiskSpec | None = None) -> DiskEvidence:
    """Whether the running VM has the volume as a disk, once libvirt is idle; with ``asked``, whether just that one."""
    guest, power = _when_idle(hypervisor, vm_id)
    if guest is None or power.state == "off":
        return DiskEvidence(power_state="off")
    try:
        found = guest.description().disk_of(volume_id)
    except DomainNotFound:
        return DiskEvidence(power_state="off")
    wrong = asked is not None and found is not None and found != asked
    mismatch = f"it has the volume as {found!r} instead of {asked!r}" if wrong else ""
    return DiskEvidence(power_state=power.state, reason=power.reason, attached=found is not None, mismatch=mismatch)


def _when_idle(hypervisor: Hypervisor, vm_id: str) -> tuple[Guest | None, Power]:
    """The VM's domain and its power state, once nothing that was asked earlier is at work on it."""
    guest = Guest.find(hypervisor, vm_id)
    if guest is None:
        return None, OFF
    guest.wait_idle()
    return guest, guest.power()


def _look(hypervisor: Hypervisor, vm_id: str) -> VmEvidence:
    guest, power = _when_idle(hypervisor, vm_id)
    if guest is None or power.state == "off":
        return VmEvidence(power_state="off", reason=power.reason)
    try:
        return VmEvidence(power_state=power.state, reason=power.reason, accelerator=guest.description().accelerator)
    except DomainNotFound:
        return VmEvidence(power_state="off")
    except ValueError as error:
        return VmEvidence(power_state="unknown", reason=str(error))
