"""The handlers of template.download, .check and .remove: on a real folder, from a real server."""

import hashlib
import itertools
import os
import random
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agents.common.crash_points import CRASH_POINTS
from agents.common.errors import Cancelled, CommandError, Interrupted
from agents.downloads.http import HttpDownloader
from agents.handlers.template_check import TemplateCheckHandler
from agents.handlers.template_download import TemplateDownloadHandler
from agents.handlers.template_remove import TemplateRemoveHandler
from agents.protocol.kinds import (
    DownloadLimits,
    ImageFormat,
    Source,
    TemplateCheck,
    TemplateDownload,
    TemplateRemove,
)
from tests.unit.agents.fake_context import FakeContext
from tests.unit.agents.http_faults import Exchange, Mirror, serving

MIB = 1 << 20
LIMITS = DownloadLimits(allowed_networks=("127.0.0.0/8",))
QUICK = {"http": HttpDownloader(backoff_seconds=0.01)}
HANDLER = TemplateDownloadHandler(QUICK)
POINTS = [point for point in CRASH_POINTS if point.startswith("template_download.")]


class Died(BaseException):
    """The agent's process ended here."""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A real qcow2 of some mebibytes."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "raw").write_bytes(random.Random(3).randbytes(6 * MIB) + bytes(4 * MIB))
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", folder / "raw", folder / "qcow2"], check=True, timeout=60
    )
    return (folder / "qcow2").read_bytes()


@pytest.fixture
def mirror(image: bytes) -> Iterator[Mirror]:
    with serving(Mirror(image)) as started:
        yield started


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    folder = tmp_path / "pool"
    folder.mkdir()
    return folder


def wanted(mirror: Mirror, pool: Path, **changes: Any) -> TemplateDownload:
    source = {"url": f"{mirror.url}/t.qcow2", "format": "qcow2", **changes.pop("source", {})}
    given = {"template_id": "t", "pool_id": "p", "pool_path": str(pool), "file_name": "t.qcow2", "limits": LIMITS}
    return TemplateDownload.model_validate({**given, **changes, "source": source})


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def names(pool: Path) -> list[str]:
    return sorted(path.name for path in pool.iterdir())


def later(context: FakeContext) -> FakeContext:
    """The same command's next attempt, after its agent died or was stopped."""
    return FakeContext(context.command_id, context.attempt + 1, context.notes)


def refused(context: FakeContext, payload: TemplateDownload) -> CommandError:
    """The problem of a run that fails, after what the executor does then."""
    with pytest.raises(CommandError) as caught:
        HANDLER.run(context, payload)
    HANDLER.cancel(context, payload)
    return caught.value


def test_a_template_arrives_verified_under_its_final_name(mirror: Mirror, pool: Path, image: bytes) -> None:
    context = FakeContext()
    answer = HANDLER.run(context, wanted(mirror, pool, source={"checksum": "{SHA-256}" + sha256(image)}))
    assert (pool / "t.qcow2").read_bytes() == image
    assert names(pool) == ["t.qcow2"]
    assert (answer.path, answer.sha256) == (str(pool / "t.qcow2"), sha256(image))
    assert (answer.size_bytes, answer.virtual_size_bytes, answer.resumed_from_bytes) == (len(image), 10 * MIB, 0)
    assert set(context.points) == set(POINTS)
    assert context.shown[-1].total_bytes == len(image)


def test_it_is_done_again_without_doing_it_twice(mirror: Mirror, pool: Path) -> None:
    context, payload = FakeContext(), wanted(mirror, pool)
    first = HANDLER.run(context, payload)
    inode = (pool / "t.qcow2").stat().st_ino
    assert HANDLER.run(later(context), payload) == first
    assert (pool / "t.qcow2").stat().st_ino == inode
    assert len(mirror.requests) == 1


class DyingContext(FakeContext):
    """Its agent dies at a point: before or after the notes of that point are on disk."""

    def __init__(self, point: str, noted: bool) -> None:
        super().__init__()
        self._point = point
        self._noted = noted

    def step(self, point: str, **notes: Any) -> None:
        if point != self._point:
            super().step(point, **notes)
            return
        if self._noted:
            super().step(point, **notes)
        raise Died


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("noted", [True, False])
def test_a_death_at_any_point_is_gone_on_from(
    mirror: Mirror, pool: Path, image: bytes, point: str, noted: bool
) -> None:
    payload, context = wanted(mirror, pool), DyingContext(point, noted)
    with pytest.raises(Died):
        HANDLER.run(context, payload)
    before = HANDLER.probe(context.notes, payload)
    assert (before.final is not None) == (point == "template_download.after_rename")
    assert not before.unverified_final
    answer = HANDLER.run(later(context), payload)
    assert (pool / "t.qcow2").read_bytes() == image
    assert names(pool) == ["t.qcow2"]
    assert answer.sha256 == sha256(image)
    assert len(mirror.requests) <= 2


def test_a_killed_download_goes_on_from_the_journaled_offset(mirror: Mirror, pool: Path, image: bytes) -> None:
    payload, context = wanted(mirror, pool), FakeContext()
    saves = itertools.count(1)

    def die(passed: str) -> None:
        if passed == "template_download.midway" and next(saves) == 4:
            raise Died

    context.before = die
    with pytest.raises(Died):
        HANDLER.run(context, payload)
    saved = context.notes["offset"]
    assert 2 * MIB < saved < len(image)
    evidence = HANDLER.probe(context.notes, payload)
    assert (evidence.final, evidence.unverified_final, evidence.verified_offset) == (None, False, saved)
    assert evidence.temporary_files == (f".t.qcow2.{context.command_id}.1.part",)
    answer = HANDLER.run(later(context), payload)
    assert answer.resumed_from_bytes == saved
    assert mirror.ranges_asked() == ["", f"bytes={saved}-"]
    assert (pool / "t.qcow2").read_bytes() == image


def test_content_that_changed_while_the_agent_was_dead_begins_anew(mirror: Mirror, pool: Path, image: bytes) -> None:
    payload, context = wanted(mirror, pool), FakeContext()
    mirror.cut_at = [4 * MIB] * 50
    with pytest.raises(CommandError):
        HANDLER.run(context, payload)
    mirror.cut_at, mirror.etag, mirror.body = [], '"two"', image + b"more"
    answer = HANDLER.run(later(context), payload)
    assert answer.resumed_from_bytes == 0
    assert (pool / "t.qcow2").read_bytes() == image + b"more"


def test_an_interruption_keeps_what_resume_needs(mirror: Mirror, pool: Path) -> None:
    context = FakeContext()

    def interrupt(passed: str) -> None:
        if passed == "template_download.before_verify":
            raise Interrupted

    context.before = interrupt
    with pytest.raises(Interrupted):
        HANDLER.run(context, wanted(mirror, pool))
    assert names(pool) == [f".t.qcow2.{context.command_id}.1.part"]


def test_a_cancel_leaves_nothing(mirror: Mirror, pool: Path) -> None:
    context, payload = FakeContext(), wanted(mirror, pool)

    def cancel(passed: str) -> None:
        context.cancel_requested |= passed == "template_download.before_verify"

    context.before = cancel
    with pytest.raises(Cancelled):
        HANDLER.run(context, payload)
    HANDLER.cancel(context, payload)
    assert names(pool) == []


def test_a_cancel_after_the_point_of_no_return_comes_too_late(mirror: Mirror, pool: Path) -> None:
    context = FakeContext()

    def cancel(passed: str) -> None:
        context.cancel_requested |= passed == "template_download.after_rename"

    context.before = cancel
    HANDLER.run(context, wanted(mirror, pool))
    assert names(pool) == ["t.qcow2"]


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-1", "SHA-224", "SHA-256", "SHA-384", "SHA-512"])
def test_each_checksum_right_and_wrong(mirror: Mirror, pool: Path, image: bytes, algorithm: str) -> None:
    digits = hashlib.new(algorithm.replace("-", "").lower(), image).hexdigest()
    wrong = digits[:-1] + ("0" if digits[-1] != "0" else "1")
    error = refused(FakeContext(), wanted(mirror, pool, source={"checksum": f"{{{algorithm}}}{wrong}"}))
    assert (error.problem.code, error.problem.elsewhere) == ("checksum_mismatch", False)
    assert names(pool) == []
    assert len(mirror.requests) == 1
    HANDLER.run(FakeContext(), wanted(mirror, pool, source={"checksum": f"{{{algorithm}}}{digits}"}))
    assert names(pool) == ["t.qcow2"]


def test_other_bytes_than_the_first_copy_s_are_changed_content(mirror: Mirror, pool: Path, image: bytes) -> None:
    error = refused(FakeContext(), wanted(mirror, pool, pinned_sha256="0" * 64))
    assert (error.problem.code, error.problem.elsewhere) == ("content_changed", False)
    assert names(pool) == []
    HANDLER.run(FakeContext(), wanted(mirror, pool, pinned_sha256=sha256(image)))


@pytest.mark.parametrize("declared", ["raw", "iso"])
def test_a_format_other_than_declared_is_refused(mirror: Mirror, pool: Path, declared: ImageFormat) -> None:
    error = refused(FakeContext(), wanted(mirror, pool, source={"format": declared}))
    assert (error.problem.code, error.problem.elsewhere) == ("image_refused", False)
    assert names(pool) == []


def test_a_virtual_size_above_the_limit_is_refused(mirror: Mirror, pool: Path) -> None:
    assert refused(FakeContext(), wanted(mirror, pool, max_virtual_size_bytes=9 * MIB)).problem.code == "image_refused"


def test_a_pool_that_is_away_is_another_host_s_chance(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(CommandError) as caught:
        HANDLER.run(FakeContext(), wanted(mirror, tmp_path / "away"))
    assert (caught.value.problem.code, caught.value.problem.elsewhere) == ("pool_unavailable", True)


@pytest.mark.parametrize("secrets", [{}, {"secret_headers": {"X-Token": "hush"}}])
def test_secret_headers_come_from_the_sealed_part(mirror: Mirror, pool: Path, secrets: Mapping[str, Any]) -> None:
    def require(exchange: Exchange) -> bool:
        if exchange.headers.get("X-Token") == "hush":
            return False
        exchange.start(401, Content_Length=0)
        return True

    mirror.hook = require
    context, payload = FakeContext(), wanted(mirror, pool)
    context.secrets = secrets
    if not secrets:
        assert refused(context, payload).problem.code == "source_status"
        return
    HANDLER.run(context, payload)
    assert "hush" not in str(context.notes)


# --- somebody else's file under the final name ---------------------------------------------------------------------


@pytest.mark.parametrize("known_by", ["pin", "checksum", "nothing"])
def test_an_equal_file_that_was_there_first_is_accepted(
    mirror: Mirror, pool: Path, image: bytes, known_by: str
) -> None:
    (pool / "t.qcow2").write_bytes(image)
    inode = (pool / "t.qcow2").stat().st_ino
    pin = sha256(image) if known_by == "pin" else None
    source = {"checksum": "{SHA-512}" + hashlib.sha512(image).hexdigest()} if known_by == "checksum" else {}
    context, payload = FakeContext(), wanted(mirror, pool, pinned_sha256=pin, source=source)
    answer = HANDLER.run(context, payload)
    assert (answer.sha256, answer.virtual_size_bytes) == (sha256(image), 10 * MIB)
    assert (pool / "t.qcow2").stat().st_ino == inode
    assert names(pool) == ["t.qcow2"]
    assert len(mirror.requests) == (1 if known_by == "nothing" else 0)
    if known_by == "nothing":
        assert HANDLER.probe(context.notes, payload).final == answer


@pytest.mark.parametrize("pinned", [True, False])
def test_another_file_that_was_there_first_is_not_touched(
    mirror: Mirror, pool: Path, image: bytes, pinned: bool
) -> None:
    (pool / "t.qcow2").write_bytes(b"other")
    pin = sha256(image) if pinned else None
    error = refused(FakeContext(), wanted(mirror, pool, pinned_sha256=pin))
    assert (error.problem.code, error.problem.elsewhere) == ("final_name_taken", False)
    assert (pool / "t.qcow2").read_bytes() == b"other"
    assert len(mirror.requests) == (0 if pinned else 1)
    assert names(pool) == ["t.qcow2"]


def test_two_commands_at_once_make_one_file(mirror: Mirror, pool: Path, image: bytes) -> None:
    loser, winner = FakeContext("loser"), FakeContext("winner")

    def let_the_other_win(passed: str) -> None:
        if passed == "template_download.before_rename":
            HANDLER.run(winner, wanted(mirror, pool))

    loser.before = let_the_other_win
    answer = HANDLER.run(loser, wanted(mirror, pool))
    assert answer.sha256 == sha256(image)
    assert names(pool) == ["t.qcow2"]


def test_only_the_own_command_s_parts_are_taken_or_removed(mirror: Mirror, pool: Path) -> None:
    strangers = [".t.qcow2.other.1.part", ".t.qcow2.x.mine.1.part", ".u.qcow2.mine.1.part"]
    for name in strangers:
        (pool / name).write_bytes(b"stranger")
    (pool / ".t.qcow2.mine.1.part").write_bytes(b"older")
    (pool / ".t.qcow2.mine.2.part").write_bytes(b"newer")
    HANDLER.run(FakeContext("mine", 3), wanted(mirror, pool))
    assert names(pool) == sorted([*strangers, "t.qcow2"])


# --- evidence ------------------------------------------------------------------------------------------------------


def test_a_file_that_nothing_vouches_for_is_unverified(mirror: Mirror, pool: Path, image: bytes) -> None:
    (pool / "t.qcow2").write_bytes(image)
    evidence = HANDLER.probe({}, wanted(mirror, pool))
    assert (evidence.final, evidence.unverified_final) == (None, True)
    evidence = HANDLER.probe({}, wanted(mirror, pool, pinned_sha256="0" * 64))
    assert (evidence.final, evidence.unverified_final) == (None, True)


def test_lost_notes_are_made_up_for_by_the_pinned_hash(mirror: Mirror, pool: Path, image: bytes) -> None:
    (pool / "t.qcow2").write_bytes(image)
    evidence = HANDLER.probe({}, wanted(mirror, pool, pinned_sha256=sha256(image)))
    assert evidence.final is not None
    assert evidence.final.sha256 == sha256(image)
    assert not evidence.unverified_final


def test_a_file_changed_after_its_verification_is_not_vouched_for(mirror: Mirror, pool: Path) -> None:
    context, payload = FakeContext(), wanted(mirror, pool)
    HANDLER.run(context, payload)
    os.utime(pool / "t.qcow2", ns=(0, 0))
    assert HANDLER.probe(context.notes, payload).unverified_final


def test_an_empty_pool_says_so(mirror: Mirror, pool: Path) -> None:
    evidence = HANDLER.probe({}, wanted(mirror, pool))
    assert evidence.model_dump() == {
        "final": None,
        "unverified_final": False,
        "verified_offset": 0,
        "temporary_files": (),
    }


# --- check ---------------------------------------------------------------------------------------------------------


def check(mirror: Mirror, declared: ImageFormat = "qcow2", checksum: str | None = None) -> tuple[int, int, bool]:
    source = Source(url=f"{mirror.url}/t", format=declared, checksum=checksum)
    payload = TemplateCheck(template_id="t", source=source, limits=LIMITS)
    answer = TemplateCheckHandler(QUICK).run(FakeContext(), payload)
    return answer.size_bytes, answer.virtual_size_bytes, answer.resumable


def test_a_check_tells_both_sizes(mirror: Mirror, image: bytes) -> None:
    assert check(mirror) == (len(image), 10 * MIB, True)


@pytest.mark.parametrize("body", [b"<html>please log in</html>", b"", b"\0" * 100_000])
def test_a_check_refuses_what_is_not_the_declared_format(mirror: Mirror, body: bytes) -> None:
    mirror.body = body
    with pytest.raises(CommandError) as caught:
        check(mirror)
    assert caught.value.problem.code == "image_refused"


def test_a_check_of_a_raw_disk_and_a_disc(mirror: Mirror) -> None:
    mirror.body = b"\0" * 32769 + b"CD001" + bytes(MIB)
    assert check(mirror, "iso") == (len(mirror.body), len(mirror.body), True)
    assert check(mirror, "raw") == (len(mirror.body), len(mirror.body), True)


def test_a_check_refuses_a_bad_checksum_without_asking(mirror: Mirror) -> None:
    with pytest.raises(CommandError) as caught:
        check(mirror, checksum="{MD5}123")
    assert caught.value.problem.code == "checksum_malformed"
    assert mirror.requests == []


# --- remove --------------------------------------------------------------------------------------------------------


def removal(pool: Path) -> TemplateRemove:
    return TemplateRemove(template_id="t", pool_path=str(pool), file_name="t.qcow2")


def test_a_removal_takes_the_file_and_its_parts_only(pool: Path) -> None:
    for name in ("t.qcow2", ".t.qcow2.one.1.part", ".t.qcow2.two.3.part", ".t.qcow2.x.one.1.part", "u.qcow2"):
        (pool / name).write_bytes(b"x")
    context = FakeContext()
    answer = TemplateRemoveHandler().run(context, removal(pool))
    assert answer.removed == ("t.qcow2", ".t.qcow2.one.1.part", ".t.qcow2.two.3.part")
    assert names(pool) == [".t.qcow2.x.one.1.part", "u.qcow2"]
    assert context.points == ["template_remove.before_removal", "template_remove.after_removal"]
    assert context.committed
    assert TemplateRemoveHandler().run(later(context), removal(pool)).removed == ()
    assert TemplateRemoveHandler().probe(context.notes, removal(pool)).left == ()


def test_where_its_maker_is_not_known_only_the_parts_go(pool: Path) -> None:
    for name in ("t.qcow2", ".t.qcow2.one.1.part"):
        (pool / name).write_bytes(b"x")
    kept = removal(pool).model_copy(update={"keep_final": True})
    assert TemplateRemoveHandler().run(FakeContext(), kept).removed == (".t.qcow2.one.1.part",)
    assert TemplateRemoveHandler().probe({}, kept).left == ()
    assert names(pool) == ["t.qcow2"]


def test_a_removal_from_a_pool_that_is_not_there_names_the_pool(tmp_path: Path) -> None:
    context = FakeContext()
    with pytest.raises(CommandError, match=str(tmp_path / "gone")) as caught:
        TemplateRemoveHandler().run(context, removal(tmp_path / "gone"))
    assert (caught.value.problem.code, context.points) == ("pool_unavailable", [])


def test_a_template_in_use_stays_whole(pool: Path, image: bytes) -> None:
    (pool / "t.qcow2").write_bytes(image)
    (pool / ".t.qcow2.one.1.part").write_bytes(b"x")
    handler = TemplateRemoveHandler()
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", pool / "t.qcow2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as user:
        assert user.stdin is not None
        assert user.stdout is not None
        user.stdin.write(b"read 0 512\n")
        user.stdin.flush()
        assert b"read 512" in user.stdout.readline()
        with pytest.raises(CommandError) as caught:
            handler.run(FakeContext(), removal(pool))
        user.stdin.close()
        user.stdout.read()
    assert caught.value.problem.code == "image_in_use"
    assert handler.probe({}, removal(pool)).left == ("t.qcow2", ".t.qcow2.one.1.part")
