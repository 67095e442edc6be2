"""seed.create: what the user gave, byte for byte, in a file that only the host may read."""

import io
import json
from pathlib import Path

import pycdlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.common.errors import CannotTell, CommandError
from agents.handlers.seed_create import SeedCreateHandler
from agents.hypervisor.seed import iso, meta_data
from agents.protocol.kinds import SeedCreate, SeedCreateEvidence
from tests.unit.agents.fake_context import FakeContext

KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== o\'brien "the <b>"'
USER_DATA = "#!/bin/sh\necho \"$(id)\" '<b>' \u202eright\u200fto left\r\n\ttab"


@pytest.fixture
def handler() -> SeedCreateHandler:
    return SeedCreateHandler()


def ask(pool: Path) -> SeedCreate:
    return SeedCreate(vm_id="vm-1", pool_path=str(pool), file_name="seed-1.iso", local_hostname="web")


def context(**changes: object) -> FakeContext:
    made = FakeContext(**changes)  # type: ignore[arg-type]
    made.secrets = {"user_data": USER_DATA, "ssh_keys": [KEY]}
    return made


def content(image: bytes, name: str) -> bytes:
    """By Rock Ridge and by Joliet alike, as different systems read it."""
    reader = pycdlib.PyCdlib()
    reader.open_fp(io.BytesIO(image))
    found = []
    for way in ("rr_path", "joliet_path"):
        file = io.BytesIO()
        reader.get_file_from_iso_fp(file, **{way: f"/{name}"})
        found.append(file.getvalue())
    reader.close()
    assert found[0] == found[1]
    return found[0]


def test_the_guest_finds_what_the_user_gave(handler: SeedCreateHandler, pool: Path) -> None:
    during = context()
    final = pool / "seed-1.iso"
    assert handler.run(during, ask(pool)).path == str(final)
    assert during.points == ["seed_create.before_create", "seed_create.before_rename"]
    image = final.read_bytes()
    assert image[0x8028:0x8048].decode().strip() == "cidata"
    assert len(image) > 300 << 10
    assert content(image, "user-data") == USER_DATA.encode()
    assert json.loads(content(image, "meta-data")) == {
        "instance-id": "vm-1",
        "local-hostname": "web",
        "public-keys": [KEY],
    }
    assert final.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in pool.iterdir()] == ["seed-1.iso"]
    assert during.notes == {}


def test_one_that_is_there_stays(handler: SeedCreateHandler, pool: Path) -> None:
    handler.run(context(), ask(pool))
    before = (pool / "seed-1.iso").stat()
    again = context(attempt=2)
    handler.run(again, ask(pool))
    assert again.points == []
    assert (pool / "seed-1.iso").stat().st_ino == before.st_ino
    assert handler.probe({}, ask(pool)) == SeedCreateEvidence(path=str(pool / "seed-1.iso"))


def test_what_a_dead_attempt_left_is_removed(handler: SeedCreateHandler, pool: Path) -> None:
    def die(point: str) -> None:
        if point == "seed_create.before_rename":
            raise KeyboardInterrupt

    first = context()
    first.before = die
    with pytest.raises(KeyboardInterrupt):
        handler.run(first, ask(pool))
    assert len(list(pool.iterdir())) == 1
    assert handler.probe({}, ask(pool)) == SeedCreateEvidence()
    handler.cancel(context(), ask(pool))
    assert list(pool.iterdir()) == []


def test_what_is_no_seed_is_left_alone(handler: SeedCreateHandler, pool: Path) -> None:
    (pool / "seed-1.iso").symlink_to("/etc/passwd")
    with pytest.raises(CommandError) as caught:
        handler.run(context(), ask(pool))
    assert caught.value.problem.code == "seed_refused"
    assert "not a regular file" in handler.probe({}, ask(pool)).refused


def test_a_pool_that_cannot_be_read_tells_nothing(handler: SeedCreateHandler, pool: Path) -> None:
    pool.rmdir()
    with pytest.raises(CannotTell):
        handler.probe({}, ask(pool))


@given(st.binary(max_size=5000))
def test_any_bytes_come_out_as_they_went_in(text: bytes) -> None:
    assert content(iso({"meta-data": b"{}", "user-data": text}), "user-data") == text


@given(st.text(), st.lists(st.text(), max_size=3))
def test_a_key_or_name_is_never_anything_but_text(name: str, keys: list[str]) -> None:
    try:
        written = meta_data("vm-1", name, keys)
    except UnicodeEncodeError:  # a half of a surrogate pair: no JSON body can bring one here
        return
    assert json.loads(written) == {"instance-id": "vm-1", "local-hostname": name, "public-keys": keys}
