"""Pure decisions about commands and operations: which state may follow which, and what a report or evidence means."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from agents.protocol.states import AGENT_FINAL, COMMAND_FINAL, AgentState, CommandState

S = CommandState

_ON_AGENT = frozenset({S.QUEUED, S.STARTED, S.PROCESSING})
_UNSETTLED = frozenset({S.INTERRUPTED, S.TIMED_OUT, S.RECONCILE_RETRY})
_UNFINISHED = frozenset({S.CREATED, S.SENT}) | _ON_AGENT | _UNSETTLED | {S.RECONCILING, S.RECONCILE_FAILED}

COMMAND_MOVES: Mapping[str, frozenset[str]] = {
    # to: from. A report may overtake the update to SENT, so every agent state may follow CREATED.
    S.CREATED: frozenset({S.RECONCILING}),
    S.SENT: frozenset({S.CREATED}),
    S.QUEUED: frozenset({S.CREATED, S.SENT}),
    S.STARTED: frozenset({S.CREATED, S.SENT, S.QUEUED}),
    S.PROCESSING: frozenset({S.CREATED, S.SENT, S.QUEUED, S.STARTED, S.RECONCILING}) | _UNSETTLED,
    S.INTERRUPTED: frozenset({S.CREATED, S.SENT}) | _ON_AGENT,
    S.TIMED_OUT: frozenset({S.STARTED, S.PROCESSING}),
    S.RECONCILING: _UNSETTLED | {S.RECONCILE_FAILED},
    S.RECONCILE_RETRY: frozenset({S.RECONCILING}),
    S.RECONCILE_FAILED: frozenset({S.RECONCILING}),
    S.RECONCILED: frozenset({S.RECONCILING, S.RECONCILE_FAILED}),
    # A late answer is evidence, whatever was thought before.
    S.COMPLETED: _UNFINISHED,
    S.FAILED: _UNFINISHED,
    S.CANCELLED: _UNFINISHED,
}
"""The one table of a command's states.

SENT is written before the message is published, so CREATED means: certainly never published. A message that was lost
is sent again when a later ping lists the command nowhere.
"""


class OperationState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    NEEDS_ATTENTION = "needs_attention"


O = OperationState  # noqa: E741
OPERATION_FINAL = frozenset({O.SUCCEEDED, O.FAILED, O.CANCELLED})
OPERATION_OPEN = frozenset(OperationState) - OPERATION_FINAL
OPERATION_MOVES: Mapping[str, frozenset[str]] = {
    O.RUNNING: frozenset({O.PENDING, O.NEEDS_ATTENTION}),
    O.NEEDS_ATTENTION: frozenset({O.PENDING, O.RUNNING}),
    O.SUCCEEDED: OPERATION_OPEN,
    O.FAILED: OPERATION_OPEN,
    O.CANCELLED: OPERATION_OPEN,
}


class Outcome(StrEnum):
    """How a command ended, whichever way this became known."""

    DONE = "done"
    UNDONE = "undone"


class Reading(StrEnum):
    """What a journal entry of an agent means for the command's row."""

    MOVE = "move"
    PROGRESS = "progress"
    """Nothing new but progress."""
    OLD = "old"
    """Of an earlier attempt, or already known: a counted no-op."""
    DISAGREES = "disagrees"
    """The row is final and the agent says something else: an alarm."""
    AHEAD = "ahead"
    """The agent knows an attempt that the database never issued: the database is older than the world."""


_RANK = {S.CREATED: 0, S.SENT: 1, S.QUEUED: 2, S.STARTED: 3, S.PROCESSING: 4}


def read_entry(state: str, attempt: int, entry_state: AgentState, entry_attempt: int, outcome: str = "") -> Reading:
    """Compare a command's row (``outcome``: of one that is RECONCILED) with what its agent says of it."""
    if entry_attempt > attempt:
        return Reading.AHEAD
    if entry_attempt < attempt:
        return Reading.OLD
    if state in COMMAND_FINAL:
        return _read_final(state, entry_state, outcome)
    if entry_state == state:
        return Reading.PROGRESS
    if entry_state in AGENT_FINAL:
        return Reading.MOVE
    return _read_open(state, entry_state)


def _read_final(state: str, entry_state: AgentState, outcome: str) -> Reading:
    if entry_state not in AGENT_FINAL or entry_state == state:
        return Reading.OLD
    if state == S.RECONCILED and (entry_state == AgentState.COMPLETED) == (outcome == Outcome.DONE):
        return Reading.OLD
    return Reading.DISAGREES


def _read_open(state: str, entry_state: AgentState) -> Reading:
    """A row that is being reconciled waits for evidence; only progress shows that the work itself goes on."""
    if entry_state == AgentState.INTERRUPTED:
        return Reading.MOVE if state in COMMAND_MOVES[S.INTERRUPTED] else Reading.OLD
    if state in _RANK:
        return Reading.MOVE if _RANK[S(entry_state)] > _RANK[S(state)] else Reading.OLD
    return Reading.OLD


class Judgement(StrEnum):
    DONE = "done"
    UNDONE = "undone"
    REDO = "redo"
    """Begin again with the next attempt."""
    FOLLOW = "follow"
    """It still runs in QEMU or libvirtd."""
    RETRY = "retry"
    """Cannot tell yet: touch nothing, ask again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What evidence means. ``reason`` is shown to people; ``answer`` is what a completed command would have said."""

    judgement: Judgement
    reason: str
    answer: Mapping[str, Any] = field(default_factory=dict)


def bound_redo(verdict: Verdict, *, attempt: int, max_attempts: int, cancel_requested: bool) -> Verdict:
    """A redo ends with the last attempt, and is not begun for what was cancelled: the workflow then puts it back."""
    if verdict.judgement is not Judgement.REDO:
        return verdict
    if cancel_requested:
        return Verdict(Judgement.UNDONE, f"cancelled; {verdict.reason}")
    if attempt >= max_attempts:
        return Verdict(Judgement.UNDONE, f"all {max_attempts} attempts were interrupted; {verdict.reason}")
    return verdict


def add_up(commands: Iterable[tuple[Mapping[str, Any], bool]]) -> dict[str, Any]:
    """Progress of several commands as one, from (progress, whether it is final) of each; what has ended has no rate."""
    total: dict[str, Any] = {"done_bytes": 0, "total_bytes": 0, "rate": 0, "message": ""}
    for progress, final in commands:
        total["done_bytes"] += progress.get("done_bytes", 0)
        total["total_bytes"] += progress.get("total_bytes", 0)
        total["rate"] += 0 if final else progress.get("rate", 0)
        total["message"] = progress.get("message") or total["message"]
    return total


def percent_of(state: str, position: int, steps: int, progress: Mapping[str, Any]) -> int:
    """How far an operation is: steps behind it, and the bytes of the present one. 100 only when it succeeded."""
    if state == O.SUCCEEDED:
        return 100
    total_bytes = progress.get("total_bytes", 0)
    share = min(progress.get("done_bytes", 0) / total_bytes, 1.0) if total_bytes else 0.0
    return min(int(100 * (position + share) / max(steps, 1)), 99)


def eta_seconds_of(progress: Mapping[str, Any]) -> int | None:
    """How long the present step will take; None when that is unknown."""
    left = progress.get("total_bytes", 0) - progress.get("done_bytes", 0)
    rate = progress.get("rate", 0)
    return -(-left // rate) if rate > 0 and left >= 0 and progress.get("total_bytes") else None
