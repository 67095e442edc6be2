"""What happens to VMs whose pool is full, and to those whose host was switched off."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.lab.inside import inside
from tests.lab.keeper import Part
from tests.lab.lab import Host, Lab
from tests.scenarios.cloud import MEBIBYTE, Cloud, Row

POOL_BYTES = 224 * MEBIBYTE
DATA_BYTES = 64 * MEBIBYTE


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


@pytest.fixture(scope="session")
def small_pool(lab: Lab) -> Iterator[Row]:
    """A pool on a small file system of its own, which a test can fill."""
    image, folder = lab.dir / "own-disk.ext4", lab.dir / "own-disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(POOL_BYTES)
    run("mkfs.ext4", "-q", "-m", "0", image)
    run("mount", "-o", "loop", image, folder)
    (folder / "pool").mkdir()
    (device,) = subprocess.check_output(["findmnt", "-no", "SOURCE", folder], text=True).split()
    # Hypervisors have mount namespaces of their own, made before this.
    namespaces = [lab.supervisor.pids()[f"namespace-{host.name}"] for host in lab.hosts]
    for pid in namespaces:
        run("nsenter", f"--mount=/proc/{pid}/ns/mnt", "mount", device, folder)
    body = {"name": "own-disk", "zone": lab.made["zone"], "type": "shared", "path": str(folder / "pool")}
    pool: Row = lab.client.post("storage-pools/", body)
    lab.pools.append(pool)
    lab.client.wait(f"storage-pools/{pool['id']}/", lambda row: row["capacity_bytes"], 30)
    yield pool
    for pid in namespaces:
        run("nsenter", f"--mount=/proc/{pid}/ns/mnt", "umount", folder)
    run("umount", folder)


@pytest.fixture
def filler(small_pool: Row) -> Iterator[Path]:
    """A file beside the pool; what it takes the pool does not have."""
    path = Path(small_pool["path"]).parent / "filler"
    yield path
    path.unlink(missing_ok=True)


def fill(path: Path) -> None:
    with path.open("wb") as file:
        while True:
            try:
                file.write(bytes(MEBIBYTE))
                file.flush()
            except OSError:
                return


def test_a_guest_is_paused_while_its_pool_is_full_and_loses_nothing(
    cloud: Cloud, small_pool: Row, filler: Path
) -> None:
    given = {"pool": small_pool["id"], "data_disks": [{"size_bytes": DATA_BYTES}]}
    vm = cloud.booted(cloud.vm(cloud.template(), **given))
    fill(filler)
    with inside(cloud.lab, vm) as guest:
        # Nobody waits for it: the guest stands still in the middle of it.
        write = "dd if=/dev/urandom of=/data/big bs=1M count=16; sync; sha256sum /data/big > /var/run/sum"
        guest.begin("/bin/sh", "-c", write)
    vm = cloud.client.wait_vm(vm["id"], 60, power_state="paused")
    assert (vm["state"], "I/O error" in vm["power_reason"]) == ("running", True)
    assert len(cloud.alarms("vm.paused", vm["id"])) == 1
    assert cloud.settled(cloud.reboot(vm, force=False), state="failed")["error"]["code"] == "vm_paused"
    assert cloud.settled(cloud.resume(vm), state="failed")["error"]["code"] == "vm_paused_again"
    filler.unlink()
    cloud.settled(cloud.resume(vm))
    vm = cloud.client.wait_vm(vm["id"], 30, power_state="running", guest_agent="answering")
    with inside(cloud.lab, vm) as guest:
        guest.wait_file("/var/run/sum", 60)
        guest.run("/bin/sh", "-c", "echo 3 > /proc/sys/vm/drop_caches; sha256sum -c /var/run/sum")
    cloud.settled(cloud.destroy(vm))


@pytest.fixture
def booted_anew(lab: Lab) -> Iterator[Callable[[Host], None]]:
    """Does to a host what switching it off and on does: its guests are gone, its agent finds another boot's id.

    The machine's own boot id cannot be changed, so the agent sees another file in its place.
    """
    hosts: list[Host] = []

    def boot(host: Host) -> None:
        hosts.append(host)
        lab.supervisor.stop(host.part)
        connection = libvirt.open(host.hypervisor.uri)
        for domain in connection.listAllDomains():
            domain.destroy()
        connection.close()
        other = host.folder / "boot-id"
        other.write_text(Path("/proc/sys/kernel/random/uuid").read_text())
        mount = f"mount --make-rprivate / && mount --bind {other} /proc/sys/kernel/random/boot_id"
        start(host, "unshare", "-m", "bash", "-c", f'{mount} && exec "$@"', "boot")

    def start(host: Host, *before: str) -> None:
        agent = [sys.executable, "-m", "agents", "run", "--state-dir", str(host.state_dir)]
        env: dict[str, Any] = {"CLOUDCTL_CRASH_DIR": str(host.crash_dir)}
        lab.supervisor.start(Part(host.part, [*before, *agent], env))
        lab.wait_host(host.name)

    yield boot
    for host in hosts:
        lab.supervisor.stop(host.part)
        start(host)


def test_after_a_hosts_boot_those_that_are_to_be_are_started_again(
    cloud: Cloud, booted_anew: Callable[[Host], None]
) -> None:
    template, host = cloud.template(), cloud.lab.hosts[0]
    wanted, other = (cloud.booted(cloud.vm(template, host=host.id, restart_after_boot=yes)) for yes in (True, False))
    booted_anew(host)
    cloud.client.wait_vm(other["id"], 30, state="stopped", host=None)
    back = cloud.booted(wanted)
    assert back["host"] == host.id
    (again,) = cloud.client.list("operations/", kind="vm.start", target_id=wanted["id"])
    assert (again["state"], again["requested_by"]) == ("succeeded", None)
    for vm in (wanted, other):
        cloud.settled(cloud.destroy(vm))
