"""The lab's hosts are real: the guest boots on them, answers, and survives a libvirtd that is killed."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import libvirt
import libvirt_qemu
import pytest

from tests.lab import guest, process
from tests.lab.hypervisor import Hypervisor
from tests.lab.supervisor import Supervisor
from tests.lab.waiting import poll

DOMAIN = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>192</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
<devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/>
<target dev='vda' bus='virtio'/></disk>{more}
<serial type='file'><source path='{console}'/><target port='0'/></serial>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
</devices></domain>"""


@pytest.fixture(scope="module")
def hosts(supervisor: Supervisor, lab_dir: Path) -> list[Hypervisor]:
    both = [Hypervisor(name, lab_dir / name, supervisor) for name in ("host1", "host2")]
    for host in both:
        host.start()
        host.publish_capabilities()
    return both


def overlay(disk: Path) -> Path:
    """A disk of its own on top of the guest's template."""
    source = guest.template().path
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", source, "-F", "qcow2", disk], check=True)
    return disk


@pytest.fixture(scope="module")
def booted(hosts: list[Hypervisor], lab_dir: Path) -> Iterator[process.Identity]:
    """A guest running on the first host."""
    disk, console = overlay(lab_dir / "root.qcow2"), lab_dir / "console.log"
    connection = libvirt.open(hosts[0].uri)
    connection.createXML(DOMAIN.format(name="tiny", disk=disk, console=console, more=""), 0)
    pid = int((hosts[0].folder / "run/qemu/tiny.pid").read_text())
    running = process.identify(pid)
    assert running is not None
    yield running
    connection.close()


def _ping(host: Hypervisor) -> dict[str, object] | None:
    connection = libvirt.open(host.uri)
    try:
        answer = libvirt_qemu.qemuAgentCommand(connection.lookupByName("tiny"), '{"execute":"guest-ping"}', 1, 0)
    except libvirt.libvirtError:
        return None
    finally:
        connection.close()
    decoded: dict[str, object] = json.loads(answer)
    return decoded


def test_the_guest_boots_and_its_agent_answers(hosts: list[Hypervisor], booted: process.Identity) -> None:
    assert poll(lambda: _ping(hosts[0]), 60, "the guest answers") == {"return": {}}


def test_the_guest_says_on_its_console_that_it_is_ready(booted: process.Identity, lab_dir: Path) -> None:
    console = lab_dir / "console.log"
    poll(lambda: guest.READY_LINE in console.read_text(errors="replace"), 60, "the ready line")


def test_the_hosts_are_two(hosts: list[Hypervisor], booted: process.Identity) -> None:
    connections = [libvirt.open(host.uri) for host in hosts]
    assert [[domain.name() for domain in connection.listAllDomains()] for connection in connections] == [["tiny"], []]
    uuids = {connection.getCapabilities().split("<uuid>")[1][:36] for connection in connections}
    assert len(uuids) == 2


def test_a_killed_libvirtd_finds_its_guest_again(
    hosts: list[Hypervisor], booted: process.Identity, supervisor: Supervisor
) -> None:
    supervisor.restarted(hosts[0].part, after=supervisor.kill(hosts[0].part))
    hosts[0].wait_answering()
    assert process.is_alive(booted)
    assert poll(lambda: _ping(hosts[0]), 60, "the guest answers again") == {"return": {}}


SEED = """<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{seed}'/>
<target dev='vdb' bus='virtio'/></disk>"""
USER_DATA = """#!/bin/sh
echo "the key is $(cat /root/.ssh/authorized_keys)"
poweroff -f
"""


def test_a_seed_brings_keys_and_a_script_that_may_power_the_guest_off(hosts: list[Hypervisor], lab_dir: Path) -> None:
    seed, console = lab_dir / "seed.img", lab_dir / "seeded.log"
    (lab_dir / "user-data").write_text(USER_DATA)
    (lab_dir / "meta-data").write_text("public-keys:\n  - ssh-ed25519 AAAAC3Nza alice@example\n")
    seed.write_bytes(bytes(1024**2))
    subprocess.run(["mformat", "-i", seed, "-v", "CIDATA", "::"], check=True)
    subprocess.run(["mcopy", "-i", seed, lab_dir / "user-data", lab_dir / "meta-data", "::"], check=True)
    document = DOMAIN.format(
        name="seeded", disk=overlay(lab_dir / "seeded.qcow2"), console=console, more=SEED.format(seed=seed)
    )
    connection = libvirt.open(hosts[1].uri)
    connection.createXML(document, 0)
    poll(lambda: not connection.listAllDomains(), 60, "the guest powers itself off")
    connection.close()
    assert "the key is ssh-ed25519 AAAAC3Nza alice@example" in console.read_text(errors="replace")


def test_no_guest_outlives_the_lab(booted: process.Identity, supervisor: Supervisor) -> None:
    assert process.is_alive(booted)
    supervisor.stop_all()
    assert not process.is_alive(booted)
