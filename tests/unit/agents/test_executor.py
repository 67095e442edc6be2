"""The executor on a real journal, with a handler of which each step can be held."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.common.errors import Cancelled, Interrupted
from agents.executor import RunContext, _cancelled
from agents.journal import Record
from agents.lanes import LIMITS
from agents.protocol.kinds import WorkClass
from agents.protocol.messages import Cancel, Envelope
from agents.protocol.sealing import new_key, seal
from agents.protocol.states import AgentState
from agents.state import StateFolder
from tests.lab.waiting import poll
from tests.unit.agents.parts import SECONDS, Parts

S = AgentState


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    parts = Parts(StateFolder(tmp_path / "state"), tmp_path / "pool")
    yield parts.start()
    parts.end()


@pytest.fixture
def resting(tmp_path: Path) -> Iterator[Parts]:
    """Not started: what is put into its journal is found at the start."""
    parts = Parts(StateFolder(tmp_path / "state"), tmp_path / "pool")
    yield parts
    parts.end()


def wish(envelope: Envelope) -> Cancel:
    return Cancel(
        epoch=1, command_id=envelope.command_id, attempt=envelope.attempt, kind=envelope.kind, seq=envelope.seq
    )


# --- lanes ---------------------------------------------------------------------------------------------------------


def test_one_lane_is_done_in_order_and_another_does_not_wait(parts: Parts) -> None:
    first = parts.envelope(lane="vm:1").command_id
    hold = parts.play("hold", first)
    parts.queue(command_id=first, lane="vm:1")
    second = parts.queue(lane="vm:1").command_id
    other = parts.queue(lane="vm:2").command_id
    parts.wait(other, S.COMPLETED)
    assert parts.entry(second).state == S.QUEUED
    hold.unlink()
    parts.wait(second, S.COMPLETED)
    begun = [line.split()[1] for line in parts.effects() if line.startswith("begin")]
    assert [one for one in begun if one != other] == [first, second]


def test_no_more_than_the_limit_of_a_class_run_at_once(parts: Parts) -> None:
    limit = LIMITS[WorkClass.DISK]
    ids = [parts.envelope().command_id for _ in range(limit + 2)]
    holds = [parts.play("hold", command_id) for command_id in ids]
    for command_id in ids:
        parts.queue(command_id=command_id)
    poll(lambda: len(parts.effects()) == limit, SECONDS, "the limit is reached")
    holds[0].unlink()
    parts.wait_effect(f"begin {ids[limit]} 1")
    assert len([line for line in parts.effects() if line.startswith("begin")]) == limit + 1


def test_a_command_that_is_probed_does_not_begin(parts: Parts) -> None:
    command_id = parts.envelope().command_id
    assert parts.executor.lanes.stand_still(command_id)
    parts.queue(command_id=command_id)
    parts.wait(parts.queue().command_id, S.COMPLETED)
    assert parts.effects(command_id) == []
    parts.executor.lanes.go_on(command_id)
    parts.wait(command_id, S.COMPLETED)


def test_a_command_that_runs_cannot_be_made_to_stand_still(parts: Parts) -> None:
    command_id = parts.envelope().command_id
    hold = parts.play("hold", command_id)
    parts.queue(command_id=command_id)
    parts.wait_effect(f"begin {command_id} 1")
    assert not parts.executor.lanes.stand_still(command_id)
    hold.unlink()
    parts.wait(command_id, S.COMPLETED)
    assert parts.executor.lanes.stand_still(command_id)


# --- how a run ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plays", "state", "code", "last_effect"),
    [
        ({}, S.COMPLETED, None, "commit"),
        ({"raise": "error"}, S.FAILED, "no_room", "cancel"),
        ({"raise": "bug"}, S.FAILED, "internal_error", "cancel"),
        ({"raise-late": "error"}, S.FAILED, "no_room", "cancel"),
        ({"raise-late": "bug"}, S.INTERRUPTED, "internal_error", "commit"),
        ({"raise": "error", "raise-cancel": "error"}, S.INTERRUPTED, "no_room", "begin"),
        ({"raise": "error", "raise-cancel": "bug"}, S.INTERRUPTED, "internal_error", "begin"),
    ],
)
def test_how_a_run_ends(
    parts: Parts, plays: dict[str, str], state: AgentState, code: str | None, last_effect: str
) -> None:
    command_id = parts.envelope().command_id
    for what, how in plays.items():
        parts.play(what, command_id, how)
    parts.queue(command_id=command_id)
    entry = parts.wait(command_id, S.COMPLETED, S.FAILED, S.INTERRUPTED)
    assert (entry.state, entry.problem and entry.problem.code) == (state, code)
    assert parts.effects(command_id)[-1] == f"{last_effect} {command_id} 1"


def test_an_unknown_error_tells_people_nothing_of_its_inside(parts: Parts) -> None:
    command_id = parts.envelope().command_id
    parts.play("raise", command_id, "bug")
    parts.queue(command_id=command_id)
    problem = parts.wait(command_id, S.FAILED).problem
    assert problem is not None
    assert "ZeroDivision" not in problem.model_dump_json()


def test_secrets_sealed_to_another_key_fail_before_anything_is_done(parts: Parts) -> None:
    command_id = parts.queue(sealed=seal(new_key()[1], {"word": "x"})).command_id
    problem = parts.wait(command_id, S.FAILED).problem
    assert problem is not None
    assert problem.code == "sealed_to_another"
    assert parts.effects(command_id) == []


def test_without_the_right_to_work_nothing_has_an_effect(parts: Parts) -> None:
    parts.allowed = False
    command_id = parts.queue().command_id
    parts.wait(command_id, S.INTERRUPTED)
    assert parts.effects() == []


def test_the_right_to_work_is_asked_again_before_the_next_effect(parts: Parts) -> None:
    """As after SIGSTOP and SIGCONT, when another agent has taken the folder over."""
    command_id = parts.envelope().command_id
    hold = parts.play("hold", command_id)
    parts.queue(command_id=command_id)
    parts.wait_effect(f"begin {command_id} 1")
    parts.allowed = False
    hold.unlink()
    parts.wait(command_id, S.INTERRUPTED)
    assert parts.effects(command_id) == [f"begin {command_id} 1"]


def test_the_right_to_work_is_asked_after_the_journal_was_written_too(parts: Parts) -> None:
    """The process may have been stopped for long in the middle of that write."""
    record = parts.put(S.STARTED)

    def lost_while_it_wrote() -> None:
        if parts.entry(record.command_id).step:
            raise Interrupted

    context = RunContext(parts.journal, record, lost_while_it_wrote)
    with pytest.raises(Interrupted):
        context.step("volume_create.before_create")


def test_a_full_disk_makes_a_command_wait_and_loses_nothing(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("agents.executor.DISK_RETRY_SECONDS", 0.05)
    assert parts.executor.lanes.stand_still("c1")
    parts.queue(command_id="c1")
    unplugged = parts.folder.journal.rename(tmp_path / "unplugged")
    parts.executor.lanes.go_on("c1")
    poll(lambda: parts.executor.lanes.holds("c1"), SECONDS, "it tries")
    assert parts.effects() == []
    unplugged.rename(parts.folder.journal)
    parts.wait("c1", S.COMPLETED)


def test_a_disk_that_fills_up_under_a_run_interrupts_it(parts: Parts, tmp_path: Path) -> None:
    hold = parts.play("hold", "c1")
    parts.queue(command_id="c1")
    parts.wait_effect("begin c1 1")
    unplugged = parts.folder.journal.rename(tmp_path / "unplugged")
    hold.unlink()
    problem = parts.wait("c1", S.INTERRUPTED).problem
    assert problem is not None
    assert problem.code == "journal_unwritable"
    assert parts.effects("c1") == ["begin c1 1", "cancel c1 1"]
    unplugged.rename(parts.folder.journal)


def test_notes_of_an_earlier_attempt_are_there_as_json(parts: Parts) -> None:
    record = parts.put(S.STARTED, notes={"offset": 7})
    context = RunContext(parts.journal, record, lambda: None)
    context.step("volume_create.before_create", names=("a", "b"))
    assert dict(context.notes) == {"offset": 7, "names": ["a", "b"]}
    with pytest.raises(TypeError):
        context.step("volume_create.before_create", path=Path("x"))


# --- stop and start ------------------------------------------------------------------------------------------------


def test_a_stop_interrupts_what_runs_and_leaves_the_rest_queued(parts: Parts) -> None:
    first = parts.envelope().command_id
    parts.play("hold", first)
    parts.queue(command_id=first, lane="vm:1")
    second = parts.queue(lane="vm:1").command_id
    parts.wait_effect(f"begin {first} 1")
    parts.executor.stop(5)
    assert [parts.entry(one).state for one in (first, second)] == [S.INTERRUPTED, S.QUEUED]


def test_a_start_takes_up_what_waited_in_the_order_of_seq(resting: Parts) -> None:
    ids = [resting.put(lane="vm:1", seq=seq).command_id for seq in (3, 1, 2)]
    resting.start()
    for command_id in ids:
        resting.wait(command_id, S.COMPLETED)
    begun = [line.split()[1] for line in resting.effects() if line.startswith("begin")]
    assert begun == [ids[1], ids[2], ids[0]]


def test_a_start_puts_back_what_was_being_cancelled_and_touches_nothing_else(resting: Parts) -> None:
    alone = resting.put(S.INTERRUPTED).command_id
    back = resting.put(S.INTERRUPTED, cancel_requested=True).command_id
    resting.start()
    resting.wait(back, S.CANCELLED)
    assert resting.effects() == [f"cancel {back} 1"]
    assert resting.entry(alone).state == S.INTERRUPTED


def test_what_an_older_agent_cannot_put_back_stays_interrupted_and_says_why(resting: Parts) -> None:
    command_id = resting.put(S.INTERRUPTED, cancel_requested=True, kind="volume.teleport").command_id
    resting.start()
    poll(lambda: resting.entry(command_id).problem, SECONDS, "a reason")
    entry = resting.entry(command_id)
    assert (entry.state, entry.problem and entry.problem.code) == (S.INTERRUPTED, "unknown_kind")


# --- cancel --------------------------------------------------------------------------------------------------------


def _record(state: AgentState, committed: bool = False) -> Record:
    envelope = Envelope(command_id="c1", attempt=2, kind="volume.create", epoch=1, seq=1, floor=0, lane="l", payload={})
    return Record(envelope=envelope, state=state, epoch=1, committed=committed)


@pytest.mark.parametrize(
    ("state", "attempt", "becomes", "flag"),
    [
        (S.QUEUED, 1, S.QUEUED, False),
        (S.QUEUED, 2, S.CANCELLED, False),
        (S.QUEUED, 3, S.CANCELLED, False),
        (S.STARTED, 1, S.STARTED, False),
        (S.STARTED, 2, S.STARTED, True),
        (S.COMPLETED, 2, S.COMPLETED, False),
        (S.COMPLETED, 3, S.COMPLETED, False),
        (S.FAILED, 2, S.FAILED, False),
        (S.FAILED, 3, S.CANCELLED, False),
        (S.CANCELLED, 2, S.CANCELLED, False),
        (S.INTERRUPTED, 1, S.INTERRUPTED, False),
        (S.INTERRUPTED, 2, S.INTERRUPTED, True),
        (S.INTERRUPTED, 3, S.INTERRUPTED, True),
    ],
)
def test_what_a_cancel_does_to_a_record(state: AgentState, attempt: int, becomes: AgentState, flag: bool) -> None:
    before = _record(state)
    fields = _cancelled(before, attempt)
    after = before.model_copy(update=fields) if fields else before
    assert (after.state, after.cancel_requested) == (becomes, flag)
    refused_up_to = max(2, attempt) if becomes == S.CANCELLED or flag else 2
    assert after.attempt == refused_up_to


@pytest.mark.parametrize("state", [S.STARTED, S.INTERRUPTED])
def test_after_the_point_of_no_return_a_cancel_changes_nothing(state: AgentState) -> None:
    assert _cancelled(_record(state, committed=True), 2) is None


def test_a_cancel_in_the_last_moment_wins_over_the_commit(parts: Parts) -> None:
    record = parts.put(S.STARTED)

    def cancel() -> None:
        parts.executor.cancel(wish(record.envelope))

    context = RunContext(parts.journal, record, cancel)
    with pytest.raises(Cancelled):
        context.commit("volume_create.before_rename")
    assert not context.committed


def test_a_cancel_of_a_failed_put_back_tries_again(parts: Parts) -> None:
    fault = parts.play("raise-cancel", "c1", "error")
    record = parts.put(S.INTERRUPTED, command_id="c1")
    parts.executor.cancel(wish(record.envelope))
    poll(lambda: parts.entry("c1").problem, SECONDS, "it could not be put back")
    assert parts.entry("c1").state == S.INTERRUPTED
    fault.unlink()
    parts.executor.cancel(wish(record.envelope))
    parts.wait("c1", S.CANCELLED)


def test_a_run_hears_a_cancel_at_its_next_check(parts: Parts) -> None:
    parts.play("hold", "c1")
    envelope = parts.queue(command_id="c1")
    parts.wait_effect("begin c1 1")
    parts.executor.cancel(wish(envelope))
    parts.wait("c1", S.CANCELLED)
    assert parts.effects("c1")[-1] == "cancel c1 1"
