"""``vms/`` and ``volumes/``."""

from typing import Any, ClassVar

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from operations_app.api import OperationSerializer
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts_app.models import Account
from accounts_app.owners import account_for
from accounts_app.tenancy import for_user, user_of
from compute_app import actions
from compute_app.models import VM, Volume
from core_app.accepted import Accepted
from core_app.errors import NotFound
from core_app.viewsets import ReadViewSet
from infra_app.models import Host, StoragePool, Zone
from templates_app.models import Template

MEBIBYTE = 1 << 20
TEBIBYTE = 1 << 40
DATA_DISKS_MAX = 23


class VMSerializer(serializers.ModelSerializer[VM]):
    volumes: Any = serializers.PrimaryKeyRelatedField(many=True, read_only=True)

    class Meta:
        model = VM
        fields: ClassVar = [
            "id",
            "name",
            "account",
            "zone",
            "template",
            "cpus",
            "memory_bytes",
            "state",
            "host",
            "last_host",
            "power_state",
            "power_reason",
            "guest_agent",
            "volumes",
            "error",
            "created_at",
        ]
        read_only_fields: ClassVar = fields


class DataDiskSerializer(serializers.Serializer[Any]):
    size_bytes = serializers.IntegerField(min_value=MEBIBYTE, max_value=16 * TEBIBYTE)


class NewVMSerializer(serializers.Serializer[Any]):
    """A VM to deploy. Host and pool are chosen by room where they are not given."""

    name = serializers.CharField(max_length=255)
    template = serializers.PrimaryKeyRelatedField(queryset=Template.objects.all())
    zone = serializers.PrimaryKeyRelatedField(queryset=Zone.objects.all())
    account = serializers.PrimaryKeyRelatedField(queryset=Account.objects.all(), required=False)
    cpus = serializers.IntegerField(min_value=1, max_value=256, default=1)
    memory_bytes = serializers.IntegerField(min_value=16 * MEBIBYTE, max_value=16 * TEBIBYTE)
    root_size_bytes = serializers.IntegerField(min_value=MEBIBYTE, max_value=16 * TEBIBYTE, required=False)
    data_disks = serializers.ListField(child=DataDiskSerializer(), required=False, max_length=DATA_DISKS_MAX)
    pool = serializers.PrimaryKeyRelatedField(queryset=StoragePool.objects.all(), required=False)
    host = serializers.PrimaryKeyRelatedField(queryset=Host.objects.all(), required=False)
    start = serializers.BooleanField(default=True)


class StopSerializer(serializers.Serializer[Any]):
    force = serializers.BooleanField(default=False, help_text="Take the power away instead of asking the guest")


class VMViewSet(ReadViewSet):
    queryset = VM.objects.prefetch_related("volumes")
    serializer_class = VMSerializer
    filterset_fields: ClassVar = ["name", "state", "zone", "account", "host", "template", "guest_agent"]
    ordering_fields = ("name",)
    query_parameters: ClassVar = {"destroy": {"expunge"}}
    writable_by_users = True

    @extend_schema(request=NewVMSerializer, responses={202: OperationSerializer})
    def create(self, request: Request) -> Response:
        """Deploy a VM from a template. The operation's target is the VM."""
        given = NewVMSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        fields = dict(given.validated_data)
        user = user_of(request)
        if not for_user(Template.objects.filter(pk=fields["template"].pk), user).exists():
            raise NotFound("There is no such template.", "The VM was not deployed.", "See templates/ for yours.")
        disks = [disk["size_bytes"] for disk in fields.pop("data_disks", ())]
        account = account_for(user, fields.pop("account", None))
        wanted = actions.Deployment(account=account, data_disk_sizes=disks, **fields)
        _vm, operation = actions.vm_deploy(wanted, user)
        return Accepted(operation)

    @extend_schema(
        parameters=[OpenApiParameter("expunge", OpenApiTypes.BOOL, description="Remove its volumes too, for good")],
        responses={202: OperationSerializer},
    )
    def destroy(self, request: Request, pk: str | None = None) -> Response:
        """Destroy a VM. Its volumes are kept unless ``expunge`` is true."""
        expunge = serializers.BooleanField().run_validation(request.query_params.get("expunge", "false"))
        return Accepted(actions.vm_destroy(self.get_object(), expunge=expunge, user=user_of(request)))

    @extend_schema(request=None, responses={202: OperationSerializer})
    @action(detail=True, methods=["post"])
    def start(self, request: Request, pk: str | None = None) -> Response:
        """Start a stopped VM."""
        return Accepted(actions.vm_start(self.get_object(), user_of(request)))

    @extend_schema(request=StopSerializer, responses={202: OperationSerializer})
    @action(detail=True, methods=["post"])
    def stop(self, request: Request, pk: str | None = None) -> Response:
        """Stop a running VM."""
        given = StopSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        force = given.validated_data["force"]
        return Accepted(actions.vm_stop(self.get_object(), force=force, user=user_of(request)))


class VolumeSerializer(serializers.ModelSerializer[Volume]):
    path = serializers.CharField(source="top.path", read_only=True, allow_null=True)
    format = serializers.CharField(source="top.format", read_only=True, allow_null=True)
    chain_length = serializers.SerializerMethodField(help_text="Files of its own, without the template's copy")

    class Meta:
        model = Volume
        fields: ClassVar = [
            "id",
            "name",
            "account",
            "vm",
            "pool",
            "path",
            "size_bytes",
            "chain_length",
            "state",
            "format",
            "created_at",
        ]
        read_only_fields: ClassVar = fields

    def get_chain_length(self, volume: Volume) -> int:
        return len(volume.files.all())


class VolumeViewSet(ReadViewSet):
    queryset = Volume.objects.select_related("top__volume__pool").prefetch_related("files")
    serializer_class = VolumeSerializer
    filterset_fields: ClassVar = ["name", "state", "vm", "pool", "account"]
    ordering_fields = ("name", "size_bytes")


routes = [("vms", VMViewSet, "vm"), ("volumes", VolumeViewSet, "volume")]
