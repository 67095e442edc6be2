"""Operations (what a user asked for) and commands (what one agent does for it)."""

import uuid
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q

from agents.protocol.states import COMMAND_OPEN, CommandState
from core_app.transitions import StateMachine
from operations_app.rules import COMMAND_MOVES, OPERATION_MOVES, OPERATION_OPEN, OperationState

_COMMAND_OPEN = sorted(COMMAND_OPEN)
_OPERATION_OPEN = sorted(OPERATION_OPEN)


class Operation(models.Model):
    """Something a user asked for, which can be watched, cancelled and settled.

    Its position is data: ``position`` (index of the step), ``direction`` and ``round`` (how often commands were sent),
    so that any management server can take any step.
    """

    machine: ClassVar[StateMachine] = StateMachine(OPERATION_MOVES)

    class Direction(models.TextChoices):
        DO = "do"
        UNDO = "undo"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=64)
    target_type = models.CharField(max_length=32)
    target_id = models.UUIDField()
    target_name = models.CharField(max_length=255)
    account = models.ForeignKey("accounts_app.Account", null=True, on_delete=models.SET_NULL, related_name="operations")
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    state = models.CharField(
        max_length=16, default=OperationState.PENDING, choices=[(state.value, state.value) for state in OperationState]
    )
    position = models.PositiveSmallIntegerField(default=0)
    direction = models.CharField(max_length=4, choices=Direction.choices, default=Direction.DO)
    round = models.PositiveIntegerField(default=0)
    """Number of the last round of commands; 0 before the first."""
    sent_position = models.SmallIntegerField(default=-1)
    """The step whose commands the current round holds; -1 when the step at ``position`` was not entered yet."""
    data = models.JSONField(default=dict)
    """What the workflow remembers from step to step. Never secrets."""
    progress = models.JSONField(default=dict)
    error = models.JSONField(null=True, default=None)
    result = models.JSONField(null=True, default=None)
    cancel_requested_at = models.DateTimeField(null=True, default=None)
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, default=None)
    finished_at = models.DateTimeField(null=True, default=None)

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="operation_newest"),
            models.Index(fields=["state", "created_at", "id"], name="operation_by_state"),
            models.Index(fields=["kind", "created_at", "id"], name="operation_by_kind"),
            models.Index(fields=["account", "created_at", "id"], name="operation_by_account"),
            models.Index(fields=["target_id", "created_at", "id"], name="operation_by_target"),
            models.Index(fields=["state"], name="operation_open", condition=Q(state__in=_OPERATION_OPEN)),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.target_name}"[:255]  # an event's target_name takes no more

    @staticmethod
    def visible_to_account(account_id: uuid.UUID) -> Q:
        return Q(account_id=account_id)

    @property
    def shown_progress(self) -> dict[str, Any]:
        """Its own; while it waits for another operation, that one's."""
        waiter = getattr(self, "waits_for", None)
        return dict(waiter.awaited.progress if waiter else self.progress)

    @property
    def undoing(self) -> bool:
        return self.direction == self.Direction.UNDO


class Command(models.Model):
    """One piece of an operation, done by one agent. A row before it is a message."""

    machine: ClassVar[StateMachine] = StateMachine(COMMAND_MOVES)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    operation = models.ForeignKey(Operation, on_delete=models.PROTECT, related_name="commands")
    position = models.PositiveSmallIntegerField()
    direction = models.CharField(max_length=4, choices=Operation.Direction.choices)
    round = models.PositiveIntegerField()
    agent = models.ForeignKey("infra_app.Agent", on_delete=models.PROTECT, related_name="commands")
    kind = models.CharField(max_length=64)
    label = models.CharField(max_length=255, default="", blank=True)
    """What the workflow calls it, such as the id of the volume that it makes."""
    lane = models.CharField(max_length=160)
    payload = models.JSONField()
    sealed = models.TextField(null=True, default=None)  # noqa: DJ001  (absent is not the same as empty)
    state = models.CharField(
        max_length=16, default=CommandState.CREATED, choices=[(state.value, state.value) for state in CommandState]
    )
    outcome = models.CharField(max_length=8, default="", blank=True)
    agent_state = models.CharField(max_length=16, default="", blank=True)
    attempt = models.PositiveSmallIntegerField(default=1)
    seq = models.BigIntegerField()
    answer = models.JSONField(null=True, default=None)
    error = models.JSONField(null=True, default=None)
    progress = models.JSONField(default=dict)
    evidence = models.JSONField(null=True, default=None)
    """The last answer to a probe, with the verdict and its reason."""
    probe_id = models.UUIDField(null=True, default=None)
    probed_at = models.DateTimeField(null=True, default=None)
    reconcile_attempts = models.PositiveIntegerField(default=0)
    cancel_requested_at = models.DateTimeField(null=True, default=None)
    created_at = models.DateTimeField(auto_now_add=True)
    sent_at = models.DateTimeField(null=True, default=None)
    seen_at = models.DateTimeField(null=True, default=None)
    """When the agent last said something new of it."""
    facts_begun = models.BigIntegerField(default=0)
    """Number of the agent's newest look at libvirt when the command's end was told; older looks say nothing of it."""
    started_at = models.DateTimeField(null=True, default=None)
    deadline_at = models.DateTimeField(null=True, default=None)
    finished_at = models.DateTimeField(null=True, default=None)

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [models.UniqueConstraint(fields=["agent", "seq"], name="command_seq_once_an_agent")]
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="command_newest"),
            models.Index(fields=["state", "created_at", "id"], name="command_by_state"),
            models.Index(fields=["kind", "created_at", "id"], name="command_by_kind"),
            models.Index(fields=["agent", "created_at", "id"], name="command_by_agent"),
            models.Index(fields=["operation", "round"], name="command_round"),
            models.Index(fields=["agent", "seq"], name="command_open", condition=Q(state__in=_COMMAND_OPEN)),
            models.Index(fields=["state", "deadline_at"], name="command_due", condition=Q(state__in=_COMMAND_OPEN)),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"

    @staticmethod
    def visible_to_account(account_id: uuid.UUID) -> Q:
        return Q(operation__account_id=account_id)


class Attempt(models.Model):
    """One try of a command; attempt 2 and later come from a verdict to redo."""

    command = models.ForeignKey(Command, on_delete=models.CASCADE, related_name="attempts")
    number = models.PositiveSmallIntegerField()
    reason = models.CharField(max_length=1024, default="", blank=True)
    """Why this attempt was made."""
    epoch = models.BigIntegerField(null=True, default=None)
    created_at = models.DateTimeField(auto_now_add=True)
    times_sent = models.PositiveIntegerField(default=0)
    ended = models.CharField(max_length=16, default="", blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["command", "number"], name="attempt_once_a_command")]

    def __str__(self) -> str:
        return f"{self.command_id} attempt {self.number}"


class Reservation(models.Model):
    """An open operation's hold on something. Kept until the operation is settled."""

    operation = models.ForeignKey(Operation, on_delete=models.CASCADE, related_name="reservations")
    resource_type = models.CharField(max_length=32)
    resource_id = models.UUIDField()
    exclusive = models.BooleanField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["resource_type", "resource_id"], name="reservation_exclusive_once", condition=Q(exclusive=True)
            ),
            models.UniqueConstraint(
                fields=["operation", "resource_type", "resource_id"], name="reservation_once_an_operation"
            ),
        ]
        indexes = [models.Index(fields=["resource_type", "resource_id"], name="reservation_resource")]

    def __str__(self) -> str:
        return f"{self.resource_type} {self.resource_id}"


class Waiter(models.Model):
    """``operation`` goes on when ``awaited`` is settled; with its last waiter gone, ``awaited`` is cancelled."""

    operation = models.OneToOneField(Operation, on_delete=models.CASCADE, related_name="waits_for")
    awaited = models.ForeignKey(Operation, on_delete=models.CASCADE, related_name="waiters")

    def __str__(self) -> str:
        return f"{self.operation_id} waits for {self.awaited_id}"


class ControlPulse(models.Model):
    """One row: when ``control`` was last consumed, and since when without a gap. Silence counts from there."""

    last_at = models.DateTimeField()
    resumed_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"consumed since {self.resumed_at}"
