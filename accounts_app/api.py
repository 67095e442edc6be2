"""``accounts/``, ``users/`` and ``tokens/``."""

from datetime import timedelta
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from accounts_app import actions
from accounts_app.models import Account, Role, Token, User
from accounts_app.tenancy import for_user, user_of
from core_app.viewsets import ReadViewSet

DAY_SECONDS = 86_400


class AccountSerializer(serializers.ModelSerializer[Account]):
    class Meta:
        model = Account
        fields: ClassVar = ["id", "name", "limits", "created_at"]
        read_only_fields: ClassVar = ["limits"]
        # The action says it better, and a check beforehand proves nothing about the insertion.
        extra_kwargs: ClassVar[dict[str, Any]] = {"name": {"validators": []}}


class UserSerializer(serializers.ModelSerializer[User]):
    name = serializers.CharField(source="username", max_length=150)
    role = serializers.ChoiceField(choices=Role.choices)
    password = serializers.CharField(write_only=True, required=False, min_length=12, max_length=256)

    class Meta:
        model = User
        fields: ClassVar = ["id", "account", "name", "role", "password"]


class TokenSerializer(serializers.ModelSerializer[Token]):
    expires_at = serializers.DateTimeField(source="expiry", read_only=True)
    last_used = serializers.DateTimeField(source="last_used_at", read_only=True)

    class Meta:
        model = Token
        fields: ClassVar = ["id", "user", "name", "expires_at", "last_used"]


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
    queryset = Account.objects.all()
    serializer_class = AccountSerializer
    filterset_fields: ClassVar = ["name"]
    ordering_fields = ("name",)

    def perform_create(self, serializer: serializers.BaseSerializer[Any]) -> None:
        serializer.instance = actions.account_create(serializer.validated_data["name"])


class UserViewSet(mixins.CreateModelMixin, ReadViewSet):
    queryset = User.objects.all()
    serializer_class = UserSerializer
    filterset_fields: ClassVar = ["account", "role"]
    ordering = "-date_joined"

    def perform_create(self, serializer: serializers.BaseSerializer[Any]) -> None:
        given = serializer.validated_data
        serializer.instance = actions.user_create(
            name=given["username"],
            role=given["role"],
            account=given.get("account"),
            password=given.get("password"),
            by=user_of(self.request),
        )


class TokenViewSet(ReadViewSet):
    """Tokens; a user makes and deletes the own ones."""

    queryset = Token.objects.select_related("user")
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


routes = [("accounts", AccountViewSet, "account"), ("users", UserViewSet, "user"), ("tokens", TokenViewSet, "token")]
