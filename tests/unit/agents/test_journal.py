"""The journal, on real files: each test reads back what another start would find."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from agents.common.errors import Interrupted
from agents.journal import Journal, Record, is_command_id
from agents.protocol.messages import Envelope, Problem, Progress
from agents.protocol.states import AgentState

SECONDS = 10.0
NEVER = {"busy": lambda _: False}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "journal").mkdir()
    return tmp_path


def start(folder: Path) -> Journal:
    """A journal as the next start of the agent finds it."""
    journal = Journal(folder / "journal", folder / "ledger.json")
    journal.load()
    return journal


def record(command_id: str = "c1", seq: int = 1, state: AgentState = AgentState.QUEUED, **changes: Any) -> Record:
    envelope = Envelope(
        command_id=command_id,
        attempt=changes.pop("attempt", 1),
        kind="volume.create",
        epoch=1,
        seq=seq,
        floor=0,
        lane="volume:1",
        payload={"volume_id": "v1"},
        sealed="c2VhbGVk",
    )
    return Record(envelope=envelope, state=state, epoch=1, **changes)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "journal").iterdir())


def test_what_was_put_is_there_after_a_restart_word_for_word(folder: Path) -> None:
    put = record(notes={"temporary": "x.part", "offsets": [1, 2]}, step="template_download.midway")
    start(folder).put(put)
    assert start(folder).record("c1") == put


def test_what_ran_is_interrupted_and_what_waited_waits_after_a_restart(folder: Path) -> None:
    journal = start(folder)
    states = [AgentState.STARTED, *(state for state in AgentState if state != AgentState.STARTED)]
    for number, state in enumerate(states):
        journal.put(record(f"c{number}", number + 1, state))
    again = start(folder)
    changed = {AgentState.STARTED: AgentState.INTERRUPTED, AgentState.PROCESSING: AgentState.INTERRUPTED}
    assert [one.state for one in again.records()] == [changed.get(state, state) for state in states]
    assert [one.state for one in start(folder).records()] == [one.state for one in again.records()]


@pytest.mark.parametrize(
    "content",
    [b"", b'{"version": 1, "envelope": {"command_id"', b"\x00\xff", b"[]", b"null"],
    ids=["empty", "half-written", "binary", "list", "null"],
)
def test_a_corrupt_file_is_set_aside_and_named(folder: Path, content: bytes) -> None:
    (folder / "journal" / "c1.json").write_bytes(content)
    journal = start(folder)
    assert (journal.corrupt, journal.records()) == (("c1.json.corrupt",), [])
    assert journal.lost("c1")
    assert (folder / "journal" / "c1.json.corrupt").read_bytes() == content
    assert start(folder).corrupt == ("c1.json.corrupt",)


def test_a_file_whose_name_is_no_text_is_named_printably(folder: Path) -> None:
    Path(os.fsdecode(bytes(folder / "journal") + b"/\xff\xfe.json")).touch()
    for _ in range(2):
        assert start(folder).corrupt == (r"\xff\xfe.json.corrupt",)


def test_a_file_of_another_version_or_under_another_name_is_set_aside(folder: Path) -> None:
    journal = start(folder)
    journal.put(record("c1"))
    (folder / "journal" / "c2.json").write_bytes((folder / "journal" / "c1.json").read_bytes())
    newer = json.loads((folder / "journal" / "c1.json").read_bytes()) | {"version": 2}
    (folder / "journal" / "c1.json").write_text(json.dumps(newer))
    assert start(folder).corrupt == ("c1.json.corrupt", "c2.json.corrupt")


def test_a_corrupt_ledger_is_set_aside_and_the_agent_starts(folder: Path) -> None:
    (folder / "ledger.json").write_bytes(b"{")
    journal = start(folder)
    assert (journal.corrupt, journal.floor) == (("ledger.json.corrupt",), 0)


def test_progress_is_shown_and_never_on_disk(folder: Path) -> None:
    journal = start(folder)
    journal.put(record(state=AgentState.STARTED))
    before = (folder / "journal" / "c1.json").read_bytes()
    journal.progress("c1", Progress(done_bytes=5, total_bytes=10))
    entry = journal.entry("c1")
    assert entry is not None
    assert (entry.state, entry.progress) == (AgentState.PROCESSING, Progress(done_bytes=5, total_bytes=10))
    assert (folder / "journal" / "c1.json").read_bytes() == before


def test_an_entry_tells_neither_payload_nor_secrets(folder: Path) -> None:
    journal = start(folder)
    journal.put(record())
    entry = journal.entry("c1")
    assert entry is not None
    assert not {"payload", "sealed", "notes"} & set(entry.model_dump())


# --- letting go ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", AgentState)
def test_only_what_is_settled_is_let_go(folder: Path, state: AgentState) -> None:
    journal = start(folder)
    journal.put(record(state=state))
    settled = state in {AgentState.COMPLETED, AgentState.FAILED, AgentState.CANCELLED, AgentState.INTERRUPTED}
    assert journal.acknowledge(["c1", "unknown"], 0, **NEVER) == (["c1"] if settled else [])
    assert files(folder) == ([] if settled else ["c1.json"])
    assert (start(folder).record("c1") is None) == settled


def test_an_interrupted_one_that_is_being_put_back_is_kept(folder: Path) -> None:
    journal = start(folder)
    journal.put(record(state=AgentState.INTERRUPTED))
    assert journal.acknowledge(["c1"], 0, busy=lambda _: True) == []
    assert files(folder) == ["c1.json"]


def test_above_the_floor_a_tombstone_stays_until_the_floor_passes(folder: Path) -> None:
    journal = start(folder)
    for number in (1, 2, 3):
        journal.put(record(f"c{number}", number, AgentState.COMPLETED))
    journal.acknowledge(["c1", "c3"], 1, **NEVER)
    again = start(folder)
    assert again.tombstone("c1") is None
    tombstone = again.tombstone("c3")
    assert tombstone is not None
    assert (tombstone.attempt, tombstone.seq, tombstone.state) == (1, 3, AgentState.COMPLETED)
    again.acknowledge(["c2"], 3, **NEVER)
    assert (start(folder).tombstone("c3"), start(folder).floor) == (None, 3)


def test_a_death_between_ledger_and_removal_removes_at_the_next_start(folder: Path) -> None:
    journal = start(folder)
    journal.put(record("c1", 5, AgentState.COMPLETED))
    content = (folder / "journal" / "c1.json").read_bytes()
    journal.acknowledge(["c1"], 0, **NEVER)
    (folder / "journal" / "c1.json").write_bytes(content)
    again = start(folder)
    assert again.record("c1") is None
    assert again.tombstone("c1") is not None
    assert files(folder) == []


def test_the_highest_seq_outlives_the_commands(folder: Path) -> None:
    journal = start(folder)
    journal.put(record("c1", 41, AgentState.COMPLETED))
    journal.saw(42)
    journal.acknowledge(["c1"], 41, **NEVER)
    assert start(folder).highest_seq == 42


def test_the_floor_never_falls(folder: Path) -> None:
    journal = start(folder)
    journal.raise_floor(7)
    journal.raise_floor(3)
    assert journal.floor == 7


# --- changing ------------------------------------------------------------------------------------------------------


def test_whoever_changes_a_record_sees_what_another_decided_before(folder: Path) -> None:
    """A cancel while a commit is being written: one wins, the other knows."""
    journal = start(folder)
    journal.put(record(state=AgentState.STARTED))
    deciding, decided = threading.Event(), threading.Event()
    seen: list[bool] = []

    def commit(_: Record) -> dict[str, Any]:
        deciding.set()
        decided.wait(SECONDS)
        return {"committed": True}

    def cancel(one: Record) -> None:
        seen.append(one.committed)

    first = threading.Thread(target=journal.change, args=("c1", commit))
    second = threading.Thread(target=journal.change, args=("c1", cancel))
    first.start()
    assert deciding.wait(SECONDS)
    second.start()
    second.join(0.1)
    decided.set()
    first.join()
    second.join()
    assert seen == [True]


def test_a_closed_journal_takes_no_more(folder: Path) -> None:
    journal = start(folder)
    journal.put(record(state=AgentState.STARTED))
    journal.close()
    with pytest.raises(Interrupted):
        journal.change("c1", lambda _: {"state": AgentState.COMPLETED})
    again = start(folder).record("c1")
    assert again is not None
    assert again.state == AgentState.INTERRUPTED


def test_what_the_disk_refuses_did_not_happen(folder: Path) -> None:
    journal = start(folder)
    journal.put(record(state=AgentState.STARTED))
    (folder / "journal").rename(folder / "unplugged")
    with pytest.raises(OSError, match="No such file"):
        journal.change("c1", lambda _: {"state": AgentState.COMPLETED})
    kept = journal.record("c1")
    assert kept is not None
    assert kept.state == AgentState.STARTED
    problem = Problem(code="journal_unwritable", cause="c", consequence="c", remedy="r")
    journal.give_up("c1", problem)
    entry = journal.entry("c1")
    assert entry is not None
    assert (entry.state, entry.problem) == (AgentState.INTERRUPTED, problem)


def test_listeners_hear_changes_and_progress_apart(folder: Path) -> None:
    changes: list[str] = []
    progress: list[str] = []
    journal = Journal(folder / "journal", folder / "ledger.json", changes.append, progress.append)
    journal.put(record(state=AgentState.STARTED))
    journal.change("c1", lambda _: None)
    journal.progress("c1", Progress())
    journal.change("c1", lambda _: {"step": "s"})
    assert (changes, progress) == (["c1"], ["c1", "c1"])
    journal.change("c1", lambda _: {"state": AgentState.COMPLETED})
    assert (changes, progress) == (["c1", "c1"], ["c1", "c1"])


@pytest.mark.parametrize(
    ("text", "good"),
    [("3f1c2b6e-0000-4000-8000-000000000001", True), ("", False), ("../x", False), (".x", False), ("a/b", False)],
)
def test_an_id_that_is_no_file_name_is_none(text: str, good: bool) -> None:
    assert is_command_id(text) is good
