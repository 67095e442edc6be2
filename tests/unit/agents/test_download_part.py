"""The part: holes, hashes, resumption, and a pool that fills up."""

import hashlib
import os
import random
import stat
from pathlib import Path

import pytest

from agents.common.checksums import parse_checksum
from agents.common.errors import CommandError
from agents.common.pools import pool_errors
from agents.downloads import part as part_module
from agents.downloads.part import MIB, Part

LIMIT = 1 << 40


def _never() -> None:
    """Nobody cancels."""


def _body() -> bytes:
    """Data, long zeros, short zeros, data again, zeros at the end; no length is round."""
    seeded = random.Random(7)
    return seeded.randbytes(MIB + 5) + bytes(3 * MIB) + seeded.randbytes(70_001) + bytes(100) + b"x" + bytes(MIB + 17)


@pytest.mark.parametrize("piece", [1000, 65536, 100_003, MIB, 10 * MIB])
def test_whatever_the_pieces_the_file_holds_the_bytes_and_their_hash(tmp_path: Path, piece: int) -> None:
    body = _body()
    with Part(tmp_path / "p", parse_checksum("{MD5}" + hashlib.md5(body).hexdigest()), LIMIT) as part:
        for start in range(0, len(body), piece):
            part.write(body[start : start + piece])
        part.sync()
        verifier = part.finished()
    assert (tmp_path / "p").read_bytes() == body
    assert verifier.sha256 == hashlib.sha256(body).hexdigest()
    assert verifier.matches()


def test_zeros_become_holes(tmp_path: Path) -> None:
    with Part(tmp_path / "p", None, LIMIT) as part:
        part.write(b"begin".ljust(64 * 1024))
        for _ in range(32):
            part.write(bytes(MIB))
        part.sync()
    status = (tmp_path / "p").stat()
    assert status.st_size == 32 * MIB + 64 * 1024
    assert status.st_blocks * 512 < MIB


def test_what_is_durable_is_gone_on_from(tmp_path: Path) -> None:
    body = _body()
    with Part(tmp_path / "p", None, LIMIT) as part:
        part.write(body[:2_000_001])
        part.sync()
        part.write(b"junk of a killed process" * 100_000)
    with Part(tmp_path / "p", None, LIMIT) as part:
        part.resume(2_000_001, _never)
        assert part.offset == 2_000_001
        part.write(body[2_000_001:])
        part.sync()
        sha256 = part.finished().sha256
    assert (tmp_path / "p").read_bytes() == body
    assert sha256 == hashlib.sha256(body).hexdigest()


def test_a_file_shorter_than_its_journal_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"lost")
    with Part(tmp_path / "p", None, LIMIT) as part:
        part.resume(5, _never)
        assert part.offset == 0
        part.sync()
    assert (tmp_path / "p").read_bytes() == b""


def test_a_restart_forgets_bytes_and_hash(tmp_path: Path) -> None:
    with Part(tmp_path / "p", None, LIMIT) as part:
        part.write(b"a" * 3 * MIB)
        part.restart()
        part.write(b"b")
        part.sync()
        sha256 = part.finished().sha256
    assert (tmp_path / "p").read_bytes() == b"b"
    assert sha256 == hashlib.sha256(b"b").hexdigest()


def _code(part: Part, size_bytes: int) -> str:
    with pytest.raises(CommandError) as caught:
        part.expect(size_bytes)
    assert not caught.value.problem.elsewhere
    return caught.value.problem.code


def test_more_than_the_pool_has_room_for_is_refused_at_once(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    with Part(tmp_path / "p", None, LIMIT) as part:
        assert _code(part, status.f_bavail * status.f_frsize + 1) == "pool_full"
        part.expect(MIB)


def test_a_pool_that_fills_up_meanwhile_ends_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Part(tmp_path / "p", None, LIMIT) as part:
        part.write(bytes(MIB))
        monkeypatch.setattr(part_module, "ROOM_MARGIN_BYTES", 1 << 60)
        with pytest.raises(CommandError) as caught:
            part.write(bytes(MIB))
    assert caught.value.problem.code == "pool_full"


def test_more_than_announced_or_allowed_is_refused(tmp_path: Path) -> None:
    with Part(tmp_path / "p", None, 1000) as part:
        assert _code(part, 1001) == "image_too_large"
        part.expect(10)
        with pytest.raises(CommandError) as caught:
            part.write(bytes(11))
    assert caught.value.problem.code == "image_too_large"


def test_an_endless_body_of_zeros_is_bounded_by_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = os.statvfs(tmp_path)
    monkeypatch.setattr(part_module, "ROOM_MARGIN_BYTES", status.f_bavail * status.f_frsize - 3 * MIB)
    with Part(tmp_path / "p", None, LIMIT) as part:
        part.expect(-1)
        with pytest.raises(CommandError) as caught:
            part.write(bytes(64 * MIB))
    assert caught.value.problem.code in {"image_too_large", "pool_full"}


def test_a_full_disk_is_told_from_a_broken_one(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(CommandError) as caught, pool_errors(tmp_path):
            os.write(full, b"x")
    finally:
        os.close(full)
    assert caught.value.problem.code == "pool_full"
    with pytest.raises(CommandError) as caught:
        Part(tmp_path / "no such pool" / "p", None, LIMIT)
    assert caught.value.problem.code == "pool_unavailable"
    assert caught.value.problem.elsewhere


def test_a_symbolic_link_in_the_part_s_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "p").symlink_to(tmp_path / "victim")
    with pytest.raises(CommandError):
        Part(tmp_path / "p", None, LIMIT)
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert stat.S_ISLNK((tmp_path / "p").lstat().st_mode)
