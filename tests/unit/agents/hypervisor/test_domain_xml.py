"""Domain XML: exactly these documents, valid for libvirt, the same when read back."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.hypervisor import domain_xml
from agents.hypervisor.connection import Hypervisor
from agents.hypervisor.domain_xml import ChainFile, DiskSpec, DomainSpec, NicSpec

GOLDEN = Path(__file__).parent.parent / "golden"
VM_ID = "6b1c5c5e-0000-4000-8000-000000000001"
PLAIN = DomainSpec(
    vm_id=VM_ID,
    accelerator="tcg",
    cpus=1,
    memory_mib=192,
    disks=(DiskSpec("vda", (ChainFile("/pools/a/root.qcow2", "qcow2"),)),),
    console_path="/var/log/cloudctl/console/web.log",
)
FULL = DomainSpec(
    vm_id=VM_ID,
    accelerator="kvm",
    cpus=8,
    memory_mib=16384,
    disks=(
        DiskSpec(
            "vda", (ChainFile("/p/top.qcow2", "qcow2"), ChainFile("/p/mid.qcow2", "qcow2"), ChainFile("/p/t", "raw"))
        ),
        DiskSpec("vdb", (ChainFile("/p/data & more.qcow2", "qcow2"),)),
        DiskSpec("vdc", (ChainFile("/p/seed.iso", "raw"),), read_only=True),
    ),
    console_path="/var/log/cloudctl/console/web.log",
)
NICS = (NicSpec("02:00:00:00:00:01", "bridge", "br0"), NicSpec("02:00:00:00:00:02", "libvirt", "default"))
SEEDED = replace(PLAIN, seed_path="/pools/a/seed.iso", nics=NICS)
DOCUMENTS = {
    "seeded_tcg": (SEEDED, "web"),
    "plain_tcg": (PLAIN, "web"),
    "chain_kvm": (FULL, "alice's <db> & \u00fcbung\nsecond line\x00"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_document_is_the_golden_one(name: str) -> None:
    assert domain_xml.build(*DOCUMENTS[name]) == (GOLDEN / f"domain_{name}.xml").read_text()


def schema_accepts(hypervisor: Hypervisor, document: str) -> bool:
    """libvirt judges by the schema first; what this machine lacks (KVM) is another error."""
    connection: Any = hypervisor.connection()
    try:
        connection.defineXMLFlags(document, libvirt.VIR_DOMAIN_DEFINE_VALIDATE).undefine()
    except libvirt.libvirtError as error:
        return bool(error.get_error_code() != libvirt.VIR_ERR_XML_INVALID_SCHEMA)
    return True


@pytest.mark.parametrize("name", DOCUMENTS)
def test_libvirts_schema_accepts_it(name: str, hypervisor: Hypervisor) -> None:
    document = domain_xml.build(*DOCUMENTS[name])
    assert schema_accepts(hypervisor, document)
    assert not schema_accepts(hypervisor, document.replace("<memballoon", "<balloon"))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_image_has_its_format_and_every_chain_its_end(name: str) -> None:
    """A file without one is probed, and a guest can write any header into a raw disk."""
    for disk in ET.fromstring(domain_xml.build(*DOCUMENTS[name])).iterfind("devices/disk"):
        driver = disk.find("driver")
        assert driver is not None
        assert driver.get("type") in {"qcow2", "raw"}
        backings = list(disk.iter("backingStore"))
        assert len(list(backings[-1])) == 0
        assert all(level.find("format") is not None for level in backings[:-1])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_reading_it_gives_what_was_asked(name: str) -> None:
    spec, title = DOCUMENTS[name]
    in_kib = domain_xml.build(spec, title).replace(
        f'<memory unit="MiB">{spec.memory_mib}<', f'<memory unit="KiB">{spec.memory_mib * 1024}<'
    )
    assert domain_xml.read(in_kib) == spec


def test_a_libvirt_network_that_is_shown_as_its_bridge_is_read_as_the_network() -> None:
    asked = domain_xml.build(SEEDED, "")
    shown = asked.replace('type="network"', 'type="bridge"').replace(
        'network="default"', 'network="default" portid="1" bridge="virbr0"'
    )
    assert shown != asked
    assert domain_xml.read(shown).nics == NICS


@given(st.text())
def test_a_users_name_may_hold_anything(name: str) -> None:
    document = ET.fromstring(domain_xml.build(PLAIN, name))
    title = document.findtext("title", "")
    assert "\n" not in title
    assert document.findtext("name") == f"vm-{VM_ID}"
    legal = re.sub("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", " ", name)
    assert title.split() == legal.split()


CHANGES = {
    "vm_id": "6b1c5c5e-0000-4000-8000-000000000002",
    "accelerator": "kvm",
    "cpus": 2,
    "memory_mib": 193,
    "disks": (),
    "console_path": "/tmp/other.log",
    "seed_path": "/pools/a/seed.iso",
    "nics": NICS,
}


def test_each_field_that_differs_is_named() -> None:
    assert set(CHANGES) == set(DomainSpec.__dataclass_fields__)
    assert domain_xml.differences(PLAIN, PLAIN) == ()
    for field, value in CHANGES.items():
        (difference,) = domain_xml.differences(PLAIN, replace(PLAIN, **{field: value}))  # type: ignore[arg-type]
        assert difference.startswith(f"{field} is {value!r} instead of ")


@pytest.mark.parametrize(
    "chain",
    [
        (ChainFile("/pools/a/other.qcow2", "qcow2"),),
        (ChainFile("/pools/a/root.qcow2", "raw"),),
        (ChainFile("/pools/a/root.qcow2", "qcow2"), ChainFile("/etc/shadow", "raw")),
    ],
)
def test_another_chain_is_a_difference(chain: tuple[ChainFile, ...]) -> None:
    found = domain_xml.read(domain_xml.build(replace(PLAIN, disks=(DiskSpec("vda", chain),)), ""))
    assert [text.split()[0] for text in domain_xml.differences(replace(PLAIN, memory_mib=1), found)] == ["disks"]


@pytest.mark.parametrize(
    "document",
    [
        "",
        "<domain",
        "<domain type='xen'/>",
        "<domain type='kvm'/>",
        '<!DOCTYPE domain [<!ENTITY a "b">]><domain type="kvm"/>',
    ],
)
def test_what_is_no_domain_of_ours_is_refused(document: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        domain_xml.read(document)


@pytest.mark.parametrize(("memory_bytes", "mib"), [(1, 1), (1 << 20, 1), ((1 << 20) + 1, 2), (192 << 20, 192)])
def test_a_guest_gets_at_least_the_memory_that_was_asked(memory_bytes: int, mib: int) -> None:
    assert domain_xml.memory_mib(memory_bytes) == mib
