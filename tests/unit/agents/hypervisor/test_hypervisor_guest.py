"""A VM as libvirt really has it, and what a host tells of its VMs."""

import json
import subprocess
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.hypervisor import domain_xml
from agents.hypervisor.connection import Hypervisor
from agents.hypervisor.domain_xml import ChainFile, DiskSpec
from agents.hypervisor.errors import GuestAgentSilent, HypervisorRefused, WrongState
from agents.hypervisor.facts import host_facts, vm_facts
from agents.hypervisor.guest import ADDRESSES_MAX, Guest, Power, addresses_in
from tests.unit.agents.hypervisor.embedded import small_spec


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def test_a_vm_runs_as_asked(hypervisor: Hypervisor, tmp_path: Path) -> None:
    base, top, data = tmp_path / "base.raw", tmp_path / "top.qcow2", tmp_path / "data.qcow2"
    base.write_bytes(bytes(1 << 20))
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", base, top)
    qemu_img("create", "-f", "qcow2", data, "1M")
    disks = (
        DiskSpec("vda", (ChainFile(str(top), "qcow2"), ChainFile(str(base), "raw"))),
        DiskSpec("vdb", (ChainFile(str(data), "qcow2"),), read_only=True),
    )
    spec = small_spec(tmp_path, disks=disks, cpus=2)
    guest = Guest.start(hypervisor, domain_xml.build(spec, "alice's <web> server\n\x00"))
    assert guest.power() == Power("running")
    assert domain_xml.differences(spec, guest.description()) == ()
    assert (tmp_path / "console.log").exists()


def test_it_is_found_by_its_id_until_it_is_off(hypervisor: Hypervisor, tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    assert Guest.find(hypervisor, spec.vm_id) is None
    guest = Guest.start(hypervisor, domain_xml.build(spec, "web"))
    found = Guest.find(hypervisor, spec.vm_id)
    assert found is not None
    assert found.vm_id == spec.vm_id
    guest.force_off()
    assert Guest.find(hypervisor, spec.vm_id) is None
    assert guest.power().state == "off"


def test_what_is_asked_of_a_vm_that_is_gone_is_no_error(hypervisor: Hypervisor, tmp_path: Path) -> None:
    guest = Guest.start(hypervisor, domain_xml.build(small_spec(tmp_path), "web"))
    guest.force_off()
    guest.force_off()
    guest.ask_shutdown()
    guest.wait_idle()


def test_a_second_start_of_the_same_id_is_refused(hypervisor: Hypervisor, tmp_path: Path) -> None:
    document = domain_xml.build(small_spec(tmp_path), "web")
    Guest.start(hypervisor, document)
    with pytest.raises(WrongState):
        Guest.start(hypervisor, document)


def test_a_start_that_qemu_refuses_leaves_nothing(hypervisor: Hypervisor, tmp_path: Path) -> None:
    spec = small_spec(tmp_path, ChainFile(str(tmp_path / "missing.qcow2"), "qcow2"))
    with pytest.raises(HypervisorRefused, match=r"missing\.qcow2"):
        Guest.start(hypervisor, domain_xml.build(spec, "web"))
    assert Guest.find(hypervisor, spec.vm_id) is None


def test_what_libvirt_does_not_know_is_refused_and_not_left_out(hypervisor: Hypervisor, tmp_path: Path) -> None:
    document = domain_xml.build(small_spec(tmp_path), "web").replace("<os>", "<ours/><os>")
    with pytest.raises(HypervisorRefused, match="ours"):
        Guest.start(hypervisor, document)


def test_a_guest_without_an_agent_is_silent(hypervisor: Hypervisor, tmp_path: Path) -> None:
    guest = Guest.start(hypervisor, domain_xml.build(small_spec(tmp_path), "web"))
    with pytest.raises(GuestAgentSilent):
        guest.agent_ping(1)


def test_only_our_domains_are_facts(hypervisor: Hypervisor, tmp_path: Path) -> None:
    ours = small_spec(tmp_path)
    Guest.start(hypervisor, domain_xml.build(ours, "web"))
    stranger = f"<domain type='qemu'><name>theirs</name><uuid>{uuid.uuid4()}</uuid><memory>65536</memory>"
    Guest.start(hypervisor, stranger + "<os><type arch='x86_64'>hvm</type></os></domain>")
    assert [(fact.vm_id, fact.power_state) for fact in vm_facts(hypervisor)] == [(ours.vm_id, "running")]


def test_a_paused_vm_says_why(hypervisor: Hypervisor, tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    Guest.start(hypervisor, domain_xml.build(spec, "web"))
    domain = hypervisor.connection().lookupByUUIDString(spec.vm_id)
    domain.suspend()  # type: ignore[attr-defined]
    (fact,) = vm_facts(hypervisor)
    assert (fact.power_state, fact.reason) == ("paused", "paused by a person")


def test_a_host_tells_what_it_can_do(hypervisor: Hypervisor) -> None:
    facts = host_facts(hypervisor)
    said = subprocess.run(["qemu-system-x86_64", "--version"], check=True, capture_output=True, text=True).stdout
    assert f"version {facts.qemu_version} " in said
    assert facts.libvirt_version.count(".") == 2
    assert facts.cpus > 0
    assert facts.memory_bytes > 1 << 28
    assert (facts.accelerator, facts.accelerator_reason) == ("tcg", "the tests say so")


def test_a_host_without_libvirt_tells_the_rest() -> None:
    facts = host_facts(Hypervisor("qemu+unix:///system?socket=/nowhere"))
    assert facts.cpus > 0
    assert facts.qemu_version == ""


def told(*addresses: object) -> str:
    """What a guest's agent answers; the loopback card has none of them."""
    cards = [{"name": "lo", "ip-addresses": [{"ip-address": "127.0.0.1"}]}]
    cards += [{"name": "eth0", "ip-addresses": [{"ip-address": one, "prefix": 24} for one in addresses]}, {"name": "x"}]
    return json.dumps({"return": cards})


@pytest.mark.parametrize(
    ("answer", "addresses"),
    [
        (told("192.0.2.7", "2001:db8::7", "fe80::1", "169.254.0.1", "192.0.2.7"), ("192.0.2.7", "2001:db8::7")),
        (told("<b>", "192.0.2.7 ", None, 7, ["192.0.2.7"], "0.0.0.0", "::"), ()),
        (told(*(f"192.0.2.{number}" for number in range(99))), tuple(f"192.0.2.{n}" for n in range(ADDRESSES_MAX))),
        ("", ()),
        ("[" * 100_000, ()),
        ('{"return": [1]}', ()),
        ('{"return": [{"ip-addresses": [1]}]}', ()),
        ('{"return": [{"ip-addresses": 7}]}', ()),
        ('{"error": {"class": "CommandNotFound"}}', ()),
    ],
)
def test_only_what_is_an_address_is_taken_from_a_guest(answer: str, addresses: tuple[str, ...]) -> None:
    assert addresses_in(answer) == addresses


JSON = st.recursive(st.none() | st.integers() | st.text(), lambda one: st.lists(one) | st.dictionaries(st.text(), one))


@settings(max_examples=30)
@given(JSON)
def test_a_guest_may_say_anything(answer: object) -> None:
    assert addresses_in(json.dumps({"return": answer})) == ()
