"""volume.resize: a volume grows, in the QEMU that has it open or in its file. It never shrinks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.common.children import end_earlier_attempts
from agents.common.crash import crash_point
from agents.common.errors import CommandError, Interrupted
from agents.common.image_header import read_qcow2_header
from agents.common.pools import pool_errors
from agents.handlers.base import Context
from agents.hypervisor.chain import check_chain
from agents.hypervisor.connection import Hypervisor
from agents.hypervisor.domain_xml import DiskSpec
from agents.hypervisor.errors import DomainNotFound, HypervisorRefused, WrongState, unknown_outcome_interrupts
from agents.hypervisor.evidence import settled
from agents.hypervisor.guest import Guest
from agents.hypervisor.qemu_img import QemuImg
from agents.protocol.kinds import VolumeResize, VolumeResizeAnswer, VolumeResizeEvidence


class VolumeResizeHandler:
    """What QEMU has open only QEMU may change; what it has not, only its header says the size of."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor

    def run(self, context: Context, payload: VolumeResize) -> VolumeResizeAnswer:
        """Let it grow, or find it grown."""
        end_earlier_attempts(context.command_id)
        with unknown_outcome_interrupts():
            opened = self._opened(payload)
            size = _size(payload, opened)
            if size > payload.virtual_size_bytes:
                raise _would_shrink(size, payload)
            if size < payload.virtual_size_bytes:
                try:
                    _grow_live(context, payload, *opened) if opened else _grow_file(context, payload)
                except CommandError:
                    # What failed may have been done all the same: only the size says.
                    if _size(payload, self._opened(payload)) != payload.virtual_size_bytes:
                        raise
            return VolumeResizeAnswer(virtual_size_bytes=payload.virtual_size_bytes, live=opened is not None)

    def cancel(self, context: Context, payload: VolumeResize) -> None:
        """Nothing to put back: before the first change nothing was done, and what has grown stays."""

    def probe(self, notes: Mapping[str, Any], payload: VolumeResize) -> VolumeResizeEvidence:
        """How large is it?"""

        def look() -> VolumeResizeEvidence:
            opened = self._opened(payload)
            return VolumeResizeEvidence(virtual_size_bytes=_size(payload, opened), live=opened is not None)

        return settled(look, lambda seen: seen.virtual_size_bytes >= payload.virtual_size_bytes)

    def _opened(self, payload: VolumeResize) -> tuple[Guest, DiskSpec] | None:
        """The VM that has it open here, with the disk that it is there; None when its file is free."""
        guest = Guest.find(self._hypervisor, payload.vm_id) if payload.vm_id else None
        if guest is None:
            return None
        guest.wait_idle()
        try:
            disk = guest.description().disk_of(payload.volume_id)
        except DomainNotFound:
            return None
        if disk is None:
            raise CommandError(
                "volume_not_in_vm",
                "The VM runs without this volume as a disk.",
                "Its size was not changed.",
                "Stop the VM, and start it: then it has its disks as recorded.",
            )
        return guest, disk


def _size(payload: VolumeResize, opened: tuple[Guest, DiskSpec] | None) -> int:
    if opened is not None:
        guest, disk = opened
        return guest.disk_bytes(disk)
    top = Path(payload.chain[0].path)
    with pool_errors(top.parent):
        return read_qcow2_header(top).virtual_size_bytes


def _grow_live(context: Context, payload: VolumeResize, guest: Guest, disk: DiskSpec) -> None:
    context.commit("volume_resize_live.before_request")
    try:
        guest.resize_disk(disk, payload.virtual_size_bytes)
    except (WrongState, DomainNotFound) as error:
        raise Interrupted("the VM went off meanwhile") from error
    except HypervisorRefused as error:
        raise CommandError(
            "volume_not_resized",
            f"libvirt could not resize the disk {disk.target}: {error}",
            "It has its old size, and the VM runs on.",
            "Look at the pool's room, then try again.",
        ) from error
    crash_point("volume_resize_live.after_request")


def _grow_file(context: Context, payload: VolumeResize) -> None:
    check_chain(payload.chain)

    def check() -> None:
        crash_point("volume_resize.during_resize")
        context.check()

    context.commit("volume_resize.before_resize")
    QemuImg(context.command_id, check).resize(Path(payload.chain[0].path), payload.virtual_size_bytes)
    crash_point("volume_resize.after_resize")


def _would_shrink(size: int, payload: VolumeResize) -> CommandError:
    return CommandError(
        "volume_is_larger",
        f"The volume has {size} bytes, and {payload.virtual_size_bytes} were asked for.",
        "It was left as it is: a volume is never made smaller.",
        "Ask for its size or more; if nobody let it grow by hand, report this.",
    )
