"""``templates/`` with their placements."""

from functools import partial
from typing import Any, ClassVar

from django.db.models import QuerySet
from django.http import HttpResponseBase
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field, extend_schema_serializer
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts_app.models import Account
from accounts_app.owners import VisibleField, account_for
from accounts_app.tenancy import user_of
from core_app import dry_run
from core_app.accepted import Accepted
from core_app.references import Reference, reference
from core_app.schema import AN_ID, request_example
from core_app.serializers import ReferenceSerializer, StrictSerializer
from core_app.viewsets import PolledViewSet
from infra_app.models import StoragePool, Zone
from infra_app.reaching import remover_of
from operations_app.api import OperationSerializer
from operations_app.models import Operation
from templates_app import actions
from templates_app.models import Placement, Template
from templates_app.workflows import copies_of, pool_of


class TemplateSerializer(serializers.ModelSerializer[Template]):
    """Secret headers are never readable again."""

    is_iso = serializers.BooleanField(read_only=True)
    unique_name = serializers.CharField(read_only=True)

    class Meta:
        model = Template
        fields: ClassVar = [
            "id",
            "name",
            "account",
            "url",
            "format",
            "checksum",
            "zones",
            "direct_download",
            "public",
            "headers",
            "follow_redirects",
            "is_iso",
            "state",
            "size_bytes",
            "virtual_size_bytes",
            "sha256",
            "unique_name",
            "error",
            "created_at",
        ]
        read_only_fields: ClassVar = fields


_IDS = {"type": "array", "items": {"type": "string", "format": "uuid"}}


@extend_schema_field({"oneOf": [_IDS, {"type": "string", "enum": ["all"]}]})
class ZonesField(serializers.Field):  # type: ignore[type-arg]
    """A list of zone ids, or ``"all"``."""

    def to_internal_value(self, data: Any) -> list[Zone]:
        if data == "all":
            return []
        known = serializers.PrimaryKeyRelatedField(queryset=Zone.objects.all())
        zones = serializers.ListField(child=known, allow_empty=False).run_validation(data)
        return list(zones)

    def to_representation(self, value: Any) -> Any:
        return value


class HeadersField(serializers.DictField):
    """Header names and values as they are: a line break at the end is refused later, not trimmed here."""

    child = serializers.CharField(max_length=4096, trim_whitespace=False, allow_blank=True)


@extend_schema_serializer(
    examples=[
        request_example(
            {
                "name": "debian",
                "url": "https://images.example.org/debian.qcow2",
                "format": "qcow2",
                "zones": "all",
                "checksum": "{SHA-256}" + "0" * 64,
            }
        )
    ]
)
class NewTemplateSerializer(StrictSerializer):
    """A template to register for direct download by the hosts."""

    name = serializers.CharField(max_length=255)
    url = serializers.CharField(max_length=2048)
    format = serializers.ChoiceField(choices=Template.Format.choices)
    zones = ZonesField(default=list, write_only=True, help_text="Left out: all")
    account = VisibleField(queryset=Account.objects.all(), required=False)
    checksum = serializers.CharField(max_length=160, required=False, default="", allow_blank=True)
    direct_download = serializers.BooleanField(default=True)
    public = serializers.BooleanField(default=False)
    headers = HeadersField(required=False, default=dict)
    secret_headers = HeadersField(required=False, default=dict, write_only=True, help_text="Never readable again")
    is_iso = serializers.BooleanField(required=False, help_text="Follows from the format; may be left out")
    follow_redirects = serializers.BooleanField(default=True)

    def validate_direct_download(self, value: bool) -> bool:
        if not value:
            raise serializers.ValidationError("Only direct download is there yet; leave it true.")
        return value

    def validate(self, fields: dict[str, Any]) -> dict[str, Any]:
        if fields.pop("is_iso", None) not in {None, fields["format"] == Template.Format.ISO}:
            raise serializers.ValidationError({"is_iso": ["It contradicts the format."]})
        return fields


class PlacementSerializer(serializers.ModelSerializer[Placement]):
    """A template on a pool, or its place in a zone where hosts download it by themselves."""

    target = serializers.SerializerMethodField(help_text="The pool; null where hosts download by themselves")
    download_state = serializers.CharField(read_only=True)
    percent = serializers.IntegerField(read_only=True)
    progress = serializers.DictField(read_only=True, help_text="Bytes and rate while it is downloaded")
    attempt = serializers.IntegerField(read_only=True, help_text="How many hosts were asked to download it, at last")
    mirror = serializers.CharField(read_only=True, allow_null=True, help_text="Where the bytes come from")

    class Meta:
        model = Placement
        fields: ClassVar = [
            "id",
            "kind",
            "target",
            "zone",
            "state",
            "download_state",
            "percent",
            "progress",
            "attempt",
            "mirror",
            "operation",
            "path",
            "size_bytes",
            "virtual_size_bytes",
            "error",
            "created_at",
        ]
        read_only_fields: ClassVar = fields

    @extend_schema_field(ReferenceSerializer(allow_null=True))
    def get_target(self, placement: Placement) -> Reference | None:
        return reference(placement.pool) if placement.pool else None


@extend_schema_serializer(examples=[request_example({"pool": AN_ID})])
class PrepareSerializer(StrictSerializer):
    pool = serializers.PrimaryKeyRelatedField(queryset=StoragePool.objects.all())


class TemplateViewSet(PolledViewSet):
    queryset = Template.objects.prefetch_related("zones")
    serializer_class = TemplateSerializer
    filterset_fields: ClassVar = ["name", "state", "zones", "account", "format", "public"]
    ordering_fields = ("name",)
    query_parameters: ClassVar = {"placements": ("cursor", "page_size"), "destroy": ("dry_run",)}
    writable_by_users = True

    @extend_schema(request=NewTemplateSerializer, responses={202: OperationSerializer})
    def create(self, request: Request) -> Response:
        """Register a template, which is the operation's target; it is ready when a host has looked at its URL."""
        given = NewTemplateSerializer(data=request.data, context=self.get_serializer_context())
        given.is_valid(raise_exception=True)
        fields = dict(given.validated_data)
        fields.pop("direct_download")
        user = user_of(request)
        account = account_for(user, fields.pop("account", None))
        _template, operation = actions.template_register(actions.Registration(account=account, **fields), user)
        return Accepted(operation)

    @extend_schema(
        filters=False,
        parameters=[OpenApiParameter("ordering", exclude=True)],
        responses={200: PlacementSerializer(many=True)},
    )
    @action(detail=True, serializer_class=PlacementSerializer)
    def placements(self, request: Request, pk: str) -> HttpResponseBase:
        """One row a pool, and one a zone where hosts download by themselves."""
        rows: QuerySet[Placement] = self.get_object().placements.select_related("template", "pool", "operation")
        return self.answer_page(request, self.paginate_queryset(rows) or [])

    @extend_schema(request=PrepareSerializer, responses={202: OperationSerializer})
    @action(detail=True, methods=["post"])
    def prepare(self, request: Request, pk: str) -> Response:
        """Download a template to a pool ahead of a deployment."""
        template = self.get_object()
        given = PrepareSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        return Accepted(actions.template_prepare(template, given.validated_data["pool"], user_of(request)))

    @extend_schema(
        parameters=[dry_run.PARAMETER], responses={200: dry_run.DeletionPlanSerializer, 202: OperationSerializer}
    )
    def destroy(self, request: Request, pk: str) -> Response:
        """Delete a template that nothing is made from any more, with its copies on the pools."""
        delete = partial(actions.template_delete, self.get_object(), user_of(request))
        if dry_run.wanted(request):
            return Response(dry_run.rehearse(delete, removal_plan))
        return Accepted(delete())


def removal_plan(operation: Operation) -> dict[str, Any]:
    """For a deletion that was begun: the copies that it removes, and from where."""
    files = []
    for placement in copies_of(operation.target_id):
        pool = pool_of(placement)
        files.append(
            {
                "host": remover_of(pool),
                "pool": pool.name,
                "path": placement.path or f"{pool.path}/{placement.template.file_name}",
                "size_bytes": placement.size_bytes or 0,
            }
        )
    return dry_run.deletion_plan(files)


routes = [("templates", TemplateViewSet, "template")]
