"""How an operation goes on, step by step.

A workflow is read top to bottom: a tuple of steps, each with what it sends, what it does with the answers, and how it
is undone. Its position is data in the operation's row. :func:`advance` may be called by anyone at any time and twice:
it looks at what the rows say and takes the steps that can be taken, each in a transaction with the row locked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from agents.protocol.kinds import KINDS, Data
from agents.protocol.states import COMMAND_FINAL, CommandState
from core_app.sealing import seal_to_agent
from core_app.transitions import transition
from infra_app.actions import issue_seq
from infra_app.models import Agent
from operations_app import dispatch, registry
from operations_app.models import Attempt, Command, Operation, Waiter
from operations_app.rules import OPERATION_FINAL, OperationState, Outcome


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """A command that a step wants. ``secrets`` are sealed to the agent and stored nowhere else."""

    kind: str
    agent_id: UUID
    lane: str
    payload: Data
    label: str = ""
    secrets: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wait:
    """The step is over when this operation is settled, and failed if it did not succeed."""

    awaited: Operation


class Refused(Exception):  # noqa: N818  (raised by a step to turn round, not a mistake)
    """A step cannot be gone through with: the operation is put back, and fails with this."""

    def __init__(self, code: str, cause: str, consequence: str, remedy: str) -> None:
        super().__init__(cause)
        self.problem = {"code": code, "cause": cause, "consequence": consequence, "remedy": remedy}


class Step:
    """One named step. All methods run in the transaction that moves the operation; none may talk to anything else."""

    name: ClassVar[str]
    forward_only: ClassVar[bool] = False
    """From this step on nothing is undone: a failure is tried again and shown as needing attention."""

    def send(self, operation: Operation) -> Sequence[CommandSpec] | Wait:
        """What has to be done by agents; nothing: the step is over at once. May raise Refused."""
        return ()

    def done(self, operation: Operation, command: Command) -> None:
        """One of the commands is done; ``command.answer`` is the kind's answer. May raise Refused."""

    def failed(self, operation: Operation, command: Command) -> Sequence[CommandSpec]:
        """One of the commands failed or was undone. What is to be tried instead (another host); nothing: give up."""
        return ()

    def undo(self, operation: Operation) -> Sequence[CommandSpec]:
        """Put back whatever this step may have done, wholly or half; must be right also if it did nothing."""
        return ()


class Workflow:
    """A kind of operation."""

    kind: ClassVar[str]
    steps: ClassVar[tuple[Step, ...]]

    def ended(self, operation: Operation) -> None:
        """The operation is settled (its ``state`` is final): set the states of what it was about."""


def is_done(command: Command) -> bool:
    """Whether a final command achieved what it was for."""
    return command.state == CommandState.COMPLETED or command.outcome == Outcome.DONE


def current_step(operation: Operation) -> Step | None:
    """The step at the operation's position; None past the last."""
    steps = registry.workflow_of(operation.kind).steps
    return steps[operation.position] if operation.position < len(steps) else None


def may_cancel(operation: Operation) -> bool:
    """Whether a cancel would still have an effect."""
    if operation.state in OPERATION_FINAL or operation.undoing or operation.cancel_requested_at:
        return False
    return not _past_no_return(operation)


def _past_no_return(operation: Operation) -> bool:
    steps = registry.workflow_of(operation.kind).steps
    return any(step.forward_only for step in steps[: operation.sent_position + 1])


def advance(operation_id: UUID) -> None:
    """Take every step that can be taken now. Idempotent; safe to call from anywhere."""
    with transaction.atomic():
        operation = Operation.objects.select_for_update().get(pk=operation_id)
        while operation.state not in OPERATION_FINAL and _move(operation):
            pass


def _move(operation: Operation) -> bool:
    """One move. False when there is something to wait for, or the operation has ended."""
    if operation.sent_position != operation.position:
        return _enter(operation)
    commands = list(operation.commands.filter(round=operation.round, position=operation.position))
    if any(command.state not in COMMAND_FINAL for command in commands):
        _show_attention(operation, any(command.state == CommandState.RECONCILE_FAILED for command in commands))
        return False
    if Waiter.objects.filter(operation=operation).exists():
        return _leave_wait(operation)
    failures = [command for command in commands if not is_done(command)]
    return _leave_failed(operation, failures) if failures else _leave_done(operation, commands)


# --- entering ------------------------------------------------------------------------------------------------------


def _enter(operation: Operation) -> bool:
    step = current_step(operation)
    if operation.undoing:
        return _enter_undo(operation, step)
    if step is None:
        return _end(operation, OperationState.SUCCEEDED)
    if operation.cancel_requested_at and not _past_no_return(operation):
        return _turn_round(operation, operation.position - 1)
    operation.sent_position = operation.position
    try:
        wanted = step.send(operation)
    except Refused as refusal:
        return _refuse(operation, refusal)
    if isinstance(wanted, Wait):
        Waiter.objects.create(operation=operation, awaited=wanted.awaited)
        transition(operation, OperationState.RUNNING, event="operation.running", sets={"started_at": timezone.now()})
        wanted = ()
    _send_round(operation, wanted)
    return True


def _enter_undo(operation: Operation, step: Step | None) -> bool:
    operation.sent_position = operation.position
    _send_round(operation, step.undo(operation) if step else ())
    return True


def _send_round(operation: Operation, specs: Sequence[CommandSpec]) -> None:
    operation.round += 1
    operation.save(update_fields=["round", "position", "sent_position", "direction", "data", "result", "error"])
    dispatch.publish_after_commit([_create_command(operation, spec).pk for spec in specs])


def _create_command(operation: Operation, spec: CommandSpec) -> Command:
    if not isinstance(spec.payload, KINDS[spec.kind].payload):
        raise TypeError(f"{spec.kind} takes {KINDS[spec.kind].payload.__name__}, not {type(spec.payload).__name__}")
    command = Command.objects.create(
        operation=operation,
        position=operation.position,
        direction=operation.direction,
        round=operation.round,
        agent_id=spec.agent_id,
        kind=spec.kind,
        label=spec.label,
        lane=spec.lane,
        payload=spec.payload.model_dump(mode="json"),
        sealed=_seal(spec),
        seq=issue_seq(spec.agent_id),
    )
    Attempt.objects.create(command=command, number=1)
    return command


def _seal(spec: CommandSpec) -> str | None:
    if not spec.secrets:
        return None
    return seal_to_agent(Agent.objects.only("public_key").get(pk=spec.agent_id).public_key, dict(spec.secrets))


# --- leaving -------------------------------------------------------------------------------------------------------


def _leave_wait(operation: Operation) -> bool:
    waiter = Waiter.objects.select_related("awaited").get(operation=operation)
    if waiter.awaited.state not in OPERATION_FINAL:
        return False
    waiter.delete()
    if waiter.awaited.state == OperationState.SUCCEEDED:
        return _next(operation, operation.position + 1)
    operation.error = waiter.awaited.error
    return _turn_round(operation, operation.position)


def _leave_done(operation: Operation, commands: Sequence[Command]) -> bool:
    if operation.undoing:
        return _next(operation, operation.position - 1) if operation.position else _end_undone(operation)
    step = current_step(operation)
    try:
        for command in commands:
            if step:
                step.done(operation, command)
    except Refused as refusal:
        return _refuse(operation, refusal)
    operation.error = None
    return _next(operation, operation.position + 1)


def _leave_failed(operation: Operation, failures: Sequence[Command]) -> bool:
    step = current_step(operation)
    operation.error = failures[0].error or operation.error
    if operation.undoing or _past_no_return(operation):
        operation.save(update_fields=["error"])
        _show_attention(operation, needed=True)
        return False
    if step and not operation.cancel_requested_at:
        instead = [spec for command in failures for spec in step.failed(operation, command)]
        if instead:
            _keep_done(operation, step)
            _send_round(operation, instead)
            return True
    return _turn_round(operation, operation.position)


def _keep_done(operation: Operation, step: Step) -> None:
    """What succeeded beside a failure is not asked for again, so its answer is taken before the next round."""
    for command in operation.commands.filter(round=operation.round, position=operation.position):
        if is_done(command):
            step.done(operation, command)


def _next(operation: Operation, position: int) -> bool:
    operation.position = position
    operation.sent_position = -1
    operation.save(update_fields=["position", "sent_position", "data", "result", "error"])
    return True


def _turn_round(operation: Operation, position: int) -> bool:
    """Go back, beginning with the step at ``position``; below the first there is nothing to undo."""
    operation.direction = Operation.Direction.UNDO
    operation.save(update_fields=["direction"])
    return _next(operation, position) if position >= 0 else _end_undone(operation)


def _refuse(operation: Operation, refusal: Refused) -> bool:
    operation.error = refusal.problem
    return _turn_round(operation, operation.position)


def _end_undone(operation: Operation) -> bool:
    cancelled = operation.cancel_requested_at is not None and operation.error is None
    return _end(operation, OperationState.CANCELLED if cancelled else OperationState.FAILED)


def _end(operation: Operation, state: OperationState) -> bool:
    now = timezone.now()
    operation.save(update_fields=["data", "result", "error"])
    started = operation.started_at or now
    transition(operation, state, event=f"operation.{state}", sets={"finished_at": now, "started_at": started})
    registry.workflow_of(operation.kind).ended(operation)
    operation.reservations.all().delete()
    waiting = list(operation.waiters.values_list("operation_id", flat=True))
    transaction.on_commit(lambda: _advance_all(waiting), robust=True)
    return False


def _advance_all(operation_ids: Sequence[UUID]) -> None:
    for operation_id in operation_ids:
        advance(operation_id)


def _show_attention(operation: Operation, needed: bool) -> None:
    if needed and operation.state != OperationState.NEEDS_ATTENTION:
        transition(operation, OperationState.NEEDS_ATTENTION, event="operation.needs_attention", level="alarm")
    if not needed and operation.state == OperationState.NEEDS_ATTENTION:
        transition(operation, OperationState.RUNNING, event="operation.running")


def retry_round(operation_id: UUID) -> None:
    """Enter the current step again, if all its commands are final and some failed where nothing can be given up."""
    with transaction.atomic():
        operation = Operation.objects.select_for_update().get(pk=operation_id)
        commands = operation.commands.filter(round=operation.round, position=operation.position)
        if operation.state != OperationState.NEEDS_ATTENTION or any(c.state not in COMMAND_FINAL for c in commands):
            return
        operation.sent_position = -1
        operation.save(update_fields=["sent_position"])
        transition(operation, OperationState.RUNNING, event="operation.retried")
    advance(operation_id)
