"""Volumes as the guest sees them: they come, grow and go while it runs, and while it is off."""

import base64
import json
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu

from agents.common.image_header import read_qcow2_header
from tests.lab.client import ApiError
from tests.lab.waiting import poll
from tests.scenarios.cloud import MEBIBYTE, Cloud, Row

SECTOR_BYTES = 512


class Shell:
    """A shell inside a guest, through its agent."""

    def __init__(self, cloud: Cloud, vm: Row) -> None:
        self._uri = next(host for host in cloud.lab.hosts if host.id == vm["host"]).hypervisor.uri
        self._vm = vm["id"]

    def run(self, script: str) -> str:
        """What the script says; AssertionError unless it leaves with 0."""
        connection = libvirt.open(self._uri)
        try:
            domain = connection.lookupByUUIDString(self._vm)
            started = _ask(domain, "guest-exec", path="/bin/sh", arg=["-c", script], **{"capture-output": True})
            ended = poll(lambda: _ended(domain, started["pid"]), 20, script)
        finally:
            connection.close()
        assert ended["exitcode"] == 0, ended
        return base64.b64decode(ended.get("out-data", "")).decode()

    def pause(self) -> None:
        """As a person at the host would."""
        connection = libvirt.open(self._uri)
        try:
            connection.lookupByUUIDString(self._vm).suspend()
        finally:
            connection.close()

    def disks(self) -> dict[str, tuple[str, int]]:
        """Device → serial and size in bytes."""
        script = "cd /sys/block; for disk in vd*; do echo $disk $(cat $disk/serial) $(cat $disk/size); done"
        rows = (line.split() for line in self.run(script).splitlines())
        return {device: (serial, int(sectors) * SECTOR_BYTES) for device, serial, sectors in rows}


def _ask(domain: Any, command: str, **arguments: Any) -> Any:
    request = json.dumps({"execute": command, "arguments": arguments})
    return json.loads(libvirt_qemu.qemuAgentCommand(domain, request, 5, 0))["return"]


def _ended(domain: Any, pid: int) -> Any:
    status = _ask(domain, "guest-exec-status", pid=pid)
    return status if status["exited"] else None


def test_a_running_guest_sees_its_disk_come_grow_and_go(cloud: Cloud) -> None:
    vm = cloud.booted(cloud.vm(cloud.template()))
    shell = Shell(cloud, vm)
    volume = cloud.volume(size_bytes=32 * MEBIBYTE, pool=cloud.volume_now({"id": vm["volumes"][0]})["pool"])
    assert volume["vm"] is None
    assert set(shell.disks()) == {"vda"}

    cloud.settled(cloud.attach(volume, vm))
    poll(lambda: "vdb" in shell.disks(), 20, "the guest sees the disk")
    assert shell.disks()["vdb"] == (volume["id"][:20], 32 * MEBIBYTE)
    shell.run("mke2fs -F /dev/vdb >/dev/null && mount -t ext4 /dev/vdb /data && echo kept > /data/word && umount /data")

    cloud.settled(cloud.resize(volume, 64 * MEBIBYTE))
    assert cloud.volume_now(volume)["size_bytes"] == 64 * MEBIBYTE
    poll(lambda: shell.disks()["vdb"][1] == 64 * MEBIBYTE, 20, "the guest sees its new size")

    cloud.settled(cloud.detach(volume))
    assert "vdb" not in shell.disks()
    assert cloud.volume_now(volume)["vm"] is None
    assert read_qcow2_header(volume["path"]).virtual_size_bytes == 64 * MEBIBYTE

    cloud.settled(cloud.attach(volume, vm))
    poll(lambda: "vdb" in shell.disks(), 20, "the guest sees the disk again")
    assert shell.run("mount -t ext4 /dev/vdb /data && cat /data/word && umount /data") == "kept\n"
    cloud.settled(cloud.destroy(vm))
    assert cloud.volume_now(volume)["vm"] is None, "it was attached later, so it is kept"
    assert Path(volume["path"]).exists()
    cloud.settled(cloud.delete_volume(volume))
    assert not Path(volume["path"]).exists()


def test_a_guest_that_is_off_finds_it_when_it_starts(cloud: Cloud) -> None:
    vm = cloud.vm(cloud.template(), start=False, data_disks=[{"size_bytes": 16 * MEBIBYTE}])
    root, data = map(cloud.volume_now, ({"id": pk} for pk in vm["volumes"]))
    volume = cloud.volume(pool=root["pool"])
    cloud.settled(cloud.attach(volume, vm))
    cloud.settled(cloud.resize(volume, 48 * MEBIBYTE))
    cloud.settled(cloud.resize(root, 96 * MEBIBYTE))
    cloud.settled(cloud.detach(data))
    cloud.settled(cloud.start(vm))
    shell = Shell(cloud, cloud.booted(vm))
    assert cloud.volume_now(volume)["device"] == "vdc", "vdb was taken when it was attached"
    # The guest names its disks as it finds them.
    assert list(shell.disks().values()) == [(root["id"][:20], 96 * MEBIBYTE), (volume["id"][:20], 48 * MEBIBYTE)]
    cloud.settled(cloud.destroy(vm))
    for kept in (volume, data):
        assert cloud.volume_now(kept)["state"] == "ready"
        cloud.settled(cloud.delete_volume(kept))


def test_a_paused_guest_cannot_let_go_and_keeps_its_disk(cloud: Cloud) -> None:
    vm = cloud.vm(cloud.template(), start=False)
    root = cloud.volume_now({"id": vm["volumes"][0]})
    volume = cloud.volume(pool=root["pool"])
    cloud.settled(cloud.attach(volume, vm))
    cloud.settled(cloud.start(vm))
    vm = cloud.booted(vm)
    shell = Shell(cloud, vm)
    shell.pause()
    failed = cloud.settled(cloud.detach(volume), state="failed")
    assert failed["error"]["code"] == "guest_cannot_be_asked"
    assert cloud.volume_now(volume)["vm"] == vm["id"]
    cloud.settled(cloud.resume(vm))
    cloud.settled(cloud.detach(volume))
    assert set(shell.disks()) == {"vda"}
    refused = [
        refusal(cloud, f"volumes/{root['id']}/detach/"),
        refusal(cloud, f"volumes/{root['id']}/resize/", root["size_bytes"]),
    ]
    assert [problem["status"] for problem in refused] == [409, 400]
    cloud.settled(cloud.destroy(vm))
    cloud.settled(cloud.delete_volume(volume))


def refusal(cloud: Cloud, path: str, size_bytes: int | None = None) -> Any:
    try:
        cloud.client.post(path, {"size_bytes": size_bytes} if size_bytes else None)
    except ApiError as error:
        return error.problem
    raise AssertionError(f"{path} was accepted")
