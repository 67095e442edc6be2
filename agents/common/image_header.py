"""What an image is, read from its first bytes by code of our own, before QEMU opens it.

Sources: QEMU's ``docs/interop/qcow2.txt`` (qcow2 versions 2 and 3); ECMA-119 8.1 (ISO 9660 volume descriptors).
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from agents.common.errors import CommandError
from agents.protocol.kinds import ImageFormat

HEAD_BYTES = 64 * 1024
"""As many first bytes as :func:`inspect` needs of any format."""

QCOW2_MAGIC = b"QFI\xfb"

FOREIGN_MAGIC = (
    (0, QCOW2_MAGIC, "a qcow2 image"),
    (0, b"QED\0", "a QED image"),
    (0, b"KDMV", "a VMDK image"),
    (0, b"COWD", "a VMDK image"),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"conectix", "a VHD image"),
    (0x40, b"\x7f\x10\xda\xbe", "a VDI image"),
    (0, b"WithoutFreeSpace", "a Parallels image"),
    (0, b"WithouFreSpacExt", "a Parallels image"),
    (0, b"Bochs Virtual HD Image", "a Bochs image"),
    (0, b"LUKS\xba\xbe", "an encrypted LUKS volume"),
    (0, b"\x1f\x8b", "compressed with gzip"),
    (0, b"BZh", "compressed with bzip2"),
    (0, b"\xfd7zXZ\0", "compressed with xz"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (0, b"PK\x03\x04", "a zip archive"),
)
"""(offset, bytes, what it is): none of them can be the beginning of a raw disk or an ISO."""

_TEXT_BEGINNINGS = (b"<!doctype", b"<html", b"<?xml", b"<metalink")

_V2_LENGTH = 72
_V3_LENGTH = 104
_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_V3_PART = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_END_OF_EXTENSIONS = 0
_BACKING_FORMAT = 0xE2792ACA

_CORRUPT = 1 << 1
_DATA_FILE = 1 << 2
_KNOWN_INCOMPATIBLE = 0b11111
"""Dirty, corrupt, external data file, compression type, extended L2 entries."""

_MAX_L1_BYTES = 32 * 1024 * 1024
_MAX_BACKING_NAME = 1023
_ISO_DESCRIPTOR = 16 * 2048


@dataclass(frozen=True, slots=True)
class Qcow2Header:
    """The fields of a qcow2 header that decide what QEMU would do with the image."""

    version: int
    virtual_size_bytes: int
    cluster_bits: int
    backing_file: str | None
    backing_format: str | None
    data_file: bool
    """The guest's data lies in another file, named in this one."""
    encrypted: bool
    incompatible_features: int
    l1_end: int
    """Offset behind the table without which nothing of the image can be read."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image that may be used as a template."""

    format: ImageFormat
    virtual_size_bytes: int
    """What a guest sees; -1 when only first bytes were given and the size is unknown."""


def inspect(
    image: Path | bytes, declared: ImageFormat, max_virtual_size_bytes: int, size_bytes: int | None = None
) -> ImageInfo:
    """Accept an image from outside as what it was declared to be, or raise CommandError ``image_refused``.

    ``image``: a whole file, or its first :data:`HEAD_BYTES` with ``size_bytes`` (-1: unknown) as the size of the whole.
    """
    if isinstance(image, Path):
        with image.open("rb") as file:
            head, size = file.read(HEAD_BYTES), os.fstat(file.fileno()).st_size
    else:
        head, size = image, len(image) if size_bytes is None else size_bytes
    if not head:
        raise _refused("The file is empty.")
    if declared == "qcow2":
        virtual_size = _inspect_qcow2(head, size)
    else:
        _refuse_foreign(head, declared)
        if declared == "iso":
            _require_iso(head)
        virtual_size = size
    if virtual_size > max_virtual_size_bytes:
        raise _refused(f"A guest would see {virtual_size} bytes, the limit is {max_virtual_size_bytes}.")
    return ImageInfo(declared, virtual_size)


def read_qcow2_header(path: str | Path) -> Qcow2Header:
    """Read the header of a qcow2 image, also one of our own chains: nothing is judged that QEMU would open.

    Raises CommandError ``image_refused`` when it is no readable qcow2 header.
    """
    with Path(path).open("rb") as file:
        head = file.read(_V3_LENGTH)
        if len(head) >= _V2_LENGTH and head.startswith(QCOW2_MAGIC):
            head += file.read(_cluster_bytes(head) - len(head))
    return parse_qcow2_header(head)


def parse_qcow2_header(head: bytes) -> Qcow2Header:
    """Parse the first cluster, or as much of it as there is. Raises CommandError ``image_refused``."""
    if not head.startswith(QCOW2_MAGIC):
        raise _refused(f"It is not a qcow2 image but {_describe(head)}.")
    if len(head) < _V2_LENGTH:
        raise _refused("Its qcow2 header is cut off.")
    fields = _HEADER.unpack_from(head)
    version, backing_offset, backing_length = fields[1:4]
    size, encryption, l1_entries, l1_offset = fields[5:9]
    if version not in (2, 3):
        raise _refused(f"Its qcow2 version is {version}, known are 2 and 3.")
    cluster_bytes = _cluster_bytes(head)
    incompatible, length = _v3_fields(head, version, cluster_bytes)
    if size == 0:
        raise _refused("Its qcow2 header says that a guest sees 0 bytes.")
    _check_l1(size, l1_entries, l1_offset, cluster_bytes, extended=bool(incompatible & 1 << 4))
    extensions_end = min(backing_offset, cluster_bytes) if backing_offset else cluster_bytes
    return Qcow2Header(
        version=version,
        virtual_size_bytes=size,
        cluster_bits=cluster_bytes.bit_length() - 1,
        backing_file=_backing_file(head, backing_offset, backing_length, cluster_bytes),
        backing_format=_backing_format(head, length, extensions_end),
        data_file=bool(incompatible & _DATA_FILE),
        encrypted=encryption != 0,
        incompatible_features=incompatible,
        l1_end=l1_offset + 8 * l1_entries,
    )


def _inspect_qcow2(head: bytes, size: int) -> int:
    """The virtual size of an image that depends on no other file and on nothing unknown."""
    backing_offset = int.from_bytes(head[8:16], "big") if head.startswith(QCOW2_MAGIC) else 0
    if backing_offset:
        raise _refused("It has a backing file: it would show a guest the content of another file of the host.")
    header = parse_qcow2_header(head)
    if header.data_file:
        raise _refused("It has an external data file: it would show a guest the content of another file of the host.")
    if header.encrypted:
        raise _refused("It is encrypted.")
    if unknown := header.incompatible_features & ~_KNOWN_INCOMPATIBLE:
        raise _refused(f"It needs unknown features (bits {unknown:#x}).")
    if header.incompatible_features & _CORRUPT:
        raise _refused("It is marked as corrupt.")
    if -1 < size < header.l1_end:
        raise _refused(f"It is cut off: it has {size} bytes, its tables alone reach to {header.l1_end}.")
    return header.virtual_size_bytes


def _v3_fields(head: bytes, version: int, cluster_bytes: int) -> tuple[int, int]:
    """(incompatible features, length of the header)"""
    if version == 2:
        return 0, _V2_LENGTH
    if len(head) < _V3_LENGTH:
        raise _refused("Its qcow2 header is cut off.")
    incompatible, _compatible, _autoclear, refcount_order, length = _V3_PART.unpack_from(head, _V2_LENGTH)
    if length < _V3_LENGTH or length % 8 or length > cluster_bytes:
        raise _refused(f"Its qcow2 header gives its own length as {length}.")
    if refcount_order > 6:
        raise _refused(f"Its qcow2 header has the reference count width 2^{refcount_order} bits.")
    return incompatible, length


def _cluster_bytes(head: bytes) -> int:
    cluster_bits = int.from_bytes(head[20:24], "big")
    if not 9 <= cluster_bits <= 21:
        raise _refused(f"Its qcow2 header has clusters of 2^{cluster_bits} bytes.")
    return 1 << cluster_bits


def _check_l1(size: int, entries: int, offset: int, cluster_bytes: int, *, extended: bool) -> None:
    """The first-level table must cover the virtual size and lie where a table may lie, as QEMU demands."""
    entries_of_l2 = cluster_bytes // (16 if extended else 8)
    needed = -(-size // (cluster_bytes * entries_of_l2))
    if entries < needed or entries * 8 > _MAX_L1_BYTES:
        raise _refused(f"Its qcow2 table has {entries} entries where {needed} are needed.")
    if offset == 0 or offset % cluster_bytes or offset >= 1 << 56:
        raise _refused(f"Its qcow2 table is said to lie at {offset}.")


def _backing_file(head: bytes, offset: int, length: int, cluster_bytes: int) -> str | None:
    if offset == 0:
        return None
    if length > _MAX_BACKING_NAME or offset + length > min(cluster_bytes, len(head)):
        raise _refused("The name of its backing file lies outside its first cluster.")
    return os.fsdecode(head[offset : offset + length]) or None


def _backing_format(head: bytes, start: int, end: int) -> str | None:
    """Walk the header extensions; each is type, length, data padded to 8 bytes."""
    position, end = start, min(end, len(head))
    while position + _EXTENSION.size <= end:
        kind, length = _EXTENSION.unpack_from(head, position)
        position += _EXTENSION.size
        if kind == _END_OF_EXTENSIONS:
            return None
        if position + length > end:
            raise _refused("A qcow2 header extension reaches beyond its place.")
        if kind == _BACKING_FORMAT:
            return os.fsdecode(head[position : position + length])
        position += -(-length // 8) * 8
    return None


def _refuse_foreign(head: bytes, declared: ImageFormat) -> None:
    if (found := _foreign(head)) is not None:
        raise _refused(f"It was declared as {declared} and is {found}.")


def _require_iso(head: bytes) -> None:
    descriptor = head[_ISO_DESCRIPTOR : _ISO_DESCRIPTOR + 7]
    if descriptor[1:6] != b"CD001":
        raise _refused("It was declared as iso and has no ISO 9660 volume descriptor.")


def _foreign(head: bytes) -> str | None:
    for offset, magic, what in FOREIGN_MAGIC:
        if head.startswith(magic, offset):
            return what
    if head[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_TEXT_BEGINNINGS):
        return "a web page or an XML document"
    return None


def _describe(head: bytes) -> str:
    return _foreign(head) or "something else"


def _refused(cause: str) -> CommandError:
    return CommandError(
        "image_refused",
        f"The image is refused. {cause}",
        "It was not kept, and it is not tried again from the same source.",
        "Register an image of the declared format that stands alone (qemu-img convert makes one).",
    )
