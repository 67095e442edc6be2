"""A VM on this host, in the words of what is wanted of it. All calls raise HypervisorError."""

import contextlib
import ipaddress
import json
from collections.abc import Mapping
from typing import Literal, NamedTuple

import libvirt
import libvirt_qemu

from agents.hypervisor.connection import Hypervisor
from agents.hypervisor.domain_xml import NAMESPACE, DiskSpec, DomainSpec, alias_of, build_disk, read
from agents.hypervisor.errors import (
    DomainNotFound,
    HypervisorRefused,
    NoMetadata,
    WrongState,
    translated,
)
from agents.hypervisor.libvirt_calls import LibvirtDomain

ADDRESSES_MAX = 32

PowerState = Literal["running", "paused", "off"]


class Power(NamedTuple):
    """``reason`` says how the VM came to be paused or off, as far as libvirt knows."""

    state: PowerState
    reason: str = ""


OFF = Power("off")
_POWER: Mapping[int, PowerState] = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    # The guest is about to leave, its QEMU still has the disks open.
    libvirt.VIR_DOMAIN_SHUTDOWN: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "paused",
    libvirt.VIR_DOMAIN_SHUTOFF: "off",
    libvirt.VIR_DOMAIN_CRASHED: "off",
}
_REASONS: Mapping[tuple[int, int], str] = {
    (libvirt.VIR_DOMAIN_SHUTDOWN, libvirt.VIR_DOMAIN_SHUTDOWN_USER): "shutting down",
    (libvirt.VIR_DOMAIN_SHUTDOWN, libvirt.VIR_DOMAIN_SHUTDOWN_UNKNOWN): "shutting down",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER): "paused by a person",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION): "paused for migration",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR): "paused for an I/O error of its storage",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SHUTTING_DOWN): "shutting down",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP): "starting",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT): "paused for a snapshot",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_CRASHED): "the guest crashed",
    (libvirt.VIR_DOMAIN_PMSUSPENDED, libvirt.VIR_DOMAIN_PMSUSPENDED_UNKNOWN): "the guest sleeps",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN): "the guest shut down",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED): "its power was taken away",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED): "its QEMU died",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_FAILED): "it could not be started",
}


class Guest:
    """A domain of ours that exists. It is transient: off means that it exists no more."""

    def __init__(self, domain: LibvirtDomain) -> None:
        self._domain = domain

    @classmethod
    def find(cls, hypervisor: Hypervisor, vm_id: str) -> "Guest | None":
        """The VM's domain; None when there is none."""
        connection = hypervisor.connection()
        with contextlib.suppress(DomainNotFound), translated():
            return cls(connection.lookupByUUIDString(vm_id))
        return None

    @classmethod
    def all(cls, hypervisor: Hypervisor) -> "list[Guest]":
        """Every domain on this host, also those that others made."""
        connection = hypervisor.connection()
        with translated():
            return [cls(domain) for domain in connection.listAllDomains(0)]

    @property
    def vm_id(self) -> str:
        return self._domain.UUIDString()

    @classmethod
    def start(cls, hypervisor: Hypervisor, document: str) -> "Guest":
        """Define and start a transient domain. Raises WrongState when its UUID runs already."""
        connection = hypervisor.connection()
        with translated():
            # Validated against libvirt's schema: what it does not know it would otherwise leave out in silence.
            return cls(connection.createXML(document, libvirt.VIR_DOMAIN_START_VALIDATE))

    def wait_idle(self) -> None:
        """Wait until nothing that was asked earlier is at work on the domain.

        libvirt does one thing at a time to a domain: this asks for something harmless, in the same queue. It gives up
        after 30 s (DomainBusy).
        """
        with _unless_gone(), translated():
            self._domain.memoryStats()

    def power(self) -> Power:
        """Its power state now."""
        with contextlib.suppress(DomainNotFound), translated():
            state, reason = self._domain.state()[:2]
            return Power(_POWER.get(state, "running"), _REASONS.get((state, reason), ""))
        return OFF

    def description(self) -> DomainSpec:
        """What it runs as, from its live document. Raises ValueError when no VM of ours can be like that."""
        with translated():
            return read(self._domain.XMLDesc(0))

    def ask_shutdown(self) -> None:
        """Ask the guest to shut down: its agent, or by the power button where no agent answers."""
        flags = libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT | libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN
        with _unless_gone(), translated():
            self._domain.shutdownFlags(flags)

    def ask_reboot(self) -> None:
        """Ask the guest to reboot: its agent, or by the power button where no agent answers."""
        flags = libvirt.VIR_DOMAIN_REBOOT_GUEST_AGENT | libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN
        with translated():
            self._domain.reboot(flags)

    def reset(self) -> None:
        """Press the reset button; when this returns the guest boots anew."""
        with translated():
            self._domain.reset()

    def resume(self) -> None:
        """Let a paused guest go on."""
        with translated():
            self._domain.resume()

    def attach(self, disk: DiskSpec) -> None:
        """Give the running VM another disk. When this returns it is in the live document, the guest may not see it yet.

        Raises HypervisorRefused, and then nothing was attached: its image is in use, or no slot is free.
        """
        with translated():
            self._domain.attachDeviceFlags(build_disk(disk), libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def ask_detach(self, disk: DiskSpec) -> None:
        """Ask the guest to let go of a disk. It leaves the live document when the guest did, which may be never.

        QEMU refuses (HypervisorRefused) to ask a second time while a first request is open.
        """
        with translated():
            alias = alias_of(self._domain.XMLDesc(0), disk)
            # By its alias libvirt only asks; by its description it waits for the guest, and nothing else is done.
            self._domain.detachDeviceAlias(alias, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def disk_bytes(self, disk: DiskSpec) -> int:
        """What the guest sees of a disk, as QEMU says."""
        with translated():
            capacity, _allocation, _physical = self._domain.blockInfo(disk.target)
            return capacity

    def resize_disk(self, disk: DiskSpec, size_bytes: int) -> None:
        """Give a disk of the running VM another size; the guest is told."""
        with translated():
            self._domain.blockResize(disk.target, size_bytes, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)

    def force_off(self) -> None:
        """Take the power away. QEMU is asked to end, and killed after some seconds; when this returns it is gone."""
        with _unless_gone(), translated():
            self._domain.destroyFlags(libvirt.VIR_DOMAIN_DESTROY_DEFAULT)

    def is_ours(self) -> bool:
        """Whether cloudctl made it. Raises DomainNotFound when it is gone."""
        with contextlib.suppress(NoMetadata), translated():
            self._domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE)
            return True
        return False

    def agent_ping(self, timeout: int) -> None:
        """Returns when the guest's agent has answered; raises GuestAgentSilent after ``timeout`` seconds."""
        with translated():
            libvirt_qemu.qemuAgentCommand(self._domain, '{"execute": "guest-ping"}', timeout, 0)

    def addresses(self, timeout: int) -> tuple[str, ...]:
        """The guest's own addresses, by its agent; none where the agent does not tell. Raises GuestAgentSilent.

        Loopback and link-local ones are left out: nobody else can use them.
        """
        with contextlib.suppress(HypervisorRefused), translated():
            question = '{"execute": "guest-network-get-interfaces"}'
            return addresses_in(libvirt_qemu.qemuAgentCommand(self._domain, question, timeout, 0))
        return ()


def addresses_in(answer: str) -> tuple[str, ...]:
    """Addresses in an answer to ``guest-network-get-interfaces`` (QEMU's ``qga/qapi-schema.json``).

    The guest wrote it, so it may be anything: what is no address is left out, and so is more than a few.
    """
    try:
        interfaces = json.loads(answer)["return"]
        told = [one["ip-address"] for interface in interfaces for one in interface.get("ip-addresses", ())]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ()
    usable = dict.fromkeys(address for text in told if (address := _usable(text)))
    return tuple(usable)[:ADDRESSES_MAX]


def _usable(text: object) -> str:
    try:
        address = ipaddress.ip_address(text) if isinstance(text, str) else None
    except ValueError:
        return ""
    if address is None or address.is_loopback or address.is_link_local or address.is_unspecified:
        return ""
    return str(address)


def _unless_gone() -> contextlib.suppress:
    """A domain that has ended meanwhile either is not found or "is not running"."""
    return contextlib.suppress(DomainNotFound, WrongState)
