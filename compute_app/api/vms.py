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
from compute_app.models import DATA_DISKS_MAX, VM, Network, Nic, Volume
from compute_app.ssh_keys import check_public_key
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
USER_DATA_BYTES = 64 << 10
SSH_KEYS_MAX = 64
NICS_MAX = 8


class NicSerializer(serializers.ModelSerializer[Nic]):
    class Meta:
        model = Nic
        fields: ClassVar = ["network", "mac"]
        read_only_fields: ClassVar = fields


class VMSerializer(serializers.ModelSerializer[VM]):
    volumes: Any = serializers.PrimaryKeyRelatedField(many=True, read_only=True, help_text="Its disks, vda first")
    nics: Any = NicSerializer(many=True, read_only=True, help_text="Its network cards, eth0 first")
    addresses: Any = serializers.ListField(
        child=serializers.CharField(), read_only=True, help_text="By the guest's agent, while it answers"
    )

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
            "nics",
            "addresses",
            "restart_after_boot",
            "error",
            "created_at",
            "destroyed_at",
        ]
        read_only_fields: ClassVar = fields


class DataDiskSerializer(StrictSerializer):
    size_bytes = serializers.IntegerField(min_value=MEBIBYTE, max_value=16 * TEBIBYTE)


def _fits_seed(text: str) -> None:
    if len(text.encode()) > USER_DATA_BYTES:
        raise serializers.ValidationError(f"It must not be longer than {USER_DATA_BYTES} bytes.")


def _is_ssh_key(text: str) -> None:
    try:
        check_public_key(text)
    except ValueError as error:
        raise serializers.ValidationError(f"It is no OpenSSH public key: {error}.") from error


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
                "user_data": "#!/bin/sh\necho hello\n",
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
    networks = serializers.PrimaryKeyRelatedField(
        queryset=Network.objects.all(), many=True, required=False, help_text="A card in each, eth0 first"
    )
    restart_after_boot = serializers.BooleanField(
        default=False, help_text="Start it again when its host has booted anew while it ran there"
    )
    ssh_keys = serializers.ListField(
        child=serializers.CharField(validators=[_is_ssh_key]),
        required=False,
        max_length=SSH_KEYS_MAX,
        write_only=True,
        help_text="OpenSSH public keys that may log in, told to the guest by cloud-init",
    )
    user_data = serializers.CharField(
        required=False,
        allow_blank=True,
        trim_whitespace=False,
        write_only=True,
        validators=[_fits_seed],
        help_text="For cloud-init, byte for byte, up to 64 KiB of UTF-8; kept encrypted and never shown again",
    )

    def validate_networks(self, networks: list[Network]) -> list[Network]:
        if len(networks) > NICS_MAX:
            raise serializers.ValidationError(f"No more than {NICS_MAX}.")
        return networks


@extend_schema_serializer(examples=[request_example({"restart_after_boot": True})])
class VMChangeSerializer(StrictSerializer):
    """What may be changed of a VM at any time."""

    restart_after_boot = serializers.BooleanField()


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
        Prefetch("volumes", Volume.objects.exclude(state=Volume.State.REMOVED).order_by("device_index")), "nics"
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

    @extend_schema(request=VMChangeSerializer, responses=VMSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Change what may be changed at any time."""
        vm = self.get_object()
        given = VMChangeSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        return Response(self.get_serializer(actions.vm_change(vm, **given.validated_data)).data)

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
