"""qemu-img as a command uses it, and the probe that runs guest code."""

import subprocess
from pathlib import Path

import pytest

from agents.common.errors import Cancelled, CommandError
from agents.common.image_header import read_qcow2_header
from agents.hypervisor.kvm_probe import Acceleration, probe_kvm
from agents.hypervisor.qemu_img import QemuImg
from agents.protocol.kinds import ImageFile

MIB = 1 << 20


@pytest.fixture
def qemu_img() -> QemuImg:
    return QemuImg("0b9f0f6c-0000-4000-8000-000000000009", lambda: None)


def write(path: Path, what: str) -> None:
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", what, path], check=True, capture_output=True)


def test_our_reader_and_qemu_see_the_same(tmp_path: Path, qemu_img: QemuImg) -> None:
    base, top = tmp_path / "base.qcow2", tmp_path / "top: a, b.qcow2"
    qemu_img.create(base, 3 * MIB, None)
    qemu_img.create(top, 5 * MIB, ImageFile(path=str(base), format="qcow2"))
    for path, size, backing in ((base, 3 * MIB, None), (top, 5 * MIB, str(base))):
        header, seen = read_qcow2_header(path), qemu_img.info(path)
        assert (header.virtual_size_bytes, header.backing_file) == (size, backing)
        assert (seen.virtual_size_bytes, seen.backing_file) == (size, backing)
        assert seen.allocated_bytes == path.stat().st_blocks * 512
    assert read_qcow2_header(top).backing_format == "qcow2"


def test_the_backing_file_is_not_opened_to_make_an_overlay(tmp_path: Path, qemu_img: QemuImg) -> None:
    qemu_img.create(tmp_path / "top.qcow2", MIB, ImageFile(path=str(tmp_path / "missing"), format="raw"))
    assert read_qcow2_header(tmp_path / "top.qcow2").backing_file == str(tmp_path / "missing")


@pytest.mark.parametrize("what", ["write -P 7 0 4k", "write -z 0 64k"])
def test_what_was_written_to_the_file_itself_counts_as_data(tmp_path: Path, qemu_img: QemuImg, what: str) -> None:
    base, top = tmp_path / "base.qcow2", tmp_path / "top.qcow2"
    qemu_img.create(base, MIB, None)
    write(base, "write -P 7 0 1M")
    qemu_img.create(top, MIB, ImageFile(path=str(base), format="qcow2"))
    assert qemu_img.holds_data(base)
    assert not qemu_img.holds_data(top)
    write(top, what)
    assert qemu_img.holds_data(top)


def test_a_failure_says_what_qemu_img_said(tmp_path: Path, qemu_img: QemuImg) -> None:
    with pytest.raises(CommandError) as caught:
        qemu_img.create(tmp_path / "no folder" / "a.qcow2", MIB, None)
    assert caught.value.problem.code == "qemu_img_failed"
    assert "No such file" in caught.value.problem.cause


def test_a_relative_name_is_refused(qemu_img: QemuImg) -> None:
    with pytest.raises(ValueError, match="not absolute"):
        qemu_img.create(Path("-o"), MIB, None)


def test_a_cancel_is_heard(tmp_path: Path) -> None:
    def check() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        QemuImg("0b9f0f6c-0000-4000-8000-000000000009", check).create(tmp_path / "a.qcow2", MIB, None)


def test_the_probe_runs_guest_code() -> None:
    """Under plain emulation, which works everywhere, the same code must be seen to run."""
    assert probe_kvm(accelerator="tcg") == Acceleration("tcg", "a guest ran under TCG")


def test_a_probe_that_failed_says_why() -> None:
    found = probe_kvm(qemu="/nowhere/qemu")
    assert found == Acceleration(
        "tcg", "plain emulation, because /nowhere/qemu cannot be started: No such file or directory"
    )
    died = probe_kvm(qemu="false")
    assert died.reason == "plain emulation, because QEMU with KVM ended with 1: it said nothing"


def test_a_guest_that_does_nothing_counts_as_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.hypervisor.kvm_probe.PROBE_SECONDS", 0.2)
    stuck = tmp_path / "qemu"
    stuck.write_text("#!/bin/sh\nexec sleep 60\n")
    stuck.chmod(0o700)
    assert probe_kvm(qemu=str(stuck)).reason.endswith("a guest under KVM did nothing for 0.2 s")


def test_the_real_answer_has_a_reason() -> None:
    found = probe_kvm()
    assert (found.accelerator == "kvm") == (found.reason == "a guest ran under KVM")
    assert found.accelerator == "kvm" or found.reason.startswith("plain emulation, because ")
