"""Domain XML: what a VM is for libvirt, written from data, and read back as the same data.

Format: libvirt's ``docs/formatdomain.rst``. Nothing is left for libvirt or QEMU to guess: each file of a disk's chain
has its format written out, down to an empty ``<backingStore/>``, so no image is ever probed.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

from agents.hypervisor.kvm_probe import Accelerator
from agents.protocol.kinds import Disk

NAMESPACE = "https://cloudctl.invalid/xmlns/domain/1"
"""Of the metadata element by which our domains are told from those that others made; a name, not an address."""

PCI_PORTS = 28
"""Disks can be attached to a running VM as long as a port is free, and ports themselves cannot be added: 24 disks, the
channels' controller, and three more devices. Each costs a booting guest some 40 ms under plain emulation."""
AGENT_CHANNEL = "org.qemu.guest_agent.0"
MIB = 1024 * 1024

_DOMAIN_TYPES: dict[Accelerator, str] = {"kvm": "kvm", "tcg": "qemu"}
_CPUS: dict[Accelerator, dict[str, str]] = {
    "kvm": {"mode": "host-passthrough", "migratable": "on"},
    # A model of QEMU's own: those of real processors need features that plain emulation lacks.
    "tcg": {"mode": "custom", "match": "exact", "check": "none"},
}
_DISK_DRIVER = {
    "name": "qemu",
    # The guest's flushes reach the disk, and what it has flushed survives a power cut, as with "none". But "none" needs
    # O_DIRECT, which tmpfs, FUSE and some NFS servers refuse, and would read a template once for every VM on it.
    "cache": "writeback",
    # Room that the guest frees is given back to the pool.
    "discard": "unmap",
    # On a full pool or a dead file server the VM is paused with its reason, instead of its file systems breaking.
    "error_policy": "stop",
}
_INTERFACES = {"bridge": ("bridge", "bridge"), "libvirt": ("network", "network")}
"""Kind of network → libvirt's type of interface, and the attribute of its source."""
_NOT_XML = re.compile("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold (its production Char), and line ends, which libvirt refuses in a title."""


class ChainFile(NamedTuple):
    """One file of a disk's chain; ``format`` is libvirt's name of it."""

    path: str
    format: str


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """``chain[0]`` is the file that the guest writes to, then its backing files, downwards."""

    target: str
    chain: tuple[ChainFile, ...]
    read_only: bool = False
    serial: str = ""
    """The volume's id. The guest sees its first 20 characters (virtio 1.1, 5.2.6.1: VIRTIO_BLK_T_GET_ID)."""


class NicSpec(NamedTuple):
    """A network card; ``kind`` and ``source`` as in :class:`agents.protocol.kinds.Nic`."""

    mac: str
    kind: str
    source: str


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """What is asked of libvirt for a VM, and what its running domain is compared with."""

    vm_id: str
    accelerator: Accelerator
    cpus: int
    memory_mib: int
    disks: tuple[DiskSpec, ...]
    console_path: str
    seed_path: str = ""
    """An ISO that is in the guest's CD-ROM drive; empty: there is no drive."""
    nics: tuple[NicSpec, ...] = ()

    def disk_of(self, volume_id: str) -> DiskSpec | None:
        """The disk that is this volume; its serial is the volume's id."""
        return next((disk for disk in self.disks if disk.serial == volume_id), None)


def memory_mib(memory_bytes: int) -> int:
    """QEMU's machine wants whole MiB; a guest gets at least what was asked."""
    return -(-memory_bytes // MIB)


def disk_spec(disk: Disk) -> DiskSpec:
    """A disk as a command describes it."""
    chain = tuple(ChainFile(file.path, file.format) for file in disk.chain)
    return DiskSpec(disk.target, chain, disk.read_only, disk.volume_id)


def domain_name(vm_id: str) -> str:
    """libvirt's name of a VM: made from its id only, since a user's name may hold anything."""
    return f"vm-{vm_id}"


def build(spec: DomainSpec, title: str) -> str:
    """The document for libvirt. ``title`` is the user's name for the VM, shown to operators only."""
    domain = ET.Element("domain", type=_DOMAIN_TYPES[spec.accelerator])
    _add(domain, "name", domain_name(spec.vm_id))
    _add(domain, "uuid", spec.vm_id)
    if shown := _NOT_XML.sub(" ", title).strip():
        _add(domain, "title", shown)
    metadata = _add(domain, "metadata")
    ET.SubElement(metadata, f"{{{NAMESPACE}}}vm", id=spec.vm_id)
    _add(domain, "memory", str(spec.memory_mib), unit="MiB")
    _add(domain, "vcpu", str(spec.cpus))
    system = _add(domain, "os")
    _add(system, "type", "hvm", arch="x86_64", machine="q35")
    features = _add(domain, "features")
    _add(features, "acpi")
    _add(features, "apic")
    _add_cpu(domain, spec.accelerator)
    _add(domain, "clock", offset="utc")
    _add(domain, "on_poweroff", "destroy")
    _add(domain, "on_reboot", "restart")
    _add(domain, "on_crash", "destroy")
    devices = _add(domain, "devices")
    for index in range(PCI_PORTS + 1):
        _add(devices, "controller", type="pci", index=str(index), model="pcie-root-port" if index else "pcie-root")
    for position, disk in enumerate(spec.disks, start=1):
        _add(_add_disk(devices, disk), "boot", order=str(position))
    if spec.seed_path:
        _add_seed(devices, spec.seed_path)
    for nic in spec.nics:
        _add_nic(devices, nic)
    _add(devices, "controller", type="usb", model="none")
    _add_console(devices, spec.console_path)
    channel = _add(devices, "channel", type="unix")
    _add(channel, "target", type="virtio", name=AGENT_CHANNEL)
    _add(devices, "memballoon", model="none")
    ET.register_namespace("cloudctl", NAMESPACE)
    ET.indent(domain)
    return ET.tostring(domain, encoding="unicode") + "\n"


def build_disk(spec: DiskSpec) -> str:
    """The document of one disk, to be attached to a running domain."""
    devices = ET.Element("devices")
    return ET.tostring(_add_disk(devices, spec), encoding="unicode")


def read(document: str) -> DomainSpec:
    """What libvirt says that a domain is. Raises ValueError for a document that is not such a domain's."""
    domain = _parse(document)
    types = {name: accelerator for accelerator, name in _DOMAIN_TYPES.items()}
    accelerator = types.get(domain.get("type", ""))
    if accelerator is None:
        raise ValueError(f"a domain of type {domain.get('type')!r} is none of ours")
    console = domain.find("devices/serial/source")
    return DomainSpec(
        vm_id=_text(domain, "uuid"),
        accelerator=accelerator,
        cpus=int(_text(domain, "vcpu")),
        # The live document always speaks of KiB.
        memory_mib=memory_mib(int(_text(domain, "memory")) * 1024),
        disks=tuple(_read_disk(disk) for disk in domain.iterfind("devices/disk[@device='disk']")),
        console_path="" if console is None else console.get("path", ""),
        seed_path=_attribute(domain.find("devices/disk[@device='cdrom']/source"), "file"),
        nics=tuple(_read_nic(interface) for interface in domain.iterfind("devices/interface")),
    )


def alias_of(document: str, disk: DiskSpec) -> str:
    """libvirt's own name of a disk of a running domain; empty when it has none."""
    return _attribute(_parse(document).find(f"devices/disk/target[@dev='{disk.target}']/../alias"), "name")


def differences(asked: DomainSpec, found: DomainSpec) -> tuple[str, ...]:
    """Where a running domain is not the one that was asked for, in words; empty when it is."""
    return tuple(
        f"{field.name} is {getattr(found, field.name)!r} instead of {getattr(asked, field.name)!r}"
        for field in fields(DomainSpec)
        if getattr(asked, field.name) != getattr(found, field.name)
    )


def _add(parent: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    child = ET.SubElement(parent, tag, attributes)
    child.text = text
    return child


def _add_cpu(domain: ET.Element, accelerator: Accelerator) -> None:
    cpu = _add(domain, "cpu", **_CPUS[accelerator])
    if accelerator == "tcg":
        _add(cpu, "model", "qemu64", fallback="forbid")


def _add_disk(devices: ET.Element, spec: DiskSpec) -> ET.Element:
    disk = _add(devices, "disk", type="file", device="disk")
    _add(disk, "driver", type=spec.chain[0].format, **_DISK_DRIVER)
    _add(disk, "source", file=spec.chain[0].path)
    level = disk
    for file in spec.chain[1:]:
        level = _add(level, "backingStore", type="file")
        _add(level, "format", type=file.format)
        _add(level, "source", file=file.path)
    _add(level, "backingStore")
    _add(disk, "target", dev=spec.target, bus="virtio")
    if spec.read_only:
        _add(disk, "readonly")
    if spec.serial:
        _add(disk, "serial", spec.serial)
    return disk


def _add_seed(devices: ET.Element, path: str) -> None:
    """On virtio-scsi: guests made for clouds have its driver, and often none for SATA."""
    _add(devices, "controller", type="scsi", model="virtio-scsi")
    disk = _add(devices, "disk", type="file", device="cdrom")
    _add(disk, "driver", name="qemu", type="raw")
    _add(disk, "source", file=path)
    _add(disk, "backingStore")
    _add(disk, "target", dev="sda", bus="scsi")
    _add(disk, "readonly")


def _add_nic(devices: ET.Element, nic: NicSpec) -> None:
    interface_type, attribute = _INTERFACES[nic.kind]
    interface = _add(devices, "interface", type=interface_type)
    _add(interface, "mac", address=nic.mac)
    _add(interface, "source", **{attribute: nic.source})
    _add(interface, "model", type="virtio")
    # Nobody boots from a network here, and the BIOS would try.
    _add(interface, "rom", enabled="no")


def _read_nic(interface: ET.Element) -> NicSpec:
    """Live, libvirt shows a network of its own as the bridge that it is, with the network's name beside it."""
    source = interface.find("source")
    kind = "libvirt" if _attribute(source, "network") else "bridge"
    return NicSpec(_attribute(interface.find("mac"), "address"), kind, _attribute(source, _INTERFACES[kind][1]))


def _add_console(devices: ET.Element, path: str) -> None:
    """Through virtlogd, which bounds the file (``max_size``, ``max_backups``), so no guest fills the host's disk."""
    serial = _add(devices, "serial", type="file")
    _add(serial, "source", path=path, append="off")
    _add(serial, "target", type="isa-serial", port="0")


def _read_disk(disk: ET.Element) -> DiskSpec:
    driver, target = disk.find("driver"), disk.find("target")
    top = ChainFile(_source(disk), _attribute(driver, "type"))
    return DiskSpec(
        target=_attribute(target, "dev"),
        chain=(top, *_read_backing(disk)),
        read_only=disk.find("readonly") is not None,
        serial=disk.findtext("serial") or "",
    )


def _read_backing(level: ET.Element | None) -> Iterator[ChainFile]:
    while level is not None and (level := level.find("backingStore")) is not None:
        if level.find("source") is None:
            return
        yield ChainFile(_source(level), _attribute(level.find("format"), "type"))


def _source(element: ET.Element) -> str:
    return _attribute(element.find("source"), "file")


def _attribute(element: ET.Element | None, name: str) -> str:
    """Empty where it is missing: then the comparison shows it."""
    return "" if element is None else element.get(name, "")


def _text(domain: ET.Element, path: str) -> str:
    text = domain.findtext(path)
    if not text:
        raise ValueError(f"the domain has no <{path}>")
    return text


def _parse(document: str) -> ET.Element:
    if "<!DOCTYPE" in document or "<!ENTITY" in document:
        raise ValueError("the document has a DTD")
    try:
        return ET.fromstring(document)  # noqa: S314  (libvirt's own words, and a DTD is refused above)
    except ET.ParseError as error:
        raise ValueError(f"the document is no XML: {error}") from error
