"""Our own reader of image headers agrees with images that qemu-img made, and survives any bytes."""

import json
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.common.errors import CommandError
from agents.common.image_header import (
    FOREIGN_MAGIC,
    HEAD_BYTES,
    ImageInfo,
    inspect,
    parse_qcow2_header,
    read_qcow2_header,
)
from agents.protocol.kinds import ImageFormat

MIB = 1 << 20
LIMIT = 1 << 50


def accepted(content: bytes, declared: ImageFormat, size_bytes: int | None) -> ImageInfo | None:
    """None when refused; any other exception fails the test."""
    try:
        return inspect(content, declared, LIMIT, size_bytes)
    except CommandError:
        return None


def make_qcow2(path: Path, *options: str, size: str = "64M") -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, size], check=True)
    return path


def refusal(image: Path | bytes, declared: ImageFormat = "qcow2", size_bytes: int | None = None) -> str:
    with pytest.raises(CommandError) as caught:
        inspect(image, declared, LIMIT, size_bytes)
    assert caught.value.problem.code == "image_refused"
    assert not caught.value.problem.elsewhere
    return caught.value.problem.cause


KINDS_OF_QCOW2 = [
    "compat=0.10",
    "compat=1.1",
    "compat=1.1,lazy_refcounts=on",
    "cluster_size=512",
    "cluster_size=2M",
    "extended_l2=on,cluster_size=128k",
    "compression_type=zstd",
    "refcount_bits=1",
    "refcount_bits=64",
]


@pytest.mark.parametrize("options", KINDS_OF_QCOW2)
@pytest.mark.parametrize("size", ["512", "64M", "600M"])
def test_what_qemu_img_makes_is_accepted_with_the_same_size(tmp_path: Path, options: str, size: str) -> None:
    image = make_qcow2(tmp_path / "a.qcow2", "-o", options, size=size)
    shown = json.loads(subprocess.check_output(["qemu-img", "info", "-U", "--output=json", image]))
    whole = inspect(image, "qcow2", LIMIT)
    assert whole.virtual_size_bytes == shown["virtual-size"]
    assert inspect(image.read_bytes()[:HEAD_BYTES], "qcow2", LIMIT, image.stat().st_size) == whole
    assert 1 << read_qcow2_header(image).cluster_bits == shown["cluster-size"]


def test_a_backing_file_is_refused_from_outside_and_shown_in_an_own_chain(tmp_path: Path) -> None:
    base = make_qcow2(tmp_path / "base.qcow2")
    overlay = make_qcow2(tmp_path / "overlay.qcow2", "-b", str(base), "-F", "qcow2")
    assert "backing file" in refusal(overlay)
    header = read_qcow2_header(overlay)
    assert (header.backing_file, header.backing_format) == (str(base), "qcow2")
    assert (read_qcow2_header(base).backing_file, read_qcow2_header(base).backing_format) == (None, None)


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_the_backing_format_is_read_in_both_versions(tmp_path: Path, compat: str) -> None:
    (tmp_path / "base.raw").write_bytes(bytes(MIB))
    overlay = make_qcow2(
        tmp_path / "o.qcow2", "-o", f"compat={compat}", "-b", str(tmp_path / "base.raw"), "-F", "raw", size="1M"
    )
    header = read_qcow2_header(overlay)
    assert (header.version, header.backing_format) == (2 if compat == "0.10" else 3, "raw")


def test_a_data_file_is_refused(tmp_path: Path) -> None:
    image = make_qcow2(tmp_path / "a.qcow2", "-o", f"data_file={tmp_path / 'data.raw'}")
    assert "data file" in refusal(image)
    assert read_qcow2_header(image).data_file


def test_encryption_is_refused(tmp_path: Path) -> None:
    image = make_qcow2(
        tmp_path / "a.qcow2",
        "--object",
        "secret,id=s,data=hush",
        "-o",
        "encrypt.format=aes,encrypt.key-secret=s",
        size="1M",
    )
    assert "encrypted" in refusal(image)


def patched(image: Path, offset: int, layout: str, value: int) -> Path:
    content = bytearray(image.read_bytes())
    struct.pack_into(layout, content, offset, value)
    image.write_bytes(content)
    return image


@pytest.mark.parametrize(
    ("offset", "layout", "value", "said"),
    [
        (4, ">I", 4, "version"),
        (20, ">I", 8, "clusters"),
        (20, ">I", 22, "clusters"),
        (20, ">I", 0xFFFFFFFF, "clusters"),
        (24, ">Q", 0, "0 bytes"),
        (24, ">Q", 1 << 60, "entries"),
        (32, ">I", 1, "encrypted"),
        (36, ">I", 0, "entries"),
        (36, ">I", 0xFFFFFFFF, "entries"),
        (40, ">Q", 0, "table"),
        (40, ">Q", 4095, "table"),
        (40, ">Q", 1 << 40, "cut off"),
        (72, ">Q", 1 << 1, "corrupt"),
        (72, ">Q", 1 << 5, "unknown features"),
        (72, ">Q", 1 << 63, "unknown features"),
        (96, ">I", 7, "width"),
        (100, ">I", 96, "length"),
        (100, ">I", 107, "length"),
        (100, ">I", 1 << 20, "length"),
    ],
)
def test_each_bad_field_has_its_own_words(tmp_path: Path, offset: int, layout: str, value: int, said: str) -> None:
    image = patched(make_qcow2(tmp_path / "a.qcow2"), offset, layout, value)
    assert said in refusal(image)


def test_a_virtual_size_of_an_exbibyte_is_refused_by_the_limit(tmp_path: Path) -> None:
    huge = make_qcow2(tmp_path / "a.qcow2", "-o", "cluster_size=2M", size="2P")
    assert "limit" in refusal(huge)
    assert inspect(huge, "qcow2", 1 << 60).virtual_size_bytes == 1 << 51


def test_a_truncated_image_is_refused(tmp_path: Path) -> None:
    image = make_qcow2(tmp_path / "a.qcow2")
    content = image.read_bytes()
    image.write_bytes(content[: 3 * 65536])
    assert "cut off" in refusal(image)
    assert "cut off" in refusal(content[:50])
    assert "cut off" in refusal(content[:80])


def test_raw_that_is_a_qcow2_is_refused(tmp_path: Path) -> None:
    assert "qcow2" in refusal(make_qcow2(tmp_path / "a.raw"), "raw")


@pytest.mark.parametrize("qemu_format", ["qed", "vmdk", "vhdx", "vpc", "vdi", "parallels"])
def test_raw_that_is_another_format_of_qemu_img_is_refused(tmp_path: Path, qemu_format: str) -> None:
    image = tmp_path / "a.img"
    subprocess.run(["qemu-img", "create", "-q", "-f", qemu_format, image, "8M"], check=True)
    assert "declared as raw" in refusal(image, "raw")
    assert "not a qcow2" in refusal(image, "qcow2")


@pytest.mark.parametrize(("offset", "magic", "what"), FOREIGN_MAGIC)
@pytest.mark.parametrize("declared", ["raw", "iso"])
def test_each_foreign_beginning_is_named(offset: int, magic: bytes, what: str, declared: ImageFormat) -> None:
    body = bytearray(HEAD_BYTES)
    body[offset : offset + len(magic)] = magic
    body[32769:32774] = b"CD001"
    assert what in refusal(bytes(body), declared)


@pytest.mark.parametrize("page", [b"<!DOCTYPE html>", b"\n <HTML>", b'<?xml version="1.0"?>', b"\xef\xbb\xbf<html>"])
@pytest.mark.parametrize("declared", ["raw", "iso", "qcow2"])
def test_a_web_page_is_no_image(page: bytes, declared: ImageFormat) -> None:
    assert "web page" in refusal(page + b" " * 1000, declared)


def test_raw_and_iso_have_the_size_of_their_file(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"\xeb" + bytes(MIB - 1))
    assert inspect(disk, "raw", LIMIT).virtual_size_bytes == MIB
    with pytest.raises(CommandError, match="limit"):
        inspect(disk, "raw", MIB - 1)
    disc = bytearray(MIB)
    disc[32768:32774] = b"\x01CD001"
    assert inspect(bytes(disc), "iso", LIMIT).virtual_size_bytes == MIB
    assert inspect(bytes(disc), "iso", LIMIT, -1).virtual_size_bytes == -1
    assert "ISO 9660" in refusal(disk, "iso")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert "empty" in refusal(tmp_path / "a", "raw")


def _template() -> bytes:
    """A version 3 header as qemu-img writes it: 64 MiB, clusters of 64 KiB."""
    head = struct.pack(
        ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, 64 * MIB, 0, 1, 196608, 65536, 1, 0, 0, 0, 0, 0, 4, 112
    )
    return head + bytes(8) + struct.pack(">II", 0x6803F857, 48) + b"\0" * 48 + bytes(8)


def test_the_header_that_is_mutated_below_is_itself_accepted() -> None:
    found = accepted(_template(), "qcow2", -1)
    assert found is not None
    assert found.virtual_size_bytes == 64 * MIB


@settings(max_examples=500)
@given(
    st.lists(st.tuples(st.integers(0, 170), st.binary(min_size=1, max_size=8)), max_size=4),
    st.integers(0, 300),
    st.sampled_from([-1, 0, 100, 196608, 1 << 40]),
)
def test_mutated_headers_are_refused_or_harmless(
    changes: list[tuple[int, bytes]], length: int, size_bytes: int
) -> None:
    head = bytearray(_template().ljust(300, b"\0"))
    for offset, value in changes:
        head[offset : offset + len(value)] = value
    content = bytes(head[:length])
    found = accepted(content, "qcow2", size_bytes)
    if found is None:
        return
    assert 0 < found.virtual_size_bytes <= LIMIT
    assert content[8:16] == bytes(8), "a backing file got through"
    header = parse_qcow2_header(content)
    assert header.backing_file is None
    assert not header.data_file
    assert not header.encrypted
    assert header.incompatible_features & ~0b11101 == 0


@given(st.binary(max_size=400), st.sampled_from(["raw", "iso", "qcow2"]))
def test_any_bytes_are_an_image_or_a_problem(content: bytes, declared: ImageFormat) -> None:
    found = accepted(content, declared, None)
    assert found is None or found.format == declared
