"""How an operation goes on, step by step.

A workflow is read top to bottom: a tuple of steps, each with what it sends, what it does with the answers, and how it
is undone. Its position is data in the operation's row. :func:`advance` may be called by anyone at any time and twice:
it looks at what the rows say and takes the steps that can be taken, each in a transaction with the row locked.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from uuid import UUID

from django.db import transaction
from django.db.models import Count
from django.utils import timezone

from agents.protocol.kinds import KINDS, Data
from agents.protocol.states import COMMAND_FINAL, CommandState
from core_app.errors import CloudctlError
from core_app.sealing import seal_to_agent
from core_app.transitions import transition
from infra_app.actions import issue_seq
from infra_app.models import Agent
from operations_app import dispatch, registry
from operations_app.models import Attempt, Command, Operation, Waiter
from operations_app.rules import OPERATION_FINAL, OperationState, Outcome

logger = logging.getLogger("cloudctl.workflow")


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
    """From this step on nothing is undone: a failure is shown as needing attention, and what is not done is sent again
    until it is."""

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


def left_nothing(command: Command) -> bool:
    """Whether nothing of a command that failed is left: its agent says so, or it was never sent.

    One that was to be done again and was cancelled before that was sent has left what its earlier attempt did.
    """
    if command.state == CommandState.CANCELLED:
        return command.attempt == 1 or command.agent_state == CommandState.CANCELLED
    return command.state == CommandState.FAILED


def current_step(operation: Operation) -> Step | None:
    """The step at the operation's position; None past the last."""
    steps = registry.workflow_of(operation.kind).steps
    return steps[operation.position] if operation.position < len(steps) else None


def may_cancel(operation: Operation) -> bool:
    """Whether a cancel would still have an effect."""
    if operation.state in OPERATION_FINAL or operation.undoing or operation.cancel_requested_at:
        return False
    if not registry.knows(operation.kind):
        return False
    return not _past_no_return(operation)


def _past_no_return(operation: Operation) -> bool:
    steps = registry.workflow_of(operation.kind).steps
    # What needs attention on its way forward is past it, also while nothing of its step is sent.
    in_step = operation.sent_position == operation.position or operation.state == OperationState.NEEDS_ATTENTION
    entered = operation.position + 1 if in_step else operation.position
    return any(step.forward_only for step in steps[:entered])


def locked(operation_id: UUID) -> Operation:
    """The operation, locked until the transaction ends. Everything that moves it or its commands takes this lock first.

    The lock lets rows that refer to the operation be written meanwhile: a waiter need not wait for what it waits for.
    """
    return Operation.objects.select_for_update(no_key=True).get(pk=operation_id)


def advance(operation_id: UUID) -> None:
    """Take every step that can be taken now. Idempotent; safe to call from anywhere."""
    with transaction.atomic():
        _advance(locked(operation_id))


def _advance(operation: Operation) -> None:
    while operation.state not in OPERATION_FINAL and _move(operation):
        pass


def _move(operation: Operation) -> bool:
    """One move. False when there is something to wait for, or the operation has ended."""
    if operation.sent_position != operation.position:
        return _enter(operation)
    commands = _round_of(operation)
    if any(command.state not in COMMAND_FINAL for command in commands):
        if any(command.state == CommandState.RECONCILE_FAILED for command in commands):
            _call_for_attention(operation, "It is not known what became of a command.")
        return False
    waiter = Waiter.objects.select_related("awaited").filter(operation=operation).first()
    if waiter:
        return _leave_wait(operation, waiter)
    try:
        return (_leave_done if all(map(is_done, commands)) else _leave_failed)(operation, commands)
    except Refused as refusal:
        return _refuse(operation, refusal.problem)


def _round_of(operation: Operation) -> list[Command]:
    return list(operation.commands.filter(round=operation.round).select_related("agent").order_by("created_at", "pk"))


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
        return _refuse(operation, refusal.problem)
    except CloudctlError as error:
        if operation.round == 0:
            raise  # whoever asks is still there to be told
        return _refuse(operation, _problem_of(error))
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


def _send_round(operation: Operation, specs: Sequence[CommandSpec], message: str = "") -> None:
    """``message``: shown until the commands have something to show."""
    operation.round += 1
    operation.progress = {"message": message} if message else {}
    operation.save(update_fields=["round", "sent_position", "data", "result", "error", "progress"])
    # Each command takes its agent's next number: in one order, or two operations could wait for each other for ever.
    by_agent = sorted(specs, key=lambda spec: str(spec.agent_id))
    dispatch.publish_after_commit([_create_command(operation, spec).pk for spec in by_agent])


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


def _leave_wait(operation: Operation, waiter: Waiter) -> bool:
    awaited = waiter.awaited
    if awaited.state not in OPERATION_FINAL:
        return False
    waiter.delete()
    if awaited.state == OperationState.SUCCEEDED:
        return _next(operation, operation.position + 1)
    return _refuse(operation, awaited.error or _problem_of_awaited(awaited))


def stop_waiting(operation: Operation) -> UUID | None:
    """Put a locked operation back that waits for another one; the other one's id, None when it waits for none."""
    waiter = Waiter.objects.filter(operation=operation).first()
    if waiter is None:
        return None
    waiter.delete()
    _turn_round(operation, operation.position)
    return waiter.awaited_id


def _leave_done(operation: Operation, commands: Sequence[Command]) -> bool:
    if operation.undoing:
        return _next(operation, operation.position - 1) if operation.position else _end_undone(operation)
    _take_answers(operation, commands)
    operation.error = None
    return _next(operation, operation.position + 1)


def _take_answers(operation: Operation, commands: Sequence[Command]) -> None:
    step = current_step(operation)
    for command in commands:
        if step and is_done(command):
            step.done(operation, command)


def _leave_failed(operation: Operation, commands: Sequence[Command]) -> bool:
    step = current_step(operation)
    failures = [command for command in commands if not is_done(command)]
    if operation.undoing or _past_no_return(operation):
        return _need_attention(operation, _error_of(failures))
    operation.error = None if operation.cancel_requested_at else _error_of(failures)
    if step and not operation.cancel_requested_at:
        instead = [step.failed(operation, command) for command in failures]
        if all(instead):
            # What succeeded beside a failure is not asked for again, so its answer is taken before the next round.
            _take_answers(operation, commands)
            _send_round(operation, [spec for specs in instead for spec in specs], _retry_message(failures))
            return True
    return _turn_round(operation, operation.position)


def _error_of(failures: Sequence[Command]) -> dict[str, Any]:
    """The first error that says something; a command that was cancelled has none."""
    errors = [command.error for command in failures if command.error]
    return errors[0] if errors else _problem_of_cancelled(failures[0])


def _retry_message(failures: Sequence[Command]) -> str:
    causes = dict.fromkeys(command.error["cause"] for command in failures if command.error)
    return f"{' '.join(causes)} It is tried again." if causes else ""


def _need_attention(operation: Operation, problem: dict[str, Any]) -> bool:
    """Nothing can be given up: it is shown to people, and sent again by the sweep. The first cause stays."""
    if not operation.undoing or operation.error is None:
        operation.error = problem
    operation.save(update_fields=["error", "sent_position", "data"])
    _call_for_attention(operation, problem["cause"])
    return False


def _next(operation: Operation, position: int) -> bool:
    operation.position = position
    operation.sent_position = -1
    operation.save(update_fields=["position", "sent_position", "data", "result", "error"])
    if operation.state == OperationState.NEEDS_ATTENTION:
        transition(operation, OperationState.RUNNING, event="operation.running")
    return True


def _turn_round(operation: Operation, position: int) -> bool:
    """Go back, beginning with the step at ``position``; below the first there is nothing to undo."""
    operation.direction = Operation.Direction.UNDO
    operation.save(update_fields=["direction"])
    return _next(operation, position) if position >= 0 else _end_undone(operation)


def _refuse(operation: Operation, problem: dict[str, Any]) -> bool:
    """The present step cannot be gone through with."""
    if _past_no_return(operation):
        operation.sent_position = -1
        return _need_attention(operation, problem)
    operation.error = problem
    return _turn_round(operation, operation.position)


def _end_undone(operation: Operation) -> bool:
    if operation.cancel_requested_at is None:
        return _end(operation, OperationState.FAILED)
    operation.error = None
    return _end(operation, OperationState.CANCELLED)


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
        try:
            advance(operation_id)
        except Exception:  # the sweep finds it
            logger.exception("operation.not_advanced", extra={"fields": {"operation": str(operation_id)}})


def _call_for_attention(operation: Operation, why: str) -> None:
    """Until it gets past the present step."""
    if operation.state != OperationState.NEEDS_ATTENTION:
        event = "operation.needs_attention"
        transition(operation, OperationState.NEEDS_ATTENTION, event=event, message=why, level="alarm")


def retry_round(operation_id: UUID) -> None:
    """Enter the current step again, if all its commands are final and some failed where nothing can be given up."""
    with transaction.atomic():
        operation = locked(operation_id)
        commands = _round_of(operation)
        settled = all(command.state in COMMAND_FINAL for command in commands)
        if operation.state == OperationState.NEEDS_ATTENTION and settled and not all(map(is_done, commands)):
            if not operation.undoing:
                _take_answers(operation, commands)
            operation.sent_position = -1
        _advance(operation)


def rounds_of_step(operation: Operation) -> int:
    """How many rounds of commands the current step has had, in the present direction."""
    same = operation.commands.filter(position=operation.position, direction=operation.direction)
    return same.aggregate(rounds=Count("round", distinct=True))["rounds"] or 0


# --- problems ------------------------------------------------------------------------------------------------------


def _problem_of(error: CloudctlError) -> dict[str, Any]:
    return {name: getattr(error, name) for name in ("code", "cause", "consequence", "remedy")}


def _problem_of_awaited(awaited: Operation) -> dict[str, Any]:
    return {
        "code": "awaited_cancelled",
        "cause": f"{awaited} was cancelled, which this operation waited for.",
        "consequence": "It was not gone on with.",
        "remedy": "Ask for it again.",
    }


def _problem_of_cancelled(command: Command) -> dict[str, Any]:
    return {
        "code": "command_cancelled",
        "cause": f"{command.kind} was cancelled on {command.agent}.",
        "consequence": "It was not done.",
        "remedy": "Ask for it again.",
    }
