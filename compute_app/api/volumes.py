"""``volumes/``."""

from functools import partial
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts_app.models import Account
from accounts_app.owners import VisibleField, account_for
from accounts_app.tenancy import user_of
from compute_app import actions
from compute_app.api.vms import MEBIBYTE, TEBIBYTE, files_to_remove
from compute_app.models import VM, Volume
from core_app import dry_run
from core_app.accepted import Accepted
from core_app.schema import AN_ID, request_example
from core_app.serializers import StrictSerializer
from core_app.viewsets import ReadViewSet
from infra_app.models import StoragePool, Zone
from operations_app.api import OperationSerializer

SIZE_HELP = "A multiple of 512: a disk has whole sectors"


class VolumeSerializer(serializers.ModelSerializer[Volume]):
    device = serializers.SerializerMethodField(
        help_text="Its place in its VM, null without one. A guest may name it otherwise, and knows it by its serial"
    )
    path = serializers.CharField(source="top.path", read_only=True, allow_null=True)
    size_bytes = serializers.IntegerField(
        source="top.virtual_size_bytes", read_only=True, help_text="What a guest sees; changes when a resize is done"
    )
    format = serializers.CharField(source="top.format", read_only=True, allow_null=True)
    chain_length = serializers.SerializerMethodField(help_text="Files of its own, without the template's copy")

    class Meta:
        model = Volume
        fields: ClassVar = [
            "id",
            "name",
            "account",
            "vm",
            "device",
            "outlives_vm",
            "pool",
            "path",
            "size_bytes",
            "chain_length",
            "state",
            "format",
            "created_at",
        ]
        read_only_fields: ClassVar = fields

    def get_device(self, volume: Volume) -> str | None:
        return volume.device if volume.vm_id else None

    def get_chain_length(self, volume: Volume) -> int:
        return len(volume.files.all())


@extend_schema_serializer(examples=[request_example({"name": "data1", "zone": AN_ID, "size_bytes": 1073741824})])
class NewVolumeSerializer(StrictSerializer):
    """A volume to create. Its pool is chosen by room where it is not given."""

    name = serializers.CharField(max_length=255)
    account = VisibleField(queryset=Account.objects.all(), required=False)
    zone = serializers.PrimaryKeyRelatedField(queryset=Zone.objects.all())
    pool = serializers.PrimaryKeyRelatedField(queryset=StoragePool.objects.all(), required=False)
    size_bytes = serializers.IntegerField(min_value=MEBIBYTE, max_value=16 * TEBIBYTE, help_text=SIZE_HELP)


class AttachSerializer(StrictSerializer):
    vm = VisibleField(queryset=VM.objects.all())


@extend_schema_serializer(examples=[request_example({"size_bytes": 2147483648})])
class ResizeSerializer(StrictSerializer):
    size_bytes = serializers.IntegerField(
        min_value=MEBIBYTE, max_value=16 * TEBIBYTE, help_text=f"More than it has. {SIZE_HELP}"
    )


class VolumeViewSet(ReadViewSet):
    queryset = Volume.objects.select_related("top__volume__pool").prefetch_related("files")
    serializer_class = VolumeSerializer
    filterset_fields: ClassVar = ["name", "state", "vm", "pool", "account"]
    ordering_fields = ("name",)
    query_parameters: ClassVar = {"destroy": {"dry_run"}}
    writable_by_users = True

    @extend_schema(request=NewVolumeSerializer, responses={202: OperationSerializer})
    def create(self, request: Request) -> Response:
        """Create an empty volume, to be attached to a VM. The operation's target is the volume."""
        fields = self._given(NewVolumeSerializer, request)
        user = user_of(request)
        account = account_for(user, fields.pop("account", None))
        _volume, operation = actions.volume_create(actions.NewVolume(account=account, **fields), user)
        return Accepted(operation)

    @extend_schema(
        parameters=[dry_run.PARAMETER], responses={200: dry_run.DeletionPlanSerializer, 202: OperationSerializer}
    )
    def destroy(self, request: Request, pk: str) -> Response:
        """Delete a volume that is no VM's disk, for good."""
        volume = self.get_object()
        delete = partial(actions.volume_delete, volume, user_of(request))
        if dry_run.wanted(request):
            return Response(dry_run.rehearse(delete, lambda _: dry_run.deletion_plan(files_to_remove(volume))))
        return Accepted(delete())

    @extend_schema(request=AttachSerializer, responses={202: OperationSerializer})
    @action(detail=True, methods=["post"])
    def attach(self, request: Request, pk: str) -> Response:
        """Attach a volume to a running or stopped VM. A guest sees the first 20 characters of its id as serial."""
        volume = self.get_object()
        vm = self._given(AttachSerializer, request)["vm"]
        return Accepted(actions.volume_attach(volume, vm, user_of(request)))

    @extend_schema(request=None, responses={202: OperationSerializer})
    @action(detail=True, methods=["post"])
    def detach(self, request: Request, pk: str) -> Response:
        """Detach a data disk. A guest that runs has to let go of it: unmount it first."""
        return Accepted(actions.volume_detach(self.get_object(), user_of(request)))

    @extend_schema(request=ResizeSerializer, responses={202: OperationSerializer})
    @action(detail=True, methods=["post"])
    def resize(self, request: Request, pk: str) -> Response:
        """Let a volume grow, also while its guest runs. It never shrinks."""
        volume = self.get_object()
        size_bytes = self._given(ResizeSerializer, request)["size_bytes"]
        return Accepted(actions.volume_resize(volume, size_bytes, user_of(request)))

    def _given(self, serializer: type[StrictSerializer], request: Request) -> dict[str, Any]:
        given = serializer(data=request.data, context=self.get_serializer_context())
        given.is_valid(raise_exception=True)
        return dict(given.validated_data)
