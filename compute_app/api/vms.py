"""``vms/``."""

from functools import partial
from typing import Any, ClassVar
from uuid import UUID

from django.db.models import Prefetch
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts_app.models import Account
from accounts_app.owners import VisibleField, account_for
from accounts_app.tenancy import user_of
from compute_app import actions
from compute_app.models import DATA_DISKS_MAX, VM, Volume
from compute_app.workflows.payloads import volumes_on_disk
from core_app import dry_run
from core_app.accepted import Accepted
from core_app.schema import AN_ID, request_example
from core_app.serializers import StrictSerializer
from core_app.viewsets import PolledViewSet
from infra_app.models import Host, StoragePool, Zone
from infra_app.reaching import remover_of
from operations_app.api import OperationSerializer
from operations_app.models import Operation
from templates_app.models import Template

MEBIBYTE = 1 << 20
TEBIBYTE = 1 << 40
NOT_THERE_YET = ("networks", "ssh_keys", "user_data")


class VMSerializer(serializers.ModelSerializer[VM]):
    volumes: Any = serializers.PrimaryKeyRelatedField(many=True, read_only=True, help_text="Its disks, vda first")

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
            "destroyed_at",
        ]
        read_only_fields: ClassVar = fields


class DataDiskSerializer(StrictSerializer):
    size_bytes = serializers.IntegerField(min_value=MEBIBYTE, max_value=16 * TEBIBYTE)


def _not_there_yet(value: Any) -> None:
    """A VM without what was asked for would be worse than a refusal."""
    if value:
        raise serializers.ValidationError("This is not there yet; leave it out.")


@extend_schema_serializer(
    examples=[
        request_example(
            {
                "name": "web1",
                "template": AN_ID,
                "zone": AN_ID,
                "cpus": 1,
                "memory_bytes": 201326592,
                "data_disks": [{"size_bytes": 1073741824}],
            }
        )
    ]
)
class NewVMSerializer(StrictSerializer):
    """A VM to deploy. Host and pool are chosen by room where they are not given."""

    name = serializers.CharField(max_length=255)
    template = VisibleField(queryset=Template.objects.all())
    zone = serializers.PrimaryKeyRelatedField(queryset=Zone.objects.all())
    account = VisibleField(queryset=Account.objects.all(), required=False)
    cpus = serializers.IntegerField(min_value=1, max_value=256, default=1)
    memory_bytes = serializers.IntegerField(min_value=16 * MEBIBYTE, max_value=16 * TEBIBYTE)
    root_size_bytes = serializers.IntegerField(min_value=MEBIBYTE, max_value=16 * TEBIBYTE, required=False)
    data_disks = serializers.ListField(child=DataDiskSerializer(), required=False, max_length=DATA_DISKS_MAX)
    pool = serializers.PrimaryKeyRelatedField(queryset=StoragePool.objects.all(), required=False)
    host = serializers.PrimaryKeyRelatedField(queryset=Host.objects.all(), required=False)
    start = serializers.BooleanField(default=True)
    networks = serializers.ListField(child=serializers.UUIDField(), required=False, validators=[_not_there_yet])
    ssh_keys = serializers.ListField(child=serializers.CharField(), required=False, validators=[_not_there_yet])
    user_data = serializers.CharField(required=False, allow_blank=True, validators=[_not_there_yet])

    def validate(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if name not in NOT_THERE_YET}


class ForceSerializer(StrictSerializer):
    """How a guest is asked to stop or reboot."""

    force = serializers.BooleanField(default=False, help_text="Take the power away, or reset, instead of asking")
    timeout_seconds = serializers.IntegerField(
        min_value=1, max_value=240, required=False, help_text="Ask, and use force when this has passed; left out: never"
    )


class ConsoleSerializer(StrictSerializer):
    lines = serializers.IntegerField(min_value=1, max_value=1000, default=100)


class VMViewSet(PolledViewSet):
    queryset = VM.objects.prefetch_related(
        Prefetch("volumes", Volume.objects.exclude(state=Volume.State.REMOVED).order_by("device_index"))
    )
    serializer_class = VMSerializer
    filterset_fields: ClassVar = ["name", "state", "zone", "account", "host", "template", "guest_agent"]
    ordering_fields = ("name",)
    query_parameters: ClassVar = {"destroy": {"expunge", "dry_run"}}
    writable_by_users = True

    @extend_schema(request=NewVMSerializer, responses={202: OperationSerializer})
    def create(self, request: Request) -> Response:
        """Deploy a VM from a template. The operation's target is the VM."""
        given = NewVMSerializer(data=request.data, context=self.get_serializer_context())
        given.is_valid(raise_exception=True)
        fields = dict(given.validated_data)
        user = user_of(request)
        disks = [disk["size_bytes"] for disk in fields.pop("data_disks", ())]
        account = account_for(user, fields.pop("account", None))
        wanted = actions.Deployment(account=account, data_disk_sizes=disks, **fields)
        _vm, operation = actions.vm_deploy(wanted, user)
        return Accepted(operation)

    @extend_schema(
        parameters=[
            OpenApiParameter("expunge", OpenApiTypes.BOOL, description="Remove its volumes too, for good"),
            dry_run.PARAMETER,
        ],
        responses={200: dry_run.DeletionPlanSerializer, 202: OperationSerializer},
    )
    def destroy(self, request: Request, pk: str) -> Response:
        """Destroy a VM. Its volumes are kept unless ``expunge`` is true."""
        expunge = serializers.BooleanField().run_validation(request.query_params.get("expunge", "false"))
        destroy = partial(actions.vm_destroy, self.get_object(), expunge=expunge, user=user_of(request))
        if dry_run.wanted(request):
            return Response(dry_run.rehearse(destroy, destruction_plan))
        return Accepted(destroy())

    @extend_schema(request=None, responses={202: OperationSerializer})
    @action(detail=True, methods=["post"])
    def start(self, request: Request, pk: str) -> Response:
        """Start a stopped VM."""
        return Accepted(actions.vm_start(self.get_object(), user_of(request)))

    @extend_schema(request=ForceSerializer, responses={202: OperationSerializer})
    @action(detail=True, methods=["post"])
    def stop(self, request: Request, pk: str) -> Response:
        """Stop a running VM."""
        return Accepted(actions.vm_stop(self.get_object(), **_force(request), user=user_of(request)))

    @extend_schema(request=ForceSerializer, responses={202: OperationSerializer})
    @action(detail=True, methods=["post"])
    def reboot(self, request: Request, pk: str) -> Response:
        """Reboot a running VM. It is over when the guest begins to boot."""
        return Accepted(actions.vm_reboot(self.get_object(), **_force(request), user=user_of(request)))

    @extend_schema(request=None, responses={202: OperationSerializer})
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, pk: str) -> Response:
        """Let a VM go on that was paused, for an I/O error of its storage for instance."""
        return Accepted(actions.vm_resume(self.get_object(), user_of(request)))

    @extend_schema(request=ConsoleSerializer, responses={202: OperationSerializer})
    @action(detail=True, methods=["post"])
    def console(self, request: Request, pk: str) -> Response:
        """Read the last lines of its serial console: the operation's result has ``text`` and ``truncated``."""
        given = ConsoleSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        lines = given.validated_data["lines"]
        return Accepted(actions.vm_console(self.get_object(), lines=lines, user=user_of(request)))

    @extend_schema(request=None, responses=VMSerializer)
    @action(detail=True, methods=["post"])
    def recover(self, request: Request, pk: str) -> Response:
        """Take back a destruction without expunge: the VM is stopped, with its volumes."""
        return Response(self.get_serializer(actions.vm_recover(self.get_object())).data)


def _force(request: Request) -> dict[str, Any]:
    given = ForceSerializer(data=request.data)
    given.is_valid(raise_exception=True)
    fields = given.validated_data
    return {"force": fields["force"], "then_force_after": fields.get("timeout_seconds")}


def files_to_remove(volume: Volume, preferred: UUID | None = None) -> list[dict[str, Any]]:
    """For a plan: what would be removed with a volume, and by whom."""
    host = remover_of(volume.pool, preferred)
    return [
        {"host": host, "pool": volume.pool.name, "path": file.path, "size_bytes": file.virtual_size_bytes}
        for file in volume.files.all()
    ]


def destruction_plan(operation: Operation) -> dict[str, Any]:
    """For a destruction that was begun: what it removes, and from where."""
    vm = VM.objects.get(pk=operation.target_id)
    its_own = volumes_on_disk(vm).filter(outlives_vm=False).order_by("device_index")
    volumes = its_own if operation.data["expunge"] else ()
    files = [file for volume in volumes for file in files_to_remove(volume, vm.last_host_id)]
    return dry_run.deletion_plan(files, vm.host.name if vm.host else None)
