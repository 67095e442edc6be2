"""``operations/`` and ``commands/``."""

from functools import partial
from typing import Any, ClassVar

from django.db.models import Prefetch
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts_app.tenancy import user_of
from agents.protocol.states import CommandState
from core_app import dry_run
from core_app.accepted import Accepted
from core_app.filters import FieldFilterSet
from core_app.serializers import ReferenceSerializer, StrictSerializer
from core_app.viewsets import PolledViewSet, ReadViewSet
from operations_app import actions, registry
from operations_app.models import Attempt, Command, Operation
from operations_app.rules import Judgement, eta_seconds_of, percent_of
from operations_app.workflow import may_cancel


class ProblemPartsSerializer(serializers.Serializer[Any]):
    """Why something did not succeed."""

    code = serializers.CharField(help_text="Stable")
    cause = serializers.CharField()
    consequence = serializers.CharField()
    remedy = serializers.CharField()


class ProgressSerializer(serializers.Serializer[Any]):
    """Progress of the present step, over all its commands."""

    done_bytes = serializers.IntegerField(default=0)
    total_bytes = serializers.IntegerField(default=0, help_text="0: unknown")
    rate = serializers.IntegerField(default=0, help_text="Bytes a second")
    eta_seconds = serializers.SerializerMethodField()
    message = serializers.CharField(default="")

    @extend_schema_field(serializers.IntegerField(allow_null=True))
    def get_eta_seconds(self, progress: dict[str, Any]) -> int | None:
        return eta_seconds_of(progress)


class OperationSerializer(serializers.ModelSerializer[Operation]):
    """Something that was asked for, to be watched and cancelled."""

    target = serializers.SerializerMethodField()
    may_cancel = serializers.SerializerMethodField(help_text="Whether a cancel would still have an effect")
    step = serializers.SerializerMethodField(help_text="Name of the present step; null past the last")
    steps = serializers.SerializerMethodField(help_text="Names of all steps, in order")
    percent = serializers.SerializerMethodField(help_text="100 only when it succeeded")
    progress = ProgressSerializer(source="shown_progress", read_only=True)
    error = ProblemPartsSerializer(read_only=True, allow_null=True)
    result = serializers.JSONField(read_only=True, allow_null=True)
    commands = serializers.PrimaryKeyRelatedField[Command](many=True, read_only=True)

    class Meta:
        model = Operation
        fields: ClassVar = [
            "id",
            "kind",
            "target",
            "account",
            "state",
            "direction",
            "may_cancel",
            "cancel_requested_at",
            "step",
            "steps",
            "percent",
            "progress",
            "error",
            "result",
            "created_at",
            "started_at",
            "finished_at",
            "requested_by",
            "commands",
        ]

    @extend_schema_field(ReferenceSerializer)
    def get_target(self, operation: Operation) -> dict[str, str]:
        return {"type": operation.target_type, "id": str(operation.target_id), "name": operation.target_name}

    def get_may_cancel(self, operation: Operation) -> bool:
        return may_cancel(operation)

    def get_step(self, operation: Operation) -> str | None:
        names = registry.step_names(operation.kind)
        return names[operation.position] if operation.position < len(names) else None

    def get_steps(self, operation: Operation) -> list[str]:
        return registry.step_names(operation.kind)

    def get_percent(self, operation: Operation) -> int:
        progress = operation.shown_progress if operation.sent_position == operation.position else {}
        steps = len(registry.step_names(operation.kind))
        return percent_of(operation.state, operation.position, steps, progress)


class SettleSerializer(StrictSerializer):
    """A person's word for what became of a command."""

    verdict = serializers.ChoiceField(choices=[verdict.value for verdict in registry.BY_PERSON_ANY])
    note = serializers.CharField(max_length=1000, help_text="How you know; it is kept with your name")
    command = serializers.UUIDField(required=False, help_text="Which one, where several are in question")


class PlannedCommandSerializer(serializers.Serializer[Any]):
    """A command that would be sent at once."""

    kind = serializers.CharField()
    agent = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]  # a member, not the label of a field


class SettlePlanSerializer(serializers.Serializer[Any]):
    """What the operation would be after a verdict."""

    state = serializers.CharField()
    direction = serializers.CharField()
    step = serializers.CharField(allow_null=True)
    error = ProblemPartsSerializer(allow_null=True)
    commands = PlannedCommandSerializer(many=True)


class AttemptSerializer(serializers.ModelSerializer[Attempt]):
    """One try of a command; the second and later come from a verdict to begin anew."""

    class Meta:
        model = Attempt
        fields: ClassVar = ["number", "reason", "epoch", "created_at", "times_sent", "ended"]


class CommandSerializer(serializers.ModelSerializer[Command]):
    """One piece of an operation, done by one agent."""

    attempts = AttemptSerializer(many=True, read_only=True)
    epoch = serializers.SerializerMethodField(help_text="The agent's epoch when it was last sent; null: never sent")
    progress = ProgressSerializer(read_only=True)
    error = ProblemPartsSerializer(read_only=True, allow_null=True)

    class Meta:
        model = Command
        fields: ClassVar = [
            "id",
            "operation",
            "agent",
            "kind",
            "label",
            "state",
            "outcome",
            "agent_state",
            "attempt",
            "attempts",
            "epoch",
            "seq",
            "created_at",
            "sent_at",
            "started_at",
            "finished_at",
            "deadline_at",
            "cancel_requested_at",
            "reconcile_attempts",
            "evidence",
            "error",
            "progress",
        ]

    def get_epoch(self, command: Command) -> int | None:
        return max((attempt.epoch for attempt in command.attempts.all() if attempt.epoch is not None), default=None)


class OperationFilterSet(FieldFilterSet):
    class Meta(FieldFilterSet.Meta):
        model = Operation
        fields: ClassVar = ["state", "kind", "target_id", "target_type", "account"]


class OperationViewSet(PolledViewSet):
    """What was asked for and what became of it, newest first. Its ETag makes polling cheap: 304 if nothing changed."""

    queryset = Operation.objects.select_related("waits_for__awaited").prefetch_related(
        Prefetch("commands", Command.objects.only("id", "operation_id").order_by("created_at", "id"))
    )
    serializer_class = OperationSerializer
    filterset_class = OperationFilterSet
    writable_by_users: ClassVar = ("cancel",)
    query_parameters: ClassVar = {"settle": {"dry_run"}}

    @extend_schema(request=None, responses={202: OperationSerializer})
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        """Have it put back as it was: at once where nothing began, else on its hosts' word. 409: it is too late."""
        return Accepted(actions.cancel(self.get_object().pk))

    @extend_schema(
        request=SettleSerializer,
        parameters=[dry_run.PARAMETER],
        responses={200: SettlePlanSerializer, 202: OperationSerializer},
    )
    @action(detail=True, methods=["post"])
    def settle(self, request: Request, pk: str) -> Response:
        """Say what became of its command that nobody could find out; it goes on as if evidence had said so.

        409: it does not need attention. 400: the kind of command does not allow the verdict.
        """
        given = SettleSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        said = actions.Settlement(**given.validated_data | {"verdict": Judgement(given.validated_data["verdict"])})
        settle = partial(actions.settle, self.get_object().pk, said, user_of(request))
        if dry_run.wanted(request):
            return Response(dry_run.rehearse(settle, after_settling))
        return Accepted(settle())


def after_settling(operation: Operation) -> dict[str, Any]:
    """What the operation is after a verdict, see ``SettlePlanSerializer``."""
    waiting = operation.commands.filter(state=CommandState.CREATED).select_related("agent").order_by("seq")
    return {
        **{name: OperationSerializer(operation).data[name] for name in ("state", "direction", "step", "error")},
        "commands": [
            {"kind": command.kind, "agent": command.agent.name, "label": command.label} for command in waiting
        ],
    }


class CommandViewSet(ReadViewSet):
    """The pieces of operations, newest first."""

    queryset = Command.objects.defer("payload", "sealed").prefetch_related(
        Prefetch("attempts", Attempt.objects.order_by("number"))
    )
    serializer_class = CommandSerializer
    filterset_fields: ClassVar = ["operation", "agent", "kind", "state"]

    @extend_schema(request=None, responses={202: OperationSerializer})
    @action(detail=True, methods=["post"])
    def reconcile(self, request: Request, pk: str) -> Response:
        """Ask its host at once what is true about it. 409: its outcome is not in doubt, or the host cannot be asked."""
        return Accepted(actions.reconcile_now(self.get_object().pk).operation)


routes = [("operations", OperationViewSet, "operation"), ("commands", CommandViewSet, "command")]
