"""The invariants find what is wrong: a check that cannot fail would hide every crash."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.lab import checks, process
from tests.lab.keeper import Part
from tests.lab.lab import Lab

MIB = 1024**2


@pytest.fixture(scope="module")
def vm(lab: Lab) -> Iterator[dict[str, Any]]:
    """A VM that runs on the first host, from a template on that host's pool."""
    client = lab.client
    body = {"name": "checked", "url": lab.template_url, "format": "qcow2", "zones": [lab.made["zone"]]}
    template = client.wait_operation(client.post("templates/", body)["id"])["target"]["id"]
    wanted = {"name": "checked", "template": template, "zone": lab.made["zone"], "memory_bytes": 192 * MIB}
    operation = client.post("vms/", {**wanted, "pool": lab.pools[0]["id"], "data_disks": [{"size_bytes": 32 * MIB}]})
    made = client.wait_operation(operation["id"], 120)["target"]["id"]
    yield client.wait_vm(made, state="running")
    client.wait_operation(client.delete(f"vms/{made}/", expunge="true")["id"])
    checks.assert_consistent(lab)


@pytest.fixture
def sound(lab: Lab, vm: dict[str, Any]) -> Lab:
    checks.assert_consistent(lab)
    return lab


def test_a_file_without_an_owner_is_found(sound: Lab) -> None:
    stray = Path(sound.pools[0]["path"]) / "stray.qcow2"
    stray.touch()
    try:
        assert checks.findings(sound) == [f"{stray} belongs to nothing"]
    finally:
        stray.unlink()


def test_a_missing_file_is_found(sound: Lab, vm: dict[str, Any]) -> None:
    volume = sound.client.get(f"volumes/{vm['volumes'][-1]}/")
    path = Path(volume["path"])
    moved = path.rename(path.with_suffix(".moved"))
    try:
        assert f"{path} of volume {volume['id']} is missing" in checks.findings(sound)
    finally:
        moved.rename(path)


def test_a_child_that_outlived_its_command_is_found(sound: Lab) -> None:
    disk = sound.dir / "disk.raw"
    disk.write_bytes(bytes(MIB))
    part = Part("stray", ["qemu-img", "bench", "-f", "raw", "-c", "1000000000", str(disk)])
    pid = sound.supervisor.start(part)
    try:
        # Until then it is still the program that starts it.
        sound.supervisor.ready("stray", lambda: process.command(pid)[0] == "qemu-img", 10)
        assert checks.findings(sound) == [f"qemu-img still runs as process {pid}"]
    finally:
        sound.supervisor.stop("stray")


def test_a_vm_without_its_domain_is_found(sound: Lab, vm: dict[str, Any]) -> None:
    host = next(host for host in sound.hosts if host.id == vm["host"])
    # Nobody shall tell the server yet.
    sound.supervisor.hold(host.part)
    assert process.wait_gone([sound.supervisor.kill(host.part)], 5) == []
    connection = libvirt.open(host.hypervisor.uri)
    connection.lookupByUUIDString(vm["id"]).destroy()
    connection.close()
    assert f"VM {vm['id']} should run on host {host.id}, no domain does" in checks.findings(sound)
    sound.supervisor.release(host.part)
    sound.client.wait_vm(vm["id"], state="stopped")
