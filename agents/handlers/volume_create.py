"""volume.create: an empty qcow2 file, or an overlay on a template, made beside its place and then moved there."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.common.children import end_earlier_attempts
from agents.common.crash import crash_point
from agents.common.errors import CommandError
from agents.common.files import fsync_folder, rename_no_replace
from agents.common.image_header import read_qcow2_header
from agents.common.pools import pool_errors, pool_evidence
from agents.handlers.base import Context
from agents.hypervisor.images import image_path, remove_temporary, temporary_files, temporary_name
from agents.hypervisor.qemu_img import QemuImg
from agents.protocol.kinds import ImageFile, VolumeCreate, VolumeCreateAnswer, VolumeCreateEvidence

SECTOR_BYTES = 512


class VolumeCreateHandler:
    """Before the rename nothing of it is seen under the volume's name; after it the volume is whole."""

    def run(self, context: Context, payload: VolumeCreate) -> VolumeCreateAnswer:
        """Make the volume, or find it made by an earlier attempt."""
        pool, final = Path(payload.pool_path), image_path(payload.pool_path, payload.file_name)
        end_earlier_attempts(context.command_id)
        with pool_errors(pool):
            remove_temporary(pool, payload.file_name)
            if os.path.lexists(final):
                return _made_before(context, payload, final)
            if payload.backing is not None:
                _check_backing(pool, payload.backing, payload.virtual_size_bytes)
        context.step("volume_create.before_create")
        temporary = pool / temporary_name(payload.file_name, context.command_id, context.attempt)
        qemu_img = QemuImg(context.command_id, lambda: _while_created(context))
        qemu_img.create(temporary, payload.virtual_size_bytes, payload.backing)
        with pool_errors(pool):
            _verify(context, payload, temporary)
            _fsync(temporary)
        context.commit("volume_create.before_rename", verified=True)
        try:
            rename_no_replace(temporary, final)
        except FileExistsError:
            raise _exists(final, "a file of that name appeared meanwhile") from None
        fsync_folder(pool)
        crash_point("volume_create.after_rename")
        return _answer(final)

    def cancel(self, context: Context, payload: VolumeCreate) -> None:
        """Remove what attempts left beside the place of the volume."""
        pool = Path(payload.pool_path)
        with pool_errors(pool):
            remove_temporary(pool, payload.file_name)

    def probe(self, notes: Mapping[str, Any], payload: VolumeCreate) -> VolumeCreateEvidence:
        """Is the volume there, exactly as asked?"""
        final = image_path(payload.pool_path, payload.file_name)
        with pool_evidence(final.parent):
            temporary = tuple(path.name for path in temporary_files(final.parent, payload.file_name))
            if not os.path.lexists(final):
                return VolumeCreateEvidence(temporary_files=temporary)
            if mismatch := _mismatch(payload, final):
                return VolumeCreateEvidence(mismatch=mismatch, temporary_files=temporary)
            return VolumeCreateEvidence(final=_answer(final), temporary_files=temporary)


def _while_created(context: Context) -> None:
    crash_point("volume_create.during_create")
    context.check()


def _made_before(context: Context, payload: VolumeCreate, final: Path) -> VolumeCreateAnswer:
    """What is under the final name already: ours, as good as ours, or a reason to stop."""
    if mismatch := _mismatch(payload, final):
        raise _exists(final, mismatch)
    if not context.notes.get("verified") and QemuImg(context.command_id, context.check).holds_data(final):
        raise _exists(final, "somebody has written to it, and this command did not make it")
    fsync_folder(final.parent)
    return _answer(final)


def _check_backing(pool: Path, backing: ImageFile, virtual_size_bytes: int) -> None:
    path = Path(backing.path)
    if path.parent != pool:
        raise _bad_backing(path, f"it is not directly in the pool {pool}")
    if path.is_symlink() or not path.is_file():
        raise _bad_backing(path, "there is no such file")
    size = path.stat().st_size if backing.format == "raw" else _size_of_single(path)
    if size > virtual_size_bytes:
        raise _bad_backing(path, f"its guest would see {size} bytes, the volume has {virtual_size_bytes}")


def _size_of_single(path: Path) -> int:
    """What a guest sees of a qcow2 file that needs no other one."""
    try:
        header = read_qcow2_header(path)
    except CommandError as error:
        raise _bad_backing(path, error.problem.cause) from error
    if header.backing_file is not None or header.data_file:
        raise _bad_backing(path, "it depends on another file itself")
    return header.virtual_size_bytes


def _verify(context: Context, payload: VolumeCreate, made: Path) -> None:
    """Our own reader and QEMU both see what was asked for."""
    mismatch = _mismatch(payload, made)
    seen = QemuImg(context.command_id, context.check).info(made)
    if not mismatch and seen.virtual_size_bytes != _rounded(payload.virtual_size_bytes):
        mismatch = f"QEMU sees {seen.virtual_size_bytes} bytes"
    if mismatch:
        raise CommandError(
            "volume_not_as_asked",
            f"The volume that was made is not the one that was asked for: {mismatch}.",
            "It was removed.",
            "Check the storage of the pool, then try again.",
            elsewhere=True,
        )


def _mismatch(payload: VolumeCreate, path: Path) -> str:
    """Why this file is not the volume that was asked for; empty when it is."""
    if path.is_symlink() or not path.is_file():
        return "it is not a regular file"
    try:
        header = read_qcow2_header(path)
    except CommandError as error:
        return error.problem.cause
    backing = payload.backing
    asked = (_rounded(payload.virtual_size_bytes), backing and backing.path, backing and backing.format, False)
    found = (header.virtual_size_bytes, header.backing_file, header.backing_format, header.data_file)
    names = ("virtual size", "backing file", "backing format", "external data file")
    return "; ".join(
        f"its {name} is {is_!r} instead of {should!r}"
        for name, is_, should in zip(names, found, asked, strict=True)
        if is_ != should
    )


def _rounded(size_bytes: int) -> int:
    """qemu-img rounds up to whole sectors."""
    return -(-size_bytes // SECTOR_BYTES) * SECTOR_BYTES


def _answer(final: Path) -> VolumeCreateAnswer:
    return VolumeCreateAnswer(
        path=str(final),
        virtual_size_bytes=read_qcow2_header(final).virtual_size_bytes,
        allocated_bytes=final.stat().st_blocks * SECTOR_BYTES,
    )


def _fsync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _exists(final: Path, why: str) -> CommandError:
    return CommandError(
        "volume_exists",
        f"There is already a file {final}: {why}.",
        "It was left as it is, and no volume was made.",
        "Look at the file on the host; move it away if nothing needs it.",
    )


def _bad_backing(path: Path, why: str) -> CommandError:
    return CommandError(
        "backing_refused",
        f"{path} cannot be the base of a volume: {why}.",
        "No volume was made.",
        "Check the template on this pool; download it again if it is damaged.",
    )
