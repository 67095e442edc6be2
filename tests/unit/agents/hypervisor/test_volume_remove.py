"""volume.remove: all files of a volume, none of them while it is used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agents.common.errors import CannotTell, CommandError
from agents.handlers.volume_remove import VolumeRemoveHandler
from agents.hypervisor.images import temporary_name
from agents.protocol.kinds import VolumeRemove
from tests.lab.waiting import poll
from tests.unit.agents.fake_context import FakeContext


@pytest.fixture
def handler() -> VolumeRemoveHandler:
    return VolumeRemoveHandler()


def ask(pool: Path, *names: str) -> VolumeRemove:
    return VolumeRemove(volume_id="v1", pool_path=str(pool), file_names=names)


def test_it_removes_the_volume_and_its_unfinished_creation(handler: VolumeRemoveHandler, pool: Path) -> None:
    part = temporary_name("a.qcow2", "c1", 1)
    for name in ("a.qcow2", "a-top.qcow2", "b.qcow2", part):
        (pool / name).touch()
    payload = ask(pool, "a-top.qcow2", "a.qcow2", "never-made.qcow2")
    assert handler.probe({}, payload).left == ("a-top.qcow2", "a.qcow2", part)
    context = FakeContext()
    assert handler.run(context, payload).removed == ("a-top.qcow2", "a.qcow2", part)
    assert context.committed
    assert [path.name for path in pool.iterdir()] == ["b.qcow2"]
    assert handler.probe({}, payload).left == ()


def test_where_its_maker_is_not_known_only_what_is_unfinished_goes(handler: VolumeRemoveHandler, pool: Path) -> None:
    part = temporary_name("a.qcow2", "c1", 1)
    for name in ("a.qcow2", part):
        (pool / name).touch()
    payload = ask(pool, "a.qcow2").model_copy(update={"keep_final": True})
    assert handler.probe({}, payload).left == (part,)
    assert handler.run(FakeContext(), payload).removed == (part,)
    assert [path.name for path in pool.iterdir()] == ["a.qcow2"]


def test_a_second_run_finds_nothing_to_do(handler: VolumeRemoveHandler, pool: Path) -> None:
    assert handler.run(FakeContext(), ask(pool, "a.qcow2")).removed == ()


def test_nothing_is_removed_while_one_file_is_used(handler: VolumeRemoveHandler, pool: Path) -> None:
    for name in ("a.qcow2", "b.qcow2"):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", pool / name, "1M"], check=True)
    context, payload = FakeContext(), ask(pool, "a.qcow2", "b.qcow2")
    with subprocess.Popen(["qemu-io", "-f", "qcow2", pool / "b.qcow2"], stdin=-1, stdout=-1) as user:
        try:
            inode = (pool / "b.qcow2").stat().st_ino
            poll(lambda: f":{inode} " in Path("/proc/locks").read_text(), 10, "the image is in use")
            with pytest.raises(CommandError) as caught:
                handler.run(context, payload)
        finally:
            user.kill()
    assert caught.value.problem.code == "image_in_use"
    assert not context.committed
    assert handler.probe({}, payload).left == ("a.qcow2", "b.qcow2")


AGENT = """
import sys
from agents.handlers.volume_remove import VolumeRemoveHandler
from agents.protocol.kinds import VolumeRemove
from tests.unit.agents.fake_context import FakeContext
VolumeRemoveHandler().run(FakeContext(), VolumeRemove.model_validate_json(sys.argv[1]))
"""


@pytest.mark.parametrize("point", ["volume_remove.before_removal", "volume_remove.after_removal"])
def test_an_agent_killed_at_any_point_is_survived(
    handler: VolumeRemoveHandler, pool: Path, tmp_path: Path, point: str
) -> None:
    for name in ("a.qcow2", "b.qcow2"):
        (pool / name).touch()
    payload = ask(pool, "a.qcow2", "b.qcow2")
    (tmp_path / point).write_text("kill")
    agent = subprocess.run(
        [sys.executable, "-c", AGENT, payload.model_dump_json()],
        env={**os.environ, "CLOUDCTL_CRASH_DIR": str(tmp_path)},
        check=False,
    )
    assert agent.returncode == -9
    left = ("a.qcow2", "b.qcow2") if point == "volume_remove.before_removal" else ("b.qcow2",)
    assert handler.probe({}, payload).left == left
    assert handler.run(FakeContext(attempt=2), payload).removed == left
    assert handler.probe({}, payload).left == ()


def test_a_name_that_leads_out_of_the_pool_is_refused(handler: VolumeRemoveHandler, pool: Path) -> None:
    (pool.parent / "outside").touch()
    with pytest.raises(CommandError) as caught:
        handler.run(FakeContext(), ask(pool, "../outside"))
    assert caught.value.problem.code == "image_refused"
    assert (pool.parent / "outside").exists()


def test_a_pool_that_lets_nothing_be_removed_is_named(handler: VolumeRemoveHandler, pool: Path) -> None:
    (pool / "a.qcow2").touch()
    subprocess.run(["chattr", "+i", pool], check=True)
    try:
        with pytest.raises(CommandError) as caught:
            handler.run(FakeContext(), ask(pool, "a.qcow2"))
    finally:
        subprocess.run(["chattr", "-i", pool], check=True)
    assert caught.value.problem.code == "pool_unavailable"
    assert "Operation not permitted" in caught.value.problem.cause


def test_a_pool_that_is_gone_means_cannot_tell(handler: VolumeRemoveHandler, pool: Path) -> None:
    with pytest.raises(CannotTell):
        handler.probe({}, ask(pool / "gone", "a.qcow2"))
    with pytest.raises(CommandError) as caught:
        handler.run(FakeContext(), ask(pool / "gone", "a.qcow2"))
    assert caught.value.problem.code == "pool_unavailable"
