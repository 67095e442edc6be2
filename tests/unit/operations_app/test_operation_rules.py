"""The pure decisions, over everything that can be asked of them."""

from itertools import product

import pytest

from agents.protocol.states import AGENT_FINAL, COMMAND_FINAL, COMMAND_OPEN, AgentState, CommandState
from operations_app.rules import (
    COMMAND_MOVES,
    OPERATION_FINAL,
    OPERATION_MOVES,
    Judgement,
    OperationState,
    Outcome,
    Reading,
    Verdict,
    add_up,
    bound_redo,
    eta_seconds_of,
    percent_of,
    read_entry,
)

A, C, R = AgentState, CommandState, Reading
ORDER = [C.CREATED, C.SENT, C.QUEUED, C.STARTED, C.PROCESSING]
UNSETTLED = {C.INTERRUPTED, C.TIMED_OUT, C.RECONCILE_RETRY}


def _expected(state: CommandState, said: AgentState, outcome: str) -> Reading:
    """The design's table, written down a second time from the prose."""
    if state == C.RECONCILED and said in AGENT_FINAL:
        return R.OLD if (said == A.COMPLETED) == (outcome == "done") else R.DISAGREES
    if state in COMMAND_FINAL:
        return R.DISAGREES if said in AGENT_FINAL and C(said) != state else R.OLD
    if C(said) == state:
        return R.PROGRESS
    if said in AGENT_FINAL:
        return R.MOVE
    if said == A.INTERRUPTED:
        return R.MOVE if state in ORDER else R.OLD
    return R.MOVE if state in ORDER and ORDER.index(C(said)) > ORDER.index(state) else R.OLD


@pytest.mark.parametrize(("state", "said", "outcome"), list(product(C, A, Outcome)))
def test_an_entry_of_the_present_attempt_is_read_by_the_table(
    state: CommandState, said: AgentState, outcome: Outcome
) -> None:
    assert read_entry(state, 2, said, 2, outcome) == _expected(state, said, outcome)


@pytest.mark.parametrize(("state", "said"), list(product(C, A)))
def test_another_attempt_is_old_or_ahead_whatever_the_states_are(state: CommandState, said: AgentState) -> None:
    assert read_entry(state, 2, said, 1) is R.OLD
    assert read_entry(state, 2, said, 3) is R.AHEAD


@pytest.mark.parametrize(("state", "said"), list(product(C, A)))
def test_what_is_read_as_a_move_is_a_move_of_the_table(state: CommandState, said: AgentState) -> None:
    if read_entry(state, 1, said, 1) is R.MOVE:
        assert state in COMMAND_MOVES[said]


def test_final_states_are_left_by_nothing_and_all_others_can_end() -> None:
    left = {source for sources in COMMAND_MOVES.values() for source in sources}
    assert left == COMMAND_OPEN
    for ending in (C.COMPLETED, C.FAILED, C.CANCELLED):
        assert COMMAND_MOVES[ending] == COMMAND_OPEN, "a late answer is evidence, whatever was thought before"
    assert {source for sources in OPERATION_MOVES.values() for source in sources}.isdisjoint(OPERATION_FINAL)


def test_every_state_is_reached() -> None:
    assert set(COMMAND_MOVES) == set(C)
    reached: set[CommandState] = {C.CREATED}
    before: set[CommandState] = set()
    while reached != before:
        before = set(reached)
        reached |= {C(to) for to, sources in COMMAND_MOVES.items() if sources & reached}
    assert reached == set(C)


@pytest.mark.parametrize(
    ("to", "sources"),
    [
        (C.CREATED, {C.RECONCILING}),
        (C.SENT, {C.CREATED}),
        (C.TIMED_OUT, {C.STARTED, C.PROCESSING}),
        (C.INTERRUPTED, set(ORDER)),
        (C.RECONCILING, UNSETTLED | {C.RECONCILE_FAILED}),
        (C.RECONCILE_RETRY, {C.RECONCILING}),
        (C.RECONCILE_FAILED, {C.RECONCILING}),
        (C.RECONCILED, {C.RECONCILING, C.RECONCILE_FAILED}),
        (C.PROCESSING, {C.CREATED, C.SENT, C.QUEUED, C.STARTED, C.RECONCILING} | UNSETTLED),
    ],
)
def test_the_table_is_the_designs(to: CommandState, sources: set[CommandState]) -> None:
    assert COMMAND_MOVES[to] == sources


@pytest.mark.parametrize(("judgement", "attempt", "cancelled"), list(product(Judgement, range(1, 6), (False, True))))
def test_a_redo_is_bounded_and_everything_else_passes(judgement: Judgement, attempt: int, cancelled: bool) -> None:
    given = Verdict(judgement, "why")
    bound = bound_redo(given, attempt=attempt, max_attempts=4, cancel_requested=cancelled)
    if judgement is not Judgement.REDO:
        assert bound is given
    elif cancelled or attempt >= 4:
        assert bound.judgement is Judgement.UNDONE
        assert "why" in bound.reason
    else:
        assert bound is given


def test_percent_is_a_hundred_only_when_it_succeeded() -> None:
    full = {"done_bytes": 5, "total_bytes": 5}
    assert percent_of(OperationState.SUCCEEDED, 0, 3, {}) == 100
    for state in set(OperationState) - {OperationState.SUCCEEDED}:
        assert percent_of(state, 3, 3, full) == 99
        assert percent_of(state, 0, 0, {}) == 0


def test_percent_never_falls_on_the_way_forward() -> None:
    shown = [
        percent_of(OperationState.RUNNING, position, 3, {"done_bytes": done, "total_bytes": 7})
        for position in range(3)
        for done in range(8)
    ]
    assert shown == sorted(shown)
    assert (shown[0], shown[-1]) == (0, 99)


def test_progress_of_several_commands_adds_up_and_what_ended_has_no_rate() -> None:
    one = {"done_bytes": 10, "total_bytes": 10, "rate": 7, "message": "done"}
    two = {"done_bytes": 5, "total_bytes": 20, "rate": 3}
    assert add_up([(one, True), (two, False), ({}, False)]) == {
        "done_bytes": 15,
        "total_bytes": 30,
        "rate": 3,
        "message": "done",
    }


@pytest.mark.parametrize(
    ("progress", "seconds"),
    [
        ({}, None),
        ({"done_bytes": 5, "total_bytes": 0, "rate": 5}, None),
        ({"done_bytes": 5, "total_bytes": 16, "rate": 0}, None),
        ({"done_bytes": 5, "total_bytes": 16, "rate": 5}, 3),
        ({"done_bytes": 16, "total_bytes": 16, "rate": 5}, 0),
    ],
)
def test_the_time_left_is_rounded_up_or_unknown(progress: dict[str, int], seconds: int | None) -> None:
    assert eta_seconds_of(progress) == seconds
