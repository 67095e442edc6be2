"""vm.start on a real libvirt: exactly as described, from exactly the recorded chains, or not at all."""

import os
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from agents.common.errors import CannotTell, CommandError, Interrupted
from agents.handlers.vm_start import VmStartHandler
from agents.hypervisor.connection import Hypervisor
from agents.hypervisor.guest import Guest
from agents.hypervisor.images import remove_image
from agents.protocol.kinds import Disk, ImageFile, Nic, VmEvidence, VmStart
from tests.lab.waiting import poll
from tests.unit.agents.fake_context import FakeContext

MIB = 1 << 20


@pytest.fixture
def handler(hypervisor: Hypervisor, tmp_path: Path) -> VmStartHandler:
    return VmStartHandler(hypervisor, tmp_path)


@pytest.fixture
def disk(pool: Path) -> Disk:
    """An overlay on a template."""
    base, top = pool / "template.qcow2", pool / "root.qcow2"
    qemu_img("create", "-f", "qcow2", base, "2M")
    qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", base, top)
    chain = tuple(ImageFile(path=str(path), format="qcow2") for path in (top, base))
    return Disk(volume_id="v1", target="vda", chain=chain)


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def ask(*disks: Disk, **changes: object) -> VmStart:
    fields = {"vm_id": str(uuid.uuid4()), "name": "web", "cpus": 1, "memory_bytes": 64 * MIB, "disks": disks}
    return VmStart.model_validate({**fields, "console_name": "web.log", **changes})


def refused(handler: VmStartHandler, payload: VmStart, context: FakeContext | None = None) -> CommandError:
    with pytest.raises(CommandError) as caught:
        handler.run(context or FakeContext(), payload)
    return caught.value


def domain(hypervisor: Hypervisor, vm_id: str) -> Any:
    return hypervisor.connection().lookupByUUIDString(vm_id)


def test_it_starts_what_was_described(handler: VmStartHandler, hypervisor: Hypervisor, disk: Disk) -> None:
    context, payload = FakeContext(), ask(disk)
    assert handler.run(context, payload).accelerator == "tcg"
    assert context.points == ["vm_start.before_define"]
    assert context.committed
    guest = Guest.find(hypervisor, payload.vm_id)
    assert guest is not None
    assert [tuple(file) for file in guest.description().disks[0].chain] == [(f.path, f.format) for f in disk.chain]
    assert handler.probe(context.notes, payload) == VmEvidence(power_state="running", accelerator="tcg")


def test_a_second_run_finds_it_running(handler: VmStartHandler, disk: Disk) -> None:
    payload = ask(disk)
    handler.run(FakeContext(), payload)
    again = FakeContext(attempt=2)
    assert handler.run(again, payload).accelerator == "tcg"
    assert again.points == []


def test_one_that_runs_differently_is_left_running(handler: VmStartHandler, hypervisor: Hypervisor, disk: Disk) -> None:
    payload = ask(disk)
    handler.run(FakeContext(), payload)
    other = payload.model_copy(update={"cpus": 2})
    error = refused(handler, other)
    assert error.problem.code == "vm_runs_differently"
    assert "cpus is 1 instead of 2" in error.problem.cause
    assert handler.probe({}, other).reason == "cpus is 1 instead of 2"
    assert Guest.find(hypervisor, payload.vm_id) is not None


def test_a_paused_one_is_left_as_it_is(handler: VmStartHandler, hypervisor: Hypervisor, disk: Disk) -> None:
    payload = ask(disk)
    handler.run(FakeContext(), payload)
    domain(hypervisor, payload.vm_id).suspend()
    error = refused(handler, payload)
    assert (error.problem.code, "paused by a person" in error.problem.cause) == ("vm_paused", True)
    assert handler.probe({}, payload).power_state == "paused"


def other_backing(disk: Disk, pool: Path) -> Disk:
    qemu_img("create", "-f", "qcow2", pool / "evil.qcow2", "2M")
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", pool / "evil.qcow2", disk.chain[0].path)
    return disk


def other_backing_format(disk: Disk, pool: Path) -> Disk:
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", disk.chain[1].path, disk.chain[0].path)
    return disk


def backing_behind_the_last(disk: Disk, pool: Path) -> Disk:
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/hostname", disk.chain[1].path)
    return disk


def missing_file(disk: Disk, pool: Path) -> Disk:
    Path(disk.chain[1].path).unlink()
    return disk


def link(disk: Disk, pool: Path) -> Disk:
    top = Path(disk.chain[0].path)
    top.rename(pool / "moved.qcow2")
    top.symlink_to(pool / "moved.qcow2")
    return disk


def no_image(disk: Disk, pool: Path) -> Disk:
    Path(disk.chain[0].path).write_bytes(b"nothing")
    return disk


def template_elsewhere(disk: Disk, pool: Path) -> Disk:
    chain = (disk.chain[0], ImageFile(path="/etc/hostname", format="raw"))
    return disk.model_copy(update={"chain": chain})


def raw_with_backing(disk: Disk, pool: Path) -> Disk:
    return disk.model_copy(update={"chain": (ImageFile(path=disk.chain[0].path, format="raw"), disk.chain[1])})


def data_elsewhere(disk: Disk, pool: Path) -> Disk:
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={pool}/external", pool / "data.qcow2", "2M")
    return disk.model_copy(update={"chain": (ImageFile(path=str(pool / "data.qcow2"), format="qcow2"),)})


WRONG_CHAINS = [other_backing, other_backing_format, backing_behind_the_last, missing_file, link, no_image]
WRONG_CHAINS += [template_elsewhere, raw_with_backing, data_elsewhere]


@pytest.mark.parametrize("make_wrong", WRONG_CHAINS, ids=lambda make: make.__name__)
def test_a_chain_that_is_not_the_recorded_one_is_never_opened(
    handler: VmStartHandler,
    hypervisor: Hypervisor,
    disk: Disk,
    pool: Path,
    make_wrong: Callable[[Disk, Path], Disk],
) -> None:
    context, payload = FakeContext(), ask(make_wrong(disk, pool))
    assert refused(handler, payload, context).problem.code == "chain_mismatch"
    assert context.points == []
    assert Guest.find(hypervisor, payload.vm_id) is None


def test_more_memory_than_there_is_is_refused(handler: VmStartHandler, disk: Disk) -> None:
    problem = refused(handler, ask(disk, memory_bytes=1 << 50)).problem
    assert (problem.code, problem.elsewhere) == ("no_memory", True)


def test_a_raw_disk_and_a_read_only_one_run(handler: VmStartHandler, pool: Path) -> None:
    for name in ("data.raw", "seed.iso"):
        (pool / name).write_bytes(bytes(MIB))
    data, seed = (ImageFile(path=str(pool / name), format="raw") for name in ("data.raw", "seed.iso"))
    payload = ask(
        Disk(volume_id="v1", target="vda", chain=(data,)),
        Disk(volume_id="v2", target="vdb", chain=(seed,), read_only=True),
    )
    handler.run(FakeContext(), payload)
    assert handler.probe({}, payload) == VmEvidence(power_state="running", accelerator="tcg")


def test_a_seed_is_in_the_drive_and_one_that_is_gone_stops_the_start(
    handler: VmStartHandler, hypervisor: Hypervisor, disk: Disk, pool: Path
) -> None:
    payload = ask(disk, seed_path=str(pool / "seed.iso"))
    assert refused(handler, payload).problem.code == "seed_missing"
    assert Guest.find(hypervisor, payload.vm_id) is None
    (pool / "seed.iso").write_bytes(bytes(MIB))
    handler.run(FakeContext(), payload)
    assert handler.probe({}, payload) == VmEvidence(power_state="running", accelerator="tcg")
    assert remove_refused(pool / "seed.iso")
    without = payload.model_copy(update={"seed_path": ""})
    assert "seed_path is" in handler.probe({}, without).reason


@pytest.mark.parametrize("source", ["no-such-bridge", "lo"])
def test_a_bridge_that_is_not_there_stops_the_start(handler: VmStartHandler, disk: Disk, source: str) -> None:
    payload = ask(disk, nics=(Nic(mac="02:00:00:00:00:01", kind="bridge", source=source),))
    context = FakeContext()
    problem = refused(handler, payload, context).problem
    assert (problem.code, problem.elsewhere, context.points) == ("network_missing", True, [])
    assert source in problem.cause


def remove_refused(path: Path) -> bool:
    """Whether it is in use, as for every image."""
    with pytest.raises(CommandError) as caught:
        remove_image(path, path.parent)
    return caught.value.problem.code == "image_in_use"


def test_a_start_that_qemu_refuses_fails_with_its_words(
    handler: VmStartHandler, hypervisor: Hypervisor, disk: Disk
) -> None:
    # A second VM on the same disk: QEMU's own lock refuses it.
    handler.run(FakeContext(), ask(disk))
    payload = ask(disk)
    error = refused(handler, payload)
    assert (error.problem.code, "lock" in error.problem.cause) == ("vm_start_failed", True)
    assert Guest.find(hypervisor, payload.vm_id) is None
    handler.cancel(FakeContext(), payload)
    assert handler.probe({}, payload) == VmEvidence(power_state="off")


def test_a_libvirt_that_cannot_be_asked_is_no_failure(tmp_path: Path, disk: Disk) -> None:
    handler = VmStartHandler(Hypervisor("qemu+unix:///system?socket=/nowhere"), tmp_path)
    context = FakeContext()
    with pytest.raises(Interrupted):
        handler.run(context, ask(disk, accelerator="tcg"))
    with pytest.raises(CannotTell):
        handler.probe({}, ask(disk, accelerator="tcg"))


def test_a_probe_waits_for_what_was_asked_before(
    handler: VmStartHandler, hypervisor: Hypervisor, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While libvirt ends a domain whose QEMU does not react, the domain is still there, and its fate is open."""
    payload = ask(disk)
    handler.run(FakeContext(), payload)
    guest = Guest.find(hypervisor, payload.vm_id)
    assert guest is not None
    (qemu,) = qemus(payload.vm_id)
    os.kill(qemu, signal.SIGSTOP)
    poll(lambda: psutil.Process(qemu).status() == psutil.STATUS_STOPPED, 10, "QEMU has stopped")
    ending = threading.Thread(target=guest.force_off)
    ending.start()
    try:
        poll(lambda: "15" in pending_signals(qemu), 10, "libvirt has sent SIGTERM")
        os.kill(qemu, signal.SIGCONT)
        assert handler.probe({}, payload).power_state == "off"
    finally:
        ending.join()


def qemus(vm_id: str) -> list[int]:
    lines = subprocess.run(["pgrep", "-f", f"guest=vm-{vm_id}"], capture_output=True, text=True, check=False).stdout
    return [int(line) for line in lines.split()]


def pending_signals(pid: int) -> list[str]:
    fields = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    mask = int(fields["ShdPnd"], 16)
    return [str(number) for number in range(1, 65) if mask >> (number - 1) & 1]
