"""volume.create: whole or not at all, also when its agent dies at any point."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agents.common.children import end_orphans
from agents.common.crash_points import CRASH_POINTS
from agents.common.errors import Cancelled, CommandError
from agents.common.image_header import read_qcow2_header
from agents.handlers.volume_create import VolumeCreateHandler
from agents.hypervisor.images import temporary_name
from agents.protocol.kinds import ImageFile, VolumeCreate
from tests.unit.agents.fake_context import FakeContext

MIB = 1 << 20
COMMAND = "5b1c5c5e-0000-4000-8000-000000000001"
NAME = f"{COMMAND}.qcow2"
POINTS = [point for point in CRASH_POINTS if point.startswith("volume_create.")]
AGENT = """
import sys
from agents.handlers.volume_create import VolumeCreateHandler
from agents.protocol.kinds import VolumeCreate
from tests.unit.agents.fake_context import FakeContext
VolumeCreateHandler().run(FakeContext(sys.argv[1]), VolumeCreate.model_validate_json(sys.argv[2]))
"""


@pytest.fixture
def handler() -> VolumeCreateHandler:
    return VolumeCreateHandler()


def ask(pool: Path, **changes: object) -> VolumeCreate:
    fields = {"volume_id": "v1", "pool_path": str(pool), "file_name": NAME, "virtual_size_bytes": 4 * MIB, **changes}
    return VolumeCreate.model_validate(fields)


def make_base(path: Path, size: str = "2M", *options: str) -> ImageFile:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), size], check=True)
    return ImageFile(path=str(path), format="qcow2")


def names(pool: Path) -> list[str]:
    return sorted(path.name for path in pool.iterdir())


def test_an_empty_volume_is_made(handler: VolumeCreateHandler, pool: Path) -> None:
    context = FakeContext(COMMAND)
    answer = handler.run(context, ask(pool))
    assert (answer.path, answer.virtual_size_bytes) == (str(pool / NAME), 4 * MIB)
    assert answer.allocated_bytes == (pool / NAME).stat().st_blocks * 512
    assert names(pool) == [NAME]
    assert context.points == ["volume_create.before_create", "volume_create.before_rename"]
    assert handler.probe(context.notes, ask(pool)).final == answer


def test_a_size_that_is_no_whole_sector_is_rounded_up(handler: VolumeCreateHandler, pool: Path) -> None:
    assert (
        handler.run(FakeContext(COMMAND), ask(pool, virtual_size_bytes=4 * MIB + 1)).virtual_size_bytes == 4 * MIB + 512
    )
    assert handler.probe({}, ask(pool, virtual_size_bytes=4 * MIB + 1)).mismatch == ""


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_an_overlay_names_its_template_and_its_format(
    handler: VolumeCreateHandler, pool: Path, image_format: str
) -> None:
    base = make_base(pool / "template")
    if image_format == "raw":
        (pool / "template").write_bytes(bytes(2 * MIB))
        base = ImageFile(path=base.path, format="raw")
    handler.run(FakeContext(COMMAND), ask(pool, backing=base))
    header = read_qcow2_header(pool / NAME)
    assert (header.backing_file, header.backing_format) == (base.path, image_format)


def test_a_second_run_finds_the_volume_made(handler: VolumeCreateHandler, pool: Path) -> None:
    context = FakeContext(COMMAND)
    answer = handler.run(context, ask(pool))
    made = (pool / NAME).stat()
    again = FakeContext(COMMAND, attempt=2, notes=context.notes)
    assert handler.run(again, ask(pool)) == answer
    assert (pool / NAME).stat().st_ino == made.st_ino
    assert again.points == []


def test_a_volume_made_before_is_kept_though_a_guest_wrote_to_it(handler: VolumeCreateHandler, pool: Path) -> None:
    context = FakeContext(COMMAND)
    handler.run(context, ask(pool))
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", pool / NAME], check=True, capture_output=True)
    handler.run(FakeContext(COMMAND, attempt=2, notes=context.notes), ask(pool))


@pytest.mark.parametrize("content", ["other size", "data", "rubbish", "link"])
def test_a_strange_file_under_the_name_is_left_alone(handler: VolumeCreateHandler, pool: Path, content: str) -> None:
    final = pool / NAME
    make_base(pool / "other" if content == "link" else final, "8M" if content == "other size" else "4M")
    if content == "data":
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write 0 64k", final], check=True, capture_output=True)
    elif content == "rubbish":
        final.write_bytes(b"rubbish")
    elif content == "link":
        final.symlink_to(pool / "other")
    before = final.read_bytes()
    context = FakeContext(COMMAND)
    with pytest.raises(CommandError) as caught:
        handler.run(context, ask(pool))
    assert caught.value.problem.code == "volume_exists"
    handler.cancel(context, ask(pool))
    assert final.read_bytes() == before
    assert bool(handler.probe({}, ask(pool)).mismatch) == (content != "data")


def test_a_file_that_appears_meanwhile_is_not_replaced(handler: VolumeCreateHandler, pool: Path) -> None:
    context = FakeContext(COMMAND)

    def appear(point: str) -> None:
        if point == "volume_create.before_rename":
            (pool / NAME).write_bytes(b"x")

    context.before = appear
    with pytest.raises(CommandError, match="meanwhile"):
        handler.run(context, ask(pool))
    handler.cancel(context, ask(pool))
    assert names(pool) == [NAME]
    assert (pool / NAME).read_bytes() == b"x"


def backings(pool: Path) -> dict[str, ImageFile]:
    base = make_base(pool / "base.qcow2")
    overlay = make_base(pool / "overlay.qcow2", "2M", "-F", "qcow2", "-b", base.path)
    large = make_base(pool / "large.qcow2", "8M")
    (pool / "link.qcow2").symlink_to(pool / "base.qcow2")
    make_base(pool.parent / "outside.qcow2")
    data = make_base(pool / "data.qcow2", "2M", "-o", f"data_file={pool}/external")
    return {
        "outside": ImageFile(path=str(pool.parent / "outside.qcow2"), format="qcow2"),
        "dots": ImageFile(path=str(pool / "../outside.qcow2"), format="qcow2"),
        "missing": ImageFile(path=str(pool / "missing.qcow2"), format="qcow2"),
        "link": ImageFile(path=str(pool / "link.qcow2"), format="qcow2"),
        "has a backing file itself": overlay,
        "larger than the volume": large,
        "external data file": data,
        "not qcow2": ImageFile(path=str(pool / "external"), format="qcow2"),
    }


BAD_BACKINGS = ["outside", "dots", "missing", "link", "has a backing file itself", "larger than the volume"]
BAD_BACKINGS += ["external data file", "not qcow2"]


@pytest.mark.parametrize("which", BAD_BACKINGS)
def test_a_base_that_cannot_be_trusted_is_refused(handler: VolumeCreateHandler, pool: Path, which: str) -> None:
    context = FakeContext(COMMAND)
    payload = ask(pool, backing=backings(pool)[which])
    before = names(pool)
    with pytest.raises(CommandError) as caught:
        handler.run(context, payload)
    assert caught.value.problem.code == "backing_refused"
    assert context.points == []
    assert names(pool) == before


def test_a_cancel_before_the_rename_leaves_nothing(handler: VolumeCreateHandler, pool: Path) -> None:
    for point in ("volume_create.before_create", "volume_create.before_rename"):
        context = FakeContext(COMMAND)

        def before(name: str, point: str = point, context: FakeContext = context) -> None:
            context.cancel_requested = context.cancel_requested or name == point

        context.before = before
        with pytest.raises(Cancelled):
            handler.run(context, ask(pool))
        handler.cancel(context, ask(pool))
        assert names(pool) == []


def test_a_pool_that_is_gone_is_named(handler: VolumeCreateHandler, pool: Path) -> None:
    with pytest.raises(CommandError) as caught:
        handler.run(FakeContext(COMMAND), ask(pool / "gone"))
    assert caught.value.problem.code == "pool_unavailable"
    assert caught.value.problem.elsewhere


def test_other_volumes_temporary_files_stay(handler: VolumeCreateHandler, pool: Path) -> None:
    other = temporary_name("other.qcow2", "c2", 1)
    (pool / other).touch()
    handler.run(FakeContext(COMMAND), ask(pool))
    assert names(pool) == sorted([other, NAME])


@pytest.mark.parametrize("point", POINTS)
def test_an_agent_killed_at_any_point_is_survived(
    handler: VolumeCreateHandler, pool: Path, tmp_path: Path, point: str
) -> None:
    """Evidence is true at once, and a further attempt or a cancel ends in a clean pool."""
    crash = tmp_path / "crash"
    crash.mkdir()
    (crash / point).write_text("kill")
    payload = ask(pool, backing=make_base(pool / "template"))
    agent = subprocess.run(
        [sys.executable, "-c", AGENT, COMMAND, payload.model_dump_json()],
        env={**os.environ, "CLOUDCTL_CRASH_DIR": str(crash)},
        check=False,
    )
    assert agent.returncode == -9
    end_orphans(COMMAND, 10)
    evidence = handler.probe({}, payload)
    assert (evidence.final is not None) == (point == "volume_create.after_rename")
    assert evidence.mismatch == ""
    if evidence.final is None:
        handler.cancel(FakeContext(COMMAND), payload)
        assert names(pool) == ["template"]
    handler.run(FakeContext(COMMAND, attempt=2), payload)
    assert names(pool) == sorted(["template", NAME])
