"""What the agent does with each message, before any work: judged, written down, reported."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.inbox import Reception, judge
from agents.protocol.kinds import KINDS
from agents.protocol.messages import Acknowledge, Cancel, Configuration, Envelope, Probe, Welcome
from agents.protocol.states import AgentState
from agents.state import StateFolder
from tests.lab.waiting import poll
from tests.unit.agents.parts import SECONDS, Parts

S = AgentState
R = Reception


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """Nothing runs in it, so that what is accepted stays as it was written down; only the reporter speaks."""
    parts = Parts(StateFolder(tmp_path / "state"), tmp_path / "pool")
    parts.reporter.start()
    parts.prober.start()
    yield parts
    parts.reporter.stop(1)


def accept(parts: Parts, envelope: Envelope) -> None:
    parts.inbox.accept(envelope.model_dump(mode="json"))


def cancel(parts: Parts, envelope: Envelope, **changes: Any) -> None:
    wish = Cancel(
        epoch=1, command_id=envelope.command_id, attempt=envelope.attempt, kind=envelope.kind, seq=envelope.seq
    )
    parts.inbox.cancel(wish.model_copy(update=changes).model_dump(mode="json"))


def probe(parts: Parts, envelope: Envelope, **changes: Any) -> dict[str, Any]:
    question = Probe(
        epoch=1,
        probe_id=f"p{len(parts.said)}",
        command_id=envelope.command_id,
        attempt=envelope.attempt,
        kind=envelope.kind,
        seq=envelope.seq,
        payload=envelope.payload,
    ).model_copy(update=changes)
    parts.inbox.probe(question.model_dump(mode="json"))

    def answer() -> dict[str, Any] | None:
        told = [message for task, message in list(parts.said) if task == "operations.evidence"]
        return next((dict(one) for one in told if one["probe_id"] == question.probe_id), None)

    return poll(answer, SECONDS, "evidence")


def reported(parts: Parts, command_id: str) -> list[tuple[str, int]]:
    told = [message for task, message in list(parts.said) if task == "operations.reports"]
    return [(e["state"], e["attempt"]) for one in told for e in one["entries"] if e["command_id"] == command_id]


# --- judging -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "attempt", "reception"),
    [
        (None, 1, R.TAKE),
        *((state, 2, R.REPEAT) for state in S),
        *((state, 1, R.REPEAT) for state in S),
        (S.QUEUED, 3, R.REPEAT),
        (S.STARTED, 3, R.REPEAT),
        (S.PROCESSING, 3, R.REPEAT),
        (S.COMPLETED, 3, R.REPEAT),
        (S.FAILED, 3, R.TAKE),
        (S.CANCELLED, 3, R.TAKE),
        (S.INTERRUPTED, 3, R.TAKE),
    ],
)
def test_an_attempt_is_taken_once_and_only_when_the_state_allows_another(
    parts: Parts, state: AgentState | None, attempt: int, reception: Reception
) -> None:
    envelope = parts.envelope(attempt=2)
    if state is not None:
        parts.put(state, command_id=envelope.command_id, attempt=2)
    coming = envelope.model_copy(update={"attempt": attempt})
    assert judge(coming, parts.journal, 1, lambda _: False) == reception


@pytest.mark.parametrize(
    ("epoch", "known", "reception"),
    [(6, True, R.TOO_OLD), (6, False, R.TOO_OLD), (5, False, R.TAKE), (4, False, R.STALE), (4, True, R.REPEAT)],
)
def test_epochs(parts: Parts, epoch: int, known: bool, reception: Reception) -> None:
    envelope = parts.envelope(epoch=epoch)
    if known:
        parts.put(S.STARTED, command_id=envelope.command_id)
    assert judge(envelope, parts.journal, 5, lambda _: False) == reception


def test_a_higher_attempt_for_an_earlier_start_is_stale(parts: Parts) -> None:
    record = parts.put(S.INTERRUPTED)
    coming = record.envelope.model_copy(update={"attempt": 2, "epoch": 4})
    assert judge(coming, parts.journal, 5, lambda _: False) == R.STALE


def test_a_command_that_is_being_put_back_takes_no_other_attempt_yet(parts: Parts) -> None:
    record = parts.put(S.INTERRUPTED)
    coming = record.envelope.model_copy(update={"attempt": 2})
    assert judge(coming, parts.journal, 1, lambda _: True) == R.REPEAT


def test_at_or_below_the_floor_the_unknown_is_a_late_duplicate_and_the_known_goes_on(parts: Parts) -> None:
    known = parts.put(S.INTERRUPTED, seq=4).envelope
    parts.journal.raise_floor(5)
    assert judge(parts.envelope(seq=5), parts.journal, 1, lambda _: False) == R.DROP
    assert judge(parts.envelope(seq=6), parts.journal, 1, lambda _: False) == R.TAKE
    assert judge(known.model_copy(update={"attempt": 2}), parts.journal, 1, lambda _: False) == R.TAKE


# --- commands ------------------------------------------------------------------------------------------------------


def test_every_kind_has_a_task_that_accepts(parts: Parts) -> None:
    assert {kind.task_name for kind in KINDS.values()} <= set(parts.inbox.tasks)


def test_what_is_accepted_is_on_disk_and_sealed(parts: Parts) -> None:
    envelope = parts.envelope(sealed="c2VhbGVk")
    accept(parts, envelope)
    assert parts.entry(envelope.command_id).state == S.QUEUED
    assert b"c2VhbGVk" in (parts.folder.journal / f"{envelope.command_id}.json").read_bytes()
    assert parts.executor.lanes.holds(envelope.command_id)


def test_another_attempt_keeps_the_notes_and_forgets_the_cancel(parts: Parts) -> None:
    envelope = parts.put(S.FAILED, notes={"offset": 7}, cancel_requested=True).envelope
    accept(parts, envelope.model_copy(update={"attempt": 2}))
    record = parts.journal.record(envelope.command_id)
    assert record is not None
    assert (record.state, record.attempt, record.notes) == (S.QUEUED, 2, {"offset": 7})
    assert not record.cancel_requested


def test_another_attempt_after_the_point_of_no_return_only_goes_forward(parts: Parts) -> None:
    envelope = parts.put(S.INTERRUPTED, committed=True).envelope
    accept(parts, envelope.model_copy(update={"attempt": 2}))
    record = parts.journal.record(envelope.command_id)
    assert record is not None
    assert record.committed


def test_what_the_disk_refuses_is_not_accepted_and_taken_when_it_comes_again(parts: Parts, tmp_path: Path) -> None:
    envelope = parts.envelope()
    unplugged = parts.folder.journal.rename(tmp_path / "unplugged")
    accept(parts, envelope)
    assert parts.journal.entries() == ()
    assert not parts.executor.lanes.holds(envelope.command_id)
    unplugged.rename(parts.folder.journal)
    accept(parts, envelope)
    assert parts.entry(envelope.command_id).state == S.QUEUED


@pytest.mark.parametrize("message", [{}, {"command_id": "c1"}, None])
def test_a_message_that_cannot_be_read_does_nothing(parts: Parts, message: Any) -> None:
    for take in parts.inbox.tasks.values():
        take(message)
    assert parts.journal.entries() == ()
    assert parts.stops == []


@pytest.mark.parametrize("command_id", ["../../etc/passwd", "a/b", "", ".hidden"])
def test_an_id_that_is_a_path_is_refused(parts: Parts, command_id: str) -> None:
    envelope = parts.envelope(command_id=command_id)
    accept(parts, envelope)
    cancel(parts, envelope)
    assert list(parts.folder.path.rglob("*passwd*")) == []
    assert parts.journal.entries() == ()


def test_a_command_of_another_protocol_version_fails_with_the_reason(parts: Parts) -> None:
    envelope = parts.envelope(version=2)
    accept(parts, envelope)
    problem = parts.entry(envelope.command_id).problem
    assert problem is not None
    assert problem.code == "unknown_version"


def test_a_seq_is_remembered_also_of_what_was_not_begun(parts: Parts) -> None:
    accept(parts, parts.envelope(seq=90, epoch=0))
    assert parts.journal.highest_seq == 90


# --- cancel and probe ----------------------------------------------------------------------------------------------


def test_a_cancel_of_what_is_final_since_long_leaves_nothing(parts: Parts) -> None:
    parts.journal.raise_floor(5)
    cancel(parts, parts.envelope(seq=5))
    assert parts.journal.entries() == ()


def test_a_cancel_of_a_queued_command_wins_before_it_starts(parts: Parts) -> None:
    envelope = parts.envelope()
    accept(parts, envelope)
    cancel(parts, envelope)
    parts.executor.start()
    parts.wait(envelope.command_id, S.CANCELLED)
    assert parts.effects() == []
    parts.executor.stop(5)


def test_a_cancel_of_a_finished_command_is_answered_with_its_end(parts: Parts) -> None:
    envelope = parts.put(S.COMPLETED).envelope
    poll(lambda: reported(parts, envelope.command_id), SECONDS, "the first report")
    cancel(parts, envelope)
    poll(lambda: len(reported(parts, envelope.command_id)) > 1, SECONDS, "another report")
    assert set(reported(parts, envelope.command_id)) == {("COMPLETED", 1)}


def test_a_cancel_of_a_command_whose_file_is_corrupt_guesses_nothing(parts: Parts) -> None:
    envelope = parts.envelope()
    (parts.folder.journal / f"{envelope.command_id}.json").write_bytes(b"{")
    parts.journal.load()
    cancel(parts, envelope)
    assert parts.entry(envelope.command_id).state == S.INTERRUPTED


@pytest.mark.parametrize(
    ("state", "after"),
    [
        (S.INTERRUPTED, (S.INTERRUPTED, 2)),
        (S.FAILED, (S.INTERRUPTED, 2)),
        (S.CANCELLED, (S.INTERRUPTED, 2)),
        (S.COMPLETED, (S.COMPLETED, 1)),
    ],
)
def test_a_probe_of_an_attempt_that_has_not_come_refuses_it(
    parts: Parts, state: AgentState, after: tuple[AgentState, int]
) -> None:
    envelope = parts.put(state).envelope
    evidence = probe(parts, envelope, attempt=2)
    entry = parts.entry(envelope.command_id)
    assert (entry.state, entry.attempt) == after
    assert (evidence["status"], evidence["attempt"]) == ("settled", 2)
    assert evidence["entry"]["state"] == after[0]


def test_a_probe_of_what_waits_says_so_and_changes_nothing(parts: Parts) -> None:
    envelope = parts.envelope()
    accept(parts, envelope)
    evidence = probe(parts, envelope, attempt=2)
    assert (evidence["status"], evidence["evidence"]) == ("running", None)
    assert parts.entry(envelope.command_id).state == S.QUEUED


def test_a_probe_that_cannot_refuse_an_earlier_message_cannot_tell(parts: Parts, tmp_path: Path) -> None:
    envelope = parts.envelope()
    unplugged = parts.folder.journal.rename(tmp_path / "unplugged")
    assert probe(parts, envelope)["status"] == "cannot_tell"
    unplugged.rename(parts.folder.journal)
    assert probe(parts, envelope)["status"] == "settled"


def test_a_probe_of_a_kind_that_this_agent_does_not_know_cannot_tell(parts: Parts) -> None:
    evidence = probe(parts, parts.envelope(kind="volume.teleport"))
    assert evidence["status"] == "cannot_tell"
    assert "Upgrade" in evidence["reason"]


def test_evidence_has_the_notes_of_the_interrupted_run(parts: Parts) -> None:
    envelope = parts.put(S.INTERRUPTED, notes={"began": 1}).envelope
    assert probe(parts, envelope)["evidence"]["mismatch"] == "began in attempt 1"


# --- the rest ------------------------------------------------------------------------------------------------------


def test_an_acknowledgement_lets_go_and_a_late_duplicate_is_dropped(parts: Parts) -> None:
    envelope = parts.put(S.COMPLETED).envelope
    word = Acknowledge(epoch=0, command_ids=(envelope.command_id,), floor=0)
    parts.inbox.acknowledge(word.model_dump(mode="json"))
    accept(parts, envelope)
    assert parts.journal.entries() == ()
    assert parts.inbox.dropped == 1


@pytest.mark.parametrize("name", ["acknowledge", "cancel", "probe", "configure"])
def test_a_word_to_a_later_start_ends_this_one_and_tells_the_next(parts: Parts, name: str) -> None:
    envelope = parts.envelope()
    common = {"epoch": 7, "command_id": envelope.command_id, "attempt": 1, "kind": envelope.kind, "seq": 1}
    words = {
        "acknowledge": Acknowledge(epoch=7, floor=0),
        "cancel": Cancel(**common),
        "probe": Probe(**common, probe_id="p", payload={}),
        "configure": Configuration(epoch=7, ping_interval_seconds=1, pools=()),
    }
    parts.inbox.tasks[f"agents.control.{name}"](words[name].model_dump(mode="json"))
    assert len(parts.stops) == 1
    assert parts.journal.entries() == ()
    assert parts.epoch.raise_own() == 8


def test_a_welcome_to_another_start_is_not_mine(parts: Parts) -> None:
    welcome = Welcome(
        accepted=False, reason="late", epoch=0, epoch_floor=9, floor=0, ping_interval_seconds=1
    ).model_dump(mode="json")
    parts.inbox.welcome(welcome)
    assert parts.stops == []
    parts.inbox.welcome({**welcome, "epoch": 1})
    assert parts.stops == ["The management server refuses this agent: late"]
