"""``zones/``, ``hosts/``, ``hosts/join-tokens/``, ``storage-pools/`` and ``agents/join/``."""

from datetime import timedelta
from typing import Any, ClassVar

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_serializer
from rest_framework import mixins, serializers, status
from rest_framework.decorators import action
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from core_app.schema import AN_ID, request_example
from core_app.viewsets import ReadViewSet, RoomViewSet
from infra_app import actions, hooks
from infra_app.models import Agent, JoinToken, StoragePool, Zone

JOIN_TOKEN_SECONDS = 3600
YEAR_SECONDS = 365 * 86_400


@extend_schema_serializer(examples=[request_example({"name": "north"})])
class ZoneSerializer(serializers.ModelSerializer[Zone]):
    class Meta:
        model = Zone
        fields: ClassVar = ["id", "name", "enabled", "deletions_suspended", "created_at"]
        read_only_fields: ClassVar = ["enabled", "deletions_suspended"]
        # The action says it better, and a check beforehand proves nothing about the insertion.
        extra_kwargs: ClassVar[dict[str, Any]] = {"name": {"validators": []}}


class HostSerializer(serializers.ModelSerializer[Agent]):
    """A host: its agent, and what the agent says of its machine."""

    last_ping = serializers.DateTimeField(source="last_ping_at", read_only=True, allow_null=True)
    libvirt_version = serializers.CharField(source="host.libvirt_version", read_only=True)
    qemu_version = serializers.CharField(source="host.qemu_version", read_only=True)
    accelerator = serializers.CharField(source="host.accelerator", read_only=True)
    accelerator_reason = serializers.CharField(source="host.accelerator_reason", read_only=True)
    cpus = serializers.IntegerField(source="host.cpus", read_only=True)
    memory_bytes = serializers.IntegerField(source="host.memory_bytes", read_only=True)
    running_commands = serializers.IntegerField(read_only=True)

    class Meta:
        model = Agent
        fields: ClassVar = [
            "id",
            "name",
            "zone",
            "state",
            "last_ping",
            "epoch",
            "ahead",
            "agent_version",
            "libvirt_version",
            "qemu_version",
            "accelerator",
            "accelerator_reason",
            "cpus",
            "memory_bytes",
            "running_commands",
            "joined_at",
        ]


@extend_schema_serializer(
    examples=[request_example({"name": "fast", "zone": AN_ID, "type": "shared", "path": "/srv/pools/fast"})]
)
class StoragePoolSerializer(serializers.ModelSerializer[StoragePool]):
    class Meta:
        model = StoragePool
        fields: ClassVar = [
            "id",
            "name",
            "zone",
            "type",
            "path",
            "host",
            "capacity_bytes",
            "available_bytes",
            "created_at",
        ]
        read_only_fields: ClassVar = ["capacity_bytes", "available_bytes"]
        validators: ClassVar[list[Any]] = []


class JoinTokenSerializer(serializers.ModelSerializer[JoinToken]):
    class Meta:
        model = JoinToken
        fields: ClassVar = ["id", "zone", "role", "reusable", "expires_at", "used_at", "created_at"]


@extend_schema_serializer(examples=[request_example({"zone": AN_ID, "role": "host", "valid_seconds": 3600})])
class NewJoinTokenSerializer(serializers.Serializer[Any]):
    """What a new join token is good for. No role: any."""

    zone = serializers.PrimaryKeyRelatedField(queryset=Zone.objects.all())
    role = serializers.ChoiceField(choices=Agent.Role.choices, allow_blank=True, default="")
    reusable = serializers.BooleanField(default=False)
    valid_seconds = serializers.IntegerField(min_value=1, max_value=YEAR_SECONDS, default=JOIN_TOKEN_SECONDS)


class JoinTokenSecretSerializer(JoinTokenSerializer):
    """A new join token; its secret is shown this once."""

    join_token = serializers.CharField(read_only=True)

    class Meta(JoinTokenSerializer.Meta):
        fields: ClassVar = [*JoinTokenSerializer.Meta.fields, "join_token"]


class JoinSerializer(serializers.Serializer[Any]):
    """What an agent sends once, to be taken in."""

    join_token = serializers.CharField(max_length=256, write_only=True)
    name = serializers.RegexField(r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=255)
    role = serializers.ChoiceField(choices=Agent.Role.choices)
    host_uuid = serializers.CharField(max_length=64)
    machine_id = serializers.CharField(max_length=64, allow_blank=True)
    public_key = serializers.CharField(max_length=64)


class JoinedSerializer(serializers.Serializer[Any]):
    """What an agent needs to go on without HTTP."""

    id = serializers.UUIDField()
    broker_url = serializers.CharField()
    queue_prefix = serializers.CharField(help_text="Its command queue; its control queue is this and .control")
    epoch_floor = serializers.IntegerField(help_text="It starts above this epoch")
    settings = serializers.DictField()


class ZoneViewSet(mixins.CreateModelMixin, ReadViewSet):
    queryset = Zone.objects.all()
    serializer_class = ZoneSerializer
    filterset_fields: ClassVar = ["name", "enabled"]
    ordering_fields = ("name",)

    def perform_create(self, serializer: serializers.BaseSerializer[Any]) -> None:
        serializer.instance = actions.zone_create(serializer.validated_data["name"])


class HostViewSet(ReadViewSet):
    queryset = Agent.objects.filter(role=Agent.Role.HOST).select_related("host")
    serializer_class = HostSerializer
    filterset_fields: ClassVar = ["name", "zone", "state"]
    ordering = "-joined_at"

    def get_queryset(self) -> QuerySet[Agent]:
        rows: QuerySet[Agent] = super().get_queryset()
        return rows.annotate(running_commands=hooks.running_commands())


class StoragePoolViewSet(mixins.CreateModelMixin, ReadViewSet):
    queryset = StoragePool.objects.all()
    serializer_class = StoragePoolSerializer
    filterset_fields: ClassVar = ["name", "zone", "type", "host"]

    def perform_create(self, serializer: serializers.BaseSerializer[Any]) -> None:
        serializer.instance = actions.storage_pool_create(**{"host": None, **serializer.validated_data})


class JoinTokenViewSet(ReadViewSet):
    """Rights to join. The secret is shown once, when a token is made."""

    queryset = JoinToken.objects.all()
    answers_with_secrets = True
    serializer_class = JoinTokenSerializer
    filterset_fields: ClassVar = ["zone", "role"]

    @extend_schema(request=NewJoinTokenSerializer, responses={201: JoinTokenSecretSerializer})
    def create(self, request: Request) -> Response:
        given = NewJoinTokenSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        fields = given.validated_data
        token, secret = actions.join_token_create(
            fields["zone"],
            role=fields["role"],
            reusable=fields["reusable"],
            valid=timedelta(seconds=fields["valid_seconds"]),
        )
        body = JoinTokenSerializer(token).data | {"join_token": secret}
        return Response(body, status=status.HTTP_201_CREATED)


class AgentViewSet(RoomViewSet):
    """The one call of an agent to a management server; everything later goes through the broker."""

    serializer_class = JoinSerializer
    pagination_class = None
    filter_backends = ()
    authentication_classes = ()
    permission_classes = (AllowAny,)

    @extend_schema(request=JoinSerializer, responses={201: JoinedSerializer}, auth=[])
    @action(detail=False, methods=["post"])
    def join(self, request: Request) -> Response:
        """Take an agent in. The same call again is the same agent, so that a lost answer does no harm."""
        given = JoinSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        fields = dict(given.validated_data)
        agent = actions.join(fields.pop("join_token"), actions.Application(**fields))
        body = {"id": agent.pk, "epoch_floor": agent.epoch, **actions.introduction(agent)}
        return Response(JoinedSerializer(body).data, status=status.HTTP_201_CREATED)


routes = [
    ("zones", ZoneViewSet, "zone"),
    ("hosts/join-tokens", JoinTokenViewSet, "join-token"),
    ("hosts", HostViewSet, "host"),
    ("storage-pools", StoragePoolViewSet, "storage-pool"),
    ("agents", AgentViewSet, "agent"),
]
