"""volume.attach, volume.detach and volume.resize on a real libvirt.

These machines have no system, so none ever lets go of a disk; what a guest does is shown by the scenarios.
"""

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from agents.common.children import end_orphans
from agents.common.errors import CannotTell, CommandError, Interrupted
from agents.common.image_header import read_qcow2_header
from agents.handlers.volume_attach import VolumeAttachHandler
from agents.handlers.volume_detach import VolumeDetachHandler
from agents.handlers.volume_resize import VolumeResizeHandler
from agents.hypervisor import domain_xml
from agents.hypervisor.connection import Hypervisor
from agents.hypervisor.domain_xml import DiskSpec, disk_spec
from agents.hypervisor.guest import Guest
from agents.protocol.kinds import (
    Disk,
    DiskAnswer,
    DiskEvidence,
    ImageFile,
    VolumeAttach,
    VolumeDetach,
    VolumeResize,
    VolumeResizeEvidence,
)
from tests.unit.agents.fake_context import FakeContext
from tests.unit.agents.hypervisor.embedded import small_spec

MIB = 1 << 20
VOLUME = "5b1c5c5e-0000-4000-8000-000000000001"
COMMAND = "5b1c5c5e-0000-4000-8000-000000000002"
AWAY = Hypervisor("qemu+unix:///system?socket=/nowhere")


@pytest.fixture
def disk(pool: Path) -> Disk:
    """A volume that is an overlay."""
    base, top = pool / "base.qcow2", pool / "data.qcow2"
    qemu_img("create", "-f", "qcow2", base, "2M")
    qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", base, top, "4M")
    chain = tuple(ImageFile(path=str(path), format="qcow2") for path in (top, base))
    return Disk(volume_id=VOLUME, target="vdb", chain=chain)


@pytest.fixture
def vm_id(hypervisor: Hypervisor, tmp_path: Path) -> str:
    return started(hypervisor, tmp_path)


def started(hypervisor: Hypervisor, folder: Path, *disks: Disk) -> str:
    spec = small_spec(folder, disks=tuple(map(disk_spec, disks)))
    Guest.start(hypervisor, domain_xml.build(spec, "web"))
    return spec.vm_id


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def disks_of(hypervisor: Hypervisor, vm_id: str) -> tuple[DiskSpec, ...]:
    guest = Guest.find(hypervisor, vm_id)
    assert guest is not None
    return guest.description().disks


def paused(hypervisor: Hypervisor, vm_id: str) -> None:
    domain: Any = hypervisor.connection().lookupByUUIDString(vm_id)
    domain.suspend()


def force_off(hypervisor: Hypervisor, vm_id: str) -> None:
    guest = Guest.find(hypervisor, vm_id)
    assert guest is not None
    guest.force_off()


class TestAttach:
    @pytest.fixture
    def handler(self, hypervisor: Hypervisor) -> VolumeAttachHandler:
        return VolumeAttachHandler(hypervisor)

    def test_the_vm_has_exactly_the_recorded_disk(
        self, handler: VolumeAttachHandler, hypervisor: Hypervisor, vm_id: str, disk: Disk
    ) -> None:
        context, payload = FakeContext(), VolumeAttach(vm_id=vm_id, disk=disk)
        assert handler.probe({}, payload) == DiskEvidence(power_state="running")
        assert handler.run(context, payload) == DiskAnswer(live=True)
        assert (context.points, context.committed) == (["volume_attach.before_attach"], True)
        assert disks_of(hypervisor, vm_id) == (disk_spec(disk),)
        assert handler.probe({}, payload) == DiskEvidence(power_state="running", attached=True)
        again = FakeContext(attempt=2)
        assert handler.run(again, payload) == DiskAnswer(live=True)
        assert again.points == []

    def test_all_23_fit_into_a_running_vm(
        self, handler: VolumeAttachHandler, hypervisor: Hypervisor, vm_id: str, pool: Path
    ) -> None:
        for index in range(1, 24):
            path = pool / f"{index}.qcow2"
            qemu_img("create", "-f", "qcow2", path, "1M")
            chain = (ImageFile(path=str(path), format="qcow2"),)
            disk = Disk(volume_id=str(uuid.uuid4()), target=f"vd{chr(ord('a') + index)}", chain=chain)
            handler.run(FakeContext(), VolumeAttach(vm_id=vm_id, disk=disk))
        assert len(disks_of(hypervisor, vm_id)) == 23

    def test_a_paused_vm_gets_it_too(
        self, handler: VolumeAttachHandler, hypervisor: Hypervisor, vm_id: str, disk: Disk
    ) -> None:
        paused(hypervisor, vm_id)
        assert handler.run(FakeContext(), VolumeAttach(vm_id=vm_id, disk=disk)) == DiskAnswer(live=True)

    def test_a_vm_that_is_off_gets_it_with_its_next_start(self, handler: VolumeAttachHandler, disk: Disk) -> None:
        context, payload = FakeContext(), VolumeAttach(vm_id=str(uuid.uuid4()), disk=disk)
        assert handler.run(context, payload) == DiskAnswer(live=False)
        assert context.points == []
        assert handler.probe({}, payload) == DiskEvidence(power_state="off")

    def test_a_chain_that_is_not_the_recorded_one_is_not_opened(
        self, handler: VolumeAttachHandler, hypervisor: Hypervisor, vm_id: str, disk: Disk
    ) -> None:
        payload = VolumeAttach(vm_id=vm_id, disk=disk.model_copy(update={"chain": disk.chain[:1]}))
        context = FakeContext()
        with pytest.raises(CommandError) as caught:
            handler.run(context, payload)
        assert (caught.value.problem.code, context.committed) == ("chain_mismatch", False)
        assert disks_of(hypervisor, vm_id) == ()

    def test_one_that_it_has_otherwise_is_left_alone(
        self, handler: VolumeAttachHandler, hypervisor: Hypervisor, vm_id: str, disk: Disk
    ) -> None:
        handler.run(FakeContext(), VolumeAttach(vm_id=vm_id, disk=disk))
        other = VolumeAttach(vm_id=vm_id, disk=disk.model_copy(update={"target": "vdc"}))
        with pytest.raises(CommandError) as caught:
            handler.run(FakeContext(), other)
        assert caught.value.problem.code == "volume_attached_otherwise"
        assert "vdc" in handler.probe({}, other).mismatch
        assert disks_of(hypervisor, vm_id) == (disk_spec(disk),)

    def test_an_image_that_another_vm_writes_to_is_refused(
        self, handler: VolumeAttachHandler, hypervisor: Hypervisor, vm_id: str, disk: Disk, tmp_path: Path
    ) -> None:
        started(hypervisor, tmp_path, disk)
        with pytest.raises(CommandError, match="lock") as caught:
            handler.run(FakeContext(), VolumeAttach(vm_id=vm_id, disk=disk))
        assert caught.value.problem.code == "volume_not_attached"
        assert disks_of(hypervisor, vm_id) == ()


class TestDetach:
    @pytest.fixture
    def handler(self, hypervisor: Hypervisor) -> VolumeDetachHandler:
        return VolumeDetachHandler(hypervisor)

    def test_a_guest_that_does_not_let_go_keeps_it(
        self, handler: VolumeDetachHandler, hypervisor: Hypervisor, tmp_path: Path, disk: Disk
    ) -> None:
        vm_id = started(hypervisor, tmp_path, disk)
        payload = VolumeDetach(vm_id=vm_id, volume_id=VOLUME, timeout_seconds=0)
        assert handler.probe({}, payload) == DiskEvidence(power_state="running", attached=True)
        context = FakeContext()
        with pytest.raises(CommandError) as caught:
            handler.run(context, payload)
        assert (caught.value.problem.code, context.committed) == ("guest_keeps_disk", True)
        assert disks_of(hypervisor, vm_id) == (disk_spec(disk),)

    def test_a_paused_guest_cannot_be_asked(
        self, handler: VolumeDetachHandler, hypervisor: Hypervisor, tmp_path: Path, disk: Disk
    ) -> None:
        vm_id = started(hypervisor, tmp_path, disk)
        paused(hypervisor, vm_id)
        context = FakeContext()
        with pytest.raises(CommandError, match="paused by a person") as caught:
            handler.run(context, VolumeDetach(vm_id=vm_id, volume_id=VOLUME))
        assert (caught.value.problem.code, context.committed) == ("guest_cannot_be_asked", False)

    def test_what_the_vm_does_not_have_is_gone(self, handler: VolumeDetachHandler, vm_id: str) -> None:
        for vm, live in ((vm_id, True), (str(uuid.uuid4()), False)):
            context, payload = FakeContext(), VolumeDetach(vm_id=vm, volume_id=VOLUME)
            assert handler.run(context, payload) == DiskAnswer(live=live)
            assert context.points == []
            assert not handler.probe({}, payload).attached

    def test_a_vm_that_goes_off_meanwhile_holds_nothing(
        self, handler: VolumeDetachHandler, hypervisor: Hypervisor, tmp_path: Path, disk: Disk
    ) -> None:
        vm_id = started(hypervisor, tmp_path, disk)
        context = FakeContext()

        def off(name: str) -> None:
            if name == "volume_detach.before_request":
                force_off(hypervisor, vm_id)

        context.before = off
        assert handler.run(context, VolumeDetach(vm_id=vm_id, volume_id=VOLUME)) == DiskAnswer(live=True)


def growing(disk: Disk, vm_id: str | None, size_bytes: int = 8 * MIB) -> VolumeResize:
    return VolumeResize(volume_id=VOLUME, vm_id=vm_id, chain=disk.chain, virtual_size_bytes=size_bytes)


def size_on_disk(disk: Disk) -> int:
    return read_qcow2_header(disk.chain[0].path).virtual_size_bytes


class TestResize:
    @pytest.fixture
    def handler(self, hypervisor: Hypervisor) -> VolumeResizeHandler:
        return VolumeResizeHandler(hypervisor)

    def test_a_file_grows(self, handler: VolumeResizeHandler, disk: Disk) -> None:
        for vm_id in (None, str(uuid.uuid4())):
            payload = growing(disk, vm_id, size_on_disk(disk) + MIB)
            context = FakeContext(COMMAND)
            assert handler.probe({}, payload).virtual_size_bytes == size_on_disk(disk)
            answer = handler.run(context, payload)
            assert (answer.virtual_size_bytes, answer.live) == (payload.virtual_size_bytes, False)
            assert size_on_disk(disk) == payload.virtual_size_bytes
            assert context.points == ["volume_resize.before_resize"]
            again = FakeContext(COMMAND, attempt=2)
            handler.run(again, payload)
            assert again.points == []

    def test_a_running_vms_disk_grows(
        self, handler: VolumeResizeHandler, hypervisor: Hypervisor, tmp_path: Path, disk: Disk
    ) -> None:
        vm_id = started(hypervisor, tmp_path, disk)
        payload, context = growing(disk, vm_id), FakeContext(COMMAND)
        assert handler.probe({}, payload) == VolumeResizeEvidence(virtual_size_bytes=4 * MIB, live=True)
        assert handler.run(context, payload).live
        assert context.points == ["volume_resize_live.before_request"]
        assert handler.probe({}, payload) == VolumeResizeEvidence(virtual_size_bytes=8 * MIB, live=True)
        force_off(hypervisor, vm_id)
        assert handler.probe({}, payload) == VolumeResizeEvidence(virtual_size_bytes=8 * MIB)

    @pytest.mark.parametrize("runs", [False, True])
    def test_nothing_ever_shrinks(
        self, handler: VolumeResizeHandler, hypervisor: Hypervisor, tmp_path: Path, disk: Disk, runs: bool
    ) -> None:
        vm_id = started(hypervisor, tmp_path, disk) if runs else None
        context = FakeContext(COMMAND)
        with pytest.raises(CommandError) as caught:
            handler.run(context, growing(disk, vm_id, 4 * MIB - 512))
        assert (caught.value.problem.code, context.points) == ("volume_is_larger", [])
        assert size_on_disk(disk) == 4 * MIB

    def test_a_vm_that_runs_without_it_is_no_reason_to_touch_the_file(
        self, handler: VolumeResizeHandler, vm_id: str, disk: Disk
    ) -> None:
        with pytest.raises(CommandError) as caught:
            handler.run(FakeContext(COMMAND), growing(disk, vm_id))
        assert caught.value.problem.code == "volume_not_in_vm"
        assert size_on_disk(disk) == 4 * MIB

    def test_a_file_that_another_vm_has_open_is_left_alone(
        self, handler: VolumeResizeHandler, hypervisor: Hypervisor, tmp_path: Path, disk: Disk
    ) -> None:
        started(hypervisor, tmp_path, disk)
        with pytest.raises(CommandError, match="lock") as caught:
            handler.run(FakeContext(COMMAND), growing(disk, None))
        assert caught.value.problem.code == "qemu_img_failed"
        assert size_on_disk(disk) == 4 * MIB

    def test_a_chain_that_is_not_the_recorded_one_is_not_opened(self, handler: VolumeResizeHandler, disk: Disk) -> None:
        payload = growing(disk.model_copy(update={"chain": disk.chain[:1]}), None)
        with pytest.raises(CommandError) as caught:
            handler.run(FakeContext(COMMAND), payload)
        assert caught.value.problem.code == "chain_mismatch"

    @pytest.mark.parametrize("point", ["before_resize", "during_resize", "after_resize"])
    def test_an_agent_killed_at_any_point_is_survived(
        self, handler: VolumeResizeHandler, disk: Disk, tmp_path: Path, point: str
    ) -> None:
        (tmp_path / f"volume_resize.{point}").write_text("kill")
        payload = growing(disk, None)
        agent = subprocess.run(
            [sys.executable, "-c", AGENT, COMMAND, payload.model_dump_json()],
            env={**os.environ, "CLOUDCTL_CRASH_DIR": str(tmp_path)},
            check=False,
        )
        assert agent.returncode == -signal.SIGKILL
        end_orphans(COMMAND, 10)
        size = handler.probe({}, payload).virtual_size_bytes
        assert size == size_on_disk(disk)
        if point != "during_resize":
            assert size == (8 * MIB if point == "after_resize" else 4 * MIB)
        handler.run(FakeContext(COMMAND, attempt=2), payload)
        assert size_on_disk(disk) == 8 * MIB
        qemu_img("check", "-f", "qcow2", disk.chain[0].path)


AGENT = """
import sys
from agents.handlers.volume_resize import VolumeResizeHandler
from agents.hypervisor.connection import Hypervisor
from agents.protocol.kinds import VolumeResize
from tests.unit.agents.fake_context import FakeContext
payload = VolumeResize.model_validate_json(sys.argv[2])
VolumeResizeHandler(Hypervisor("")).run(FakeContext(sys.argv[1]), payload)
"""


@pytest.mark.parametrize("kind", ["attach", "detach", "resize"])
def test_a_libvirt_that_cannot_be_asked_is_no_failure(kind: str, disk: Disk) -> None:
    vm_id = str(uuid.uuid4())
    handlers: dict[str, tuple[Any, Any]] = {
        "attach": (VolumeAttachHandler(AWAY), VolumeAttach(vm_id=vm_id, disk=disk)),
        "detach": (VolumeDetachHandler(AWAY), VolumeDetach(vm_id=vm_id, volume_id=VOLUME)),
        "resize": (VolumeResizeHandler(AWAY), growing(disk, vm_id)),
    }
    handler, payload = handlers[kind]
    with pytest.raises(Interrupted):
        handler.run(FakeContext(COMMAND), payload)
    with pytest.raises(CannotTell):
        handler.probe({}, payload)
