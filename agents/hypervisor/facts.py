"""What a host tells of itself and of the VMs on it."""

import contextlib

import psutil

from agents.hypervisor.connection import Hypervisor
from agents.hypervisor.errors import DomainNotFound, HypervisorError, translated
from agents.hypervisor.guest import Guest
from agents.protocol.messages import HostFacts, VmFact


def vm_facts(hypervisor: Hypervisor) -> tuple[VmFact, ...]:
    """Every domain of ours on this host; those that others made are left out. Raises HypervisorError."""
    return tuple(fact for fact in map(_fact, Guest.all(hypervisor)) if fact is not None)


def host_facts(hypervisor: Hypervisor) -> HostFacts:
    """What this host can do. The versions are empty when libvirt cannot be asked."""
    facts = HostFacts(
        cpus=psutil.cpu_count() or 0,
        memory_bytes=psutil.virtual_memory().total,
        accelerator=hypervisor.acceleration.accelerator,
        accelerator_reason=hypervisor.acceleration.reason,
    )
    with contextlib.suppress(HypervisorError), translated():
        connection = hypervisor.connection()
        versions = {
            "libvirt_version": _version(connection.getLibVersion()),
            "qemu_version": _version(connection.getVersion()),
        }
        return facts.model_copy(update=versions)
    return facts


def _fact(guest: Guest) -> VmFact | None:
    """None for a domain that is not ours, or is gone by now."""
    with contextlib.suppress(DomainNotFound):
        if guest.is_ours():
            power = guest.power()
            return VmFact(vm_id=guest.vm_id, power_state=power.state, reason=power.reason)
    return None


def _version(number: int) -> str:
    """libvirt's notation: major * 1,000,000 + minor * 1,000 + release."""
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"
