"""``accounts/``, ``users/`` and ``tokens/``."""

from datetime import datetime, timedelta
from typing import Any, ClassVar

import django_filters
from django.db.models import Q, QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_field, extend_schema_serializer
from rest_framework import mixins, serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts_app import actions, limits
from accounts_app.models import Account, Resource, Role, Token, UsageRecord, User
from accounts_app.tenancy import for_user, user_of
from core_app.filters import FieldFilterSet
from core_app.references import Reference
from core_app.schema import AN_ID, request_example
from core_app.serializers import ReferenceSerializer, StrictSerializer
from core_app.viewsets import ReadViewSet

DAY_SECONDS = 86_400
LARGEST = (1 << 63) - 1


class LimitsSerializer(StrictSerializer):
    """Largest number, or bytes, by resource; null: no limit."""

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        return {
            resource.value: serializers.IntegerField(min_value=0, max_value=LARGEST, allow_null=True, required=False)
            for resource in Resource
        }


class UsageSerializer(serializers.Serializer[Any]):
    """What is used of each resource."""

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        return {resource.value: serializers.IntegerField() for resource in Resource}


@extend_schema_serializer(examples=[request_example({"name": "umbrella"})])
class AccountSerializer(serializers.ModelSerializer[Account]):
    limits = serializers.SerializerMethodField(help_text="Largest number or bytes; null: no limit")
    usage = serializers.SerializerMethodField(help_text="What of it is used")

    class Meta:
        model = Account
        fields: ClassVar = ["id", "name", "limits", "usage", "created_at"]
        # The action says it better, and a check beforehand proves nothing about the insertion.
        extra_kwargs: ClassVar[dict[str, Any]] = {"name": {"validators": []}}

    @extend_schema_field(LimitsSerializer)
    def get_limits(self, account: Account) -> dict[str, int | None]:
        return {row.resource: row.maximum for row in account.limit_rows.all()}

    @extend_schema_field(UsageSerializer)
    def get_usage(self, account: Account) -> dict[str, int]:
        return {row.resource: row.used for row in account.limit_rows.all()}


@extend_schema_serializer(examples=[request_example({"limits": {"vms": 10, "primary_storage_bytes": 1099511627776}})])
class AccountChangeSerializer(StrictSerializer):
    """What may be changed about an account."""

    limits = LimitsSerializer()


@extend_schema_serializer(examples=[request_example({"name": "eve", "role": "user", "account": AN_ID})])
class UserSerializer(serializers.ModelSerializer[User]):
    name = serializers.CharField(source="username", max_length=150)
    role = serializers.ChoiceField(choices=Role.choices)
    active = serializers.BooleanField(source="is_active", read_only=True)
    password = serializers.CharField(write_only=True, required=False, max_length=256, trim_whitespace=False)

    class Meta:
        model = User
        fields: ClassVar = ["id", "account", "name", "role", "active", "password"]


@extend_schema_serializer(examples=[request_example({"active": False})])
class UserChangeSerializer(StrictSerializer):
    """What may be changed about a user. Everyone may change the own password."""

    account = serializers.PrimaryKeyRelatedField(queryset=Account.objects.all(), required=False)
    role = serializers.ChoiceField(choices=Role.choices, required=False)
    active = serializers.BooleanField(required=False, help_text="One that is not active gets in no more, at once")
    password = serializers.CharField(write_only=True, required=False, max_length=256, trim_whitespace=False)


class TokenSerializer(serializers.ModelSerializer[Token]):
    expires_at = serializers.DateTimeField(source="expiry", read_only=True)
    last_used = serializers.DateTimeField(source="last_used_at", read_only=True, allow_null=True)

    class Meta:
        model = Token
        fields: ClassVar = ["id", "user", "name", "expires_at", "last_used"]


@extend_schema_serializer(examples=[request_example({"name": "ci", "valid_seconds": 2592000})])
class NewTokenSerializer(serializers.Serializer[Any]):
    """What a new token is made of; without a user it is the caller's own."""

    user = serializers.PrimaryKeyRelatedField(queryset=User.objects.all(), required=False)
    name = serializers.CharField(max_length=255)
    valid_seconds = serializers.IntegerField(min_value=60, max_value=3650 * DAY_SECONDS, default=90 * DAY_SECONDS)


class TokenSecretSerializer(TokenSerializer):
    """A new token; its secret is shown this once."""

    token = serializers.CharField(read_only=True)

    class Meta(TokenSerializer.Meta):
        fields: ClassVar = [*TokenSerializer.Meta.fields, "token"]


class AccountViewSet(mixins.CreateModelMixin, ReadViewSet):
    queryset = Account.objects.prefetch_related("limit_rows")
    serializer_class = AccountSerializer
    filterset_fields: ClassVar = ["name"]
    ordering_fields = ("name",)

    def perform_create(self, serializer: serializers.BaseSerializer[Any]) -> None:
        serializer.instance = actions.account_create(serializer.validated_data["name"])

    @extend_schema(request=AccountChangeSerializer, responses=AccountSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Set some of its limits. One below what is used takes nothing away; nothing more is given."""
        account = self.get_object()
        given = AccountChangeSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        limits.put(account, given.validated_data["limits"])
        return Response(AccountSerializer(self.get_object()).data)


class UserViewSet(mixins.CreateModelMixin, ReadViewSet):
    queryset = User.objects.all()
    serializer_class = UserSerializer
    filterset_fields: ClassVar = ["account", "role"]
    ordering = "-date_joined"
    writable_by_users: ClassVar = ("partial_update",)  # the own password

    @extend_schema(filters=False, responses=UserSerializer)
    @action(detail=False, pagination_class=None, filter_backends=())
    def me(self, request: Request) -> Response:
        """Whose token this is."""
        return Response(self.get_serializer(user_of(request)).data)

    def perform_create(self, serializer: serializers.BaseSerializer[Any]) -> None:
        given = serializer.validated_data
        serializer.instance = actions.user_create(
            name=given["username"],
            role=given["role"],
            account=given.get("account"),
            password=given.get("password"),
            by=user_of(self.request),
        )

    @extend_schema(request=UserChangeSerializer, responses=UserSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Change role, account, password, or whether it may get in."""
        user = self.get_object()
        given = UserChangeSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        changed = actions.user_change(user, actions.UserChange(**given.validated_data), by=user_of(request))
        return Response(UserSerializer(changed).data)

    def destroy(self, request: Request, pk: str) -> Response:
        """Delete it and its tokens."""
        actions.user_delete(self.get_object(), by=user_of(request))
        return Response(status=status.HTTP_204_NO_CONTENT)


class TokenViewSet(ReadViewSet):
    """Tokens; a user makes and deletes the own ones."""

    queryset = Token.objects.select_related("user")
    answers_with_secrets = True
    serializer_class = TokenSerializer
    filterset_fields: ClassVar = ["user"]
    ordering = "-created"
    writable_by_users = True

    @extend_schema(request=NewTokenSerializer, responses={201: TokenSecretSerializer})
    def create(self, request: Request) -> Response:
        given = NewTokenSerializer(data=request.data)
        given.fields["user"].queryset = for_user(User.objects.all(), request.user)  # type: ignore[attr-defined]
        given.is_valid(raise_exception=True)
        fields = given.validated_data
        token, secret = actions.token_create(
            fields.get("user", request.user),
            name=fields["name"],
            by=user_of(request),
            valid=timedelta(seconds=fields["valid_seconds"]),
        )
        return Response(TokenSerializer(token).data | {"token": secret}, status=status.HTTP_201_CREATED)

    def destroy(self, request: Request, pk: str) -> Response:
        actions.token_delete(self.get_object(), by=user_of(request))
        return Response(status=status.HTTP_204_NO_CONTENT)


class UsageRecordSerializer(serializers.ModelSerializer[UsageRecord]):
    account = serializers.UUIDField(source="account_id", read_only=True)
    target = serializers.SerializerMethodField()

    class Meta:
        model = UsageRecord
        fields: ClassVar = ["id", "kind", "account", "target", "count", "size_bytes", "created_at", "ended_at"]

    @extend_schema_field(ReferenceSerializer)
    def get_target(self, record: UsageRecord) -> Reference:
        return {"type": record.target_type, "id": str(record.target_id), "name": record.target_name}


class UsageRecordFilterSet(FieldFilterSet):
    account = django_filters.UUIDFilter(field_name="account_id")
    target = django_filters.UUIDFilter(field_name="target_id", help_text="Id of the object that was used")
    after = django_filters.IsoDateTimeFilter(method="not_over_by", help_text="Went on after this time")
    before = django_filters.IsoDateTimeFilter(field_name="created_at", lookup_expr="lt", help_text="Began before it")

    class Meta(FieldFilterSet.Meta):
        model = UsageRecord
        fields: ClassVar = ["kind"]

    def not_over_by(self, rows: QuerySet[UsageRecord], _name: str, time: datetime) -> QuerySet[UsageRecord]:
        return rows.filter(Q(ended_at=None) | Q(ended_at__gt=time))


class UsageRecordViewSet(ReadViewSet):
    """What an account used, from when to when: templates, volumes, and VMs while they run."""

    queryset = UsageRecord.objects.all()
    serializer_class = UsageRecordSerializer
    filterset_class = UsageRecordFilterSet


routes = [
    ("accounts", AccountViewSet, "account"),
    ("users", UserViewSet, "user"),
    ("tokens", TokenViewSet, "token"),
    ("usage-records", UsageRecordViewSet, "usage-record"),
]
