"""What may be asked for: to submit, cancel, reconcile and settle. All rows of a request in one transaction."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from django.db import IntegrityError, models, transaction
from django.utils import timezone

from accounts_app.models import User
from agents.protocol.states import COMMAND_FINAL, CommandState
from core_app import events
from core_app.errors import Busy, InvalidInput, WrongState
from core_app.references import reference
from core_app.transitions import transition
from operations_app import dispatch, registry
from operations_app.models import Command, Operation, Reservation
from operations_app.reconciliation import ASKABLE, ask_after_commit, may_ask
from operations_app.reconciliation import settle as settle_command
from operations_app.rules import OPERATION_FINAL, Judgement, OperationState
from operations_app.workflow import advance, is_done, locked, may_cancel, retry_round, stop_waiting

Resource = tuple[str, UUID]


def submit(  # noqa: PLR0913  (who asks for what, about what, holding what)
    kind: str,
    target: models.Model,
    *,
    exclusive: Iterable[Resource] = (),
    shared: Iterable[Resource] = (),
    data: dict[str, Any] | None = None,
    user: User | None = None,
) -> Operation:
    """Write an operation with its reservations and first commands; they are published after the commit.

    Must be called in the transaction that wrote the rows that it is about. Raises Busy, naming the operation that holds
    what is needed; then nothing of it was written.
    """
    named = reference(target)
    with transaction.atomic():
        operation = Operation.objects.create(
            kind=kind,
            target_type=named["type"],
            target_id=target.pk,
            target_name=named["name"],
            account_id=getattr(target, "account_id", None),
            requested_by=user,
            data=data or {},
        )
        reserve(operation, exclusive=exclusive, shared=shared)
        events.record("operation.created", operation, str(operation))
        advance(operation.pk)
    operation.refresh_from_db()
    return operation


def reserve(operation: Operation, *, exclusive: Iterable[Resource] = (), shared: Iterable[Resource] = ()) -> None:
    """Take all or none; what the operation has already it keeps as it is. Raises Busy, naming the holder.

    Raises LookupError for a shared reservation of a type that is not registered as lockable: nothing would keep it
    apart from an exclusive one that is taken at the same moment.
    """
    wanted = dict.fromkeys(shared, False) | dict.fromkeys(exclusive, True)
    _lock(wanted)
    for resource in operation.reservations.all():
        wanted.pop((resource.resource_type, resource.resource_id), None)
    for (resource_type, resource_id), is_exclusive in sorted(wanted.items()):
        held = Reservation.objects.filter(resource_type=resource_type, resource_id=resource_id)
        blocking = held if is_exclusive else held.filter(exclusive=True)
        holder = blocking.select_related("operation").first()
        if holder:
            raise _busy(holder.operation)
    try:
        with transaction.atomic():
            Reservation.objects.bulk_create(
                Reservation(operation=operation, resource_type=kind, resource_id=pk, exclusive=is_exclusive)
                for (kind, pk), is_exclusive in sorted(wanted.items())
            )
    except IntegrityError:
        held = Reservation.objects.filter(exclusive=True, resource_id__in=[pk for _, pk in wanted])
        holder = held.exclude(operation=operation).select_related("operation").first()
        raise _busy(holder.operation if holder else None) from None


def _lock(wanted: dict[Resource, bool]) -> None:
    """Lock the rows in the order of type and id, so that two requests never wait for each other."""
    for resource_type in sorted({kind for kind, _ in wanted}):
        ids = [pk for kind, pk in wanted if kind == resource_type]
        model = registry.lockable_model(resource_type)
        if model is not None:
            rows = model._base_manager.select_for_update(no_key=True).filter(pk__in=ids).order_by("pk")
            list(rows.values_list("pk"))
        elif not all(wanted[resource_type, pk] for pk in ids):
            raise LookupError(f"{resource_type} is not registered as lockable, so it cannot be shared")


def _busy(holder: Operation | None) -> Busy:
    return Busy(
        f"{holder.kind} of {holder.target_name} is under way." if holder else "Another operation is under way.",
        "The request was not accepted and nothing was changed.",
        "Wait for that operation, or cancel it.",
        operation=holder.pk if holder else None,
    )


def cancel(operation_id: UUID) -> Operation:
    """Ask an operation to go back. Raises WrongState when it has ended, goes back already, or it is too late."""
    with transaction.atomic():
        operation = locked(operation_id)
        if not may_cancel(operation):
            raise WrongState(
                _why_no_cancel(operation),
                "Nothing was changed.",
                _instead_of_cancel(operation),
                operation=operation.pk,
            )
        operation.cancel_requested_at = timezone.now()
        operation.save(update_fields=["cancel_requested_at"])
        events.record("operation.cancel_requested", operation)
        in_round = operation.commands.filter(round=operation.round).select_related("agent")
        for command in in_round.exclude(state__in=COMMAND_FINAL).order_by("pk"):
            request_cancel(command)
        awaited_id = stop_waiting(operation)
        if awaited_id:
            transaction.on_commit(partial(cancel_if_unwanted, awaited_id), robust=True)
        advance(operation_id)
    operation.refresh_from_db()
    return operation


def _why_no_cancel(operation: Operation) -> str:
    if operation.state in OPERATION_FINAL:
        return f"The operation has already {operation.state}."
    if operation.cancel_requested_at or operation.undoing:
        return "The operation is already being put back."
    return "The operation is past its point of no return; a cancel comes too late."


def _instead_of_cancel(operation: Operation) -> str:
    if operation.state == OperationState.SUCCEEDED:
        return "There is nothing left to cancel. To be rid of what it did, ask for the opposite."
    if operation.state in OPERATION_FINAL:
        return "There is nothing left to cancel: it has left nothing behind."
    if operation.cancel_requested_at or operation.undoing:
        return "Wait until it has ended."
    return "Wait until it has ended; then ask for the opposite if there is one."


def request_cancel(command: Command) -> None:
    """Cancel a command: at once when it was certainly never published, else on its agent's word."""
    now = timezone.now()
    where = {"sent_at": None}
    sets = {"cancel_requested_at": now, "finished_at": now}
    if command.state == CommandState.CREATED and transition(
        command, CommandState.CANCELLED, event="command.cancelled", sets=sets, where=where
    ):
        return
    Command.objects.filter(pk=command.pk, cancel_requested_at=None).update(cancel_requested_at=now)
    transaction.on_commit(partial(dispatch.send_cancel, command), robust=True)


def cancel_waiting(command: Command) -> None:
    """Cancel a command that was not started in time; its operation goes back and says why."""
    error = {
        "code": "not_started_in_time",
        "cause": f"{command.agent} did not start {command.kind} in time.",
        "consequence": "It was taken back.",
        "remedy": "Look whether the host is up and what it is busy with; then ask again.",
        "elsewhere": True,
    }
    with transaction.atomic():
        locked(command.operation_id)
        Command.objects.filter(pk=command.pk, error__isnull=True).update(error=error)
        request_cancel(command)
        advance(command.operation_id)


def cancel_if_unwanted(operation_id: UUID) -> None:
    """Cancel shared work that was begun for waiters and has none left."""
    with transaction.atomic():
        operation = locked(operation_id)
        if operation.data.get("for_waiters") and may_cancel(operation) and not operation.waiters.exists():
            cancel(operation_id)


def reconcile_now(command_id: UUID) -> Command:
    """Ask for evidence about a command at once; one that failed where nothing can be given up is tried again at once.

    Raises WrongState: its outcome is not in doubt, or its host is away.
    """
    command = Command.objects.select_related("agent", "operation").get(pk=command_id)
    if waits_for_another_try(command):
        retry_round(command.operation_id)
        command.operation.refresh_from_db()
        return command
    if command.state not in ASKABLE:
        raise WrongState(
            f"The command is {command.state}.",
            "There is nothing to reconcile.",
            "Reconcile commands whose outcome is in doubt: " + ", ".join(sorted(ASKABLE)) + ".",
            operation=command.operation_id,
        )
    if not may_ask(command.agent):
        raise WrongState(
            f"{command.agent} is {'ahead of the database' if command.agent.ahead else command.agent.state}.",
            "It cannot be asked; nothing was changed.",
            "Bring it up: it is asked as soon as it says hello.",
            operation=command.operation_id,
        )
    with transaction.atomic():
        ask_after_commit(command)
    command.refresh_from_db()
    return command


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a person says became of a command, and why they know. ``command`` None: there is but one in question."""

    verdict: Judgement
    note: str
    command: UUID | None = None


def settle(operation_id: UUID, said: Settlement, user: User) -> Operation:
    """Go on with an operation that needs attention from a person's word, as if evidence had given it.

    Raises WrongState when it needs no attention, or no command of it is in question; InvalidInput when the command is
    not one of those, or its kind does not allow the verdict.
    """
    with transaction.atomic():
        operation = locked(operation_id)
        if operation.state != OperationState.NEEDS_ATTENTION:
            raise WrongState(
                f"The operation is {operation.state}.",
                "Nothing was settled.",
                "Only an operation that needs attention is settled by a person.",
                operation=operation.pk,
            )
        command = _in_question(operation, said)
        _check_verdict(command, said.verdict)
        message = f"{user.name} settled {command} as {said.verdict}: {said.note}"
        details = {"command": str(command.pk), "verdict": said.verdict, "note": said.note, "by": str(user.pk)}
        events.record("operation.settled", operation, message, details=details, level="warning")
        if said.verdict is Judgement.REDO and command.state in COMMAND_FINAL:
            retry_round(operation_id)
        else:
            settle_command(command, said.verdict, said.note, user.name)
            advance(operation_id)
        dispatch.publish_after_commit([command.pk] if command.state == CommandState.CREATED else [])
    operation.refresh_from_db()
    return operation


def _in_question(operation: Operation, said: Settlement) -> Command:
    in_round = operation.commands.filter(round=operation.round).select_related("agent").order_by("seq")
    open_ones = [command for command in in_round if _is_open_question(command)]
    chosen = [command for command in open_ones if said.command in {None, command.pk}]
    if not open_ones:
        raise WrongState(
            "No command of it is in question.",
            "Nothing was settled.",
            "Its error says what it waits for; it is tried again by itself.",
            operation=operation.pk,
        )
    if len(chosen) != 1:
        choices = ", ".join(f"{command.pk} ({command.kind} on {command.agent})" for command in open_ones)
        raise InvalidInput(
            "It is not clear which command is meant." if chosen else "That command is not in question.",
            "Nothing was settled.",
            f"Name one of: {choices}.",
            errors={"command": ["Name one that is in question."]},
        )
    return chosen[0]


def _is_open_question(command: Command) -> bool:
    return command.state == CommandState.RECONCILE_FAILED or (command.state in COMMAND_FINAL and not is_done(command))


def _check_verdict(command: Command, verdict: Judgement) -> None:
    allowed = set(registry.verdicts_by_person(command.kind))
    if command.state in COMMAND_FINAL:
        allowed &= {Judgement.DONE, Judgement.REDO}  # that it is undone is known already
    if verdict not in allowed:
        raise InvalidInput(
            f"{command.kind} in state {command.state} cannot be settled as {verdict}.",
            "Nothing was settled.",
            f"It can be settled as {' or '.join(sorted(allowed)) or 'nothing'}.",
            errors={"verdict": [f"Allowed: {', '.join(sorted(allowed)) or 'none'}."]},
        )


def waits_for_another_try(command: Command) -> bool:
    """Whether a command failed where nothing can be given up, so that it is sent again until it is done."""
    operation = command.operation
    stuck = operation.state == OperationState.NEEDS_ATTENTION and operation.round == command.round
    return stuck and command.state in COMMAND_FINAL and not is_done(command)
