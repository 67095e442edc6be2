"""The state folder: identity, epoch, lock."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agents.state import Epoch, Identity, Lock, StateError, StateFolder, start_ticks
from tests.lab.supervisor import ROOT
from tests.lab.waiting import poll

HOLD = """
import sys, signal, time
from pathlib import Path
from agents.state import Lock, StateFolder
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
Lock(StateFolder(Path(sys.argv[1])), "first").take()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    folder = StateFolder(tmp_path / "state")
    folder.prepare()
    return folder


def identity() -> Identity:
    return Identity(
        agent_id="a1",
        name="host1",
        role="host",
        host_uuid="h1",
        broker_url="redis://broker/0",
        libvirt_uri="qemu:///system",
    )


def hold(folder: StateFolder, how: str = "") -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.path), how], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def test_only_its_user_can_read_it(folder: StateFolder) -> None:
    folder.write_identity(identity())
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert folder.identity.stat().st_mode & 0o777 == 0o600
    assert folder.read_identity() == identity()


def test_a_folder_that_cannot_be_made_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="--state-dir"):
        StateFolder(tmp_path / "file" / "state").prepare()


@pytest.mark.parametrize(("content", "remedy"), [(None, "agents join"), (b"{}", "join again"), (b"\xff", "join again")])
def test_without_an_identity_nothing_starts(folder: StateFolder, content: bytes | None, remedy: str) -> None:
    if content is not None:
        folder.identity.write_bytes(content)
    with pytest.raises(StateError, match=remedy):
        folder.read_identity()


def test_what_a_killed_write_left_is_swept(folder: StateFolder) -> None:
    for leftover in (folder.path / ".epoch.json.1.tmp", folder.journal / ".c1.json.2.tmp"):
        leftover.touch()
    folder.sweep()
    assert [path.name for path in folder.path.rglob("*.tmp")] == []


# --- epoch ---------------------------------------------------------------------------------------------------------


def test_each_start_is_above_its_last_and_above_what_it_was_told(folder: StateFolder) -> None:
    assert [Epoch(folder).raise_own() for _ in range(2)] == [1, 2]
    epoch = Epoch(folder)
    epoch.raise_own()
    epoch.tell(9)
    epoch.tell(4)
    assert json.loads(folder.epoch.read_bytes()) == {"own": 3, "told": 9}
    assert Epoch(folder).raise_own() == 10


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"own": "x"}', b"\xff"])
def test_a_garbage_epoch_starts_low_and_the_server_lifts_it(folder: StateFolder, content: bytes) -> None:
    folder.epoch.write_bytes(content)
    epoch = Epoch(folder)
    assert epoch.raise_own() == 1
    epoch.tell(7)
    assert Epoch(folder).raise_own() == 8


def test_an_epoch_is_mine_until_a_later_start_raises_it(folder: StateFolder) -> None:
    first = Epoch(folder)
    first.raise_own()
    assert first.is_mine()
    Epoch(folder).raise_own()
    assert not first.is_mine()


# --- lock ----------------------------------------------------------------------------------------------------------


def test_a_second_is_refused_and_told_who_holds_it(folder: StateFolder) -> None:
    process = hold(folder)
    try:
        with pytest.raises(StateError) as refusal:
            Lock(folder, "second").take()
        assert f"'first', process {process.pid}, since 20" in str(refusal.value)
        assert "--take-over" in str(refusal.value)
    finally:
        end(process)


def test_a_killed_holder_holds_nothing(folder: StateFolder) -> None:
    end(hold(folder))
    Lock(folder, "second").take()
    assert json.loads(folder.lock.read_bytes())["name"] == "second"


def test_a_take_over_kills_a_holder_that_does_not_hear(folder: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.state.END_SECONDS", 0.5)
    process = hold(folder, "deaf")
    try:
        Lock(folder, "second").take(take_over=True)
        assert process.wait(5) == -9
    finally:
        end(process)


def test_a_take_over_ends_nobody_who_only_has_the_holders_pid(
    folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.state.END_SECONDS", 0.2)
    process = hold(folder)
    try:
        told = json.loads(folder.lock.read_bytes())
        bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        with folder.lock.open("r+") as lock_file:
            lock_file.write(json.dumps({**told, "pid": bystander.pid}))
        try:
            with pytest.raises(StateError):
                Lock(folder, "second").take(take_over=True)
            assert bystander.poll() is None
        finally:
            bystander.kill()
            bystander.wait()
    finally:
        end(process)


def test_a_process_that_ended_has_no_start() -> None:
    process = subprocess.Popen(["true"])
    poll(lambda: start_ticks(process.pid) is None, 5, "it is a zombie")
    process.wait()
    assert start_ticks(process.pid) is None
