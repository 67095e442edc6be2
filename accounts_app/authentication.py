"""Who is asking: ``Authorization: Token <token>``."""

from datetime import timedelta
from typing import Any

from django.db.models import Q
from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from knox.auth import TokenAuthentication as KnoxTokenAuthentication
from rest_framework.exceptions import AuthenticationFailed

from accounts_app.models import Token, User

USE_IS_NOTED_EVERY = timedelta(minutes=1)


class TokenAuthentication(KnoxTokenAuthentication):  # type: ignore[misc]  # untyped
    """Knox's, and it notes when a token was last used; to the minute, so that reads hardly ever write."""

    def authenticate_credentials(self, token: bytes) -> tuple[User, Token]:
        """Ours are letters and digits; what else a header may hold is no token, and nothing to look up."""
        if not token.isalnum():
            raise AuthenticationFailed("Invalid token.")
        user, found = super().authenticate_credentials(token)
        return user, found

    def validate_user(self, auth_token: Token) -> tuple[User, Token]:
        user, token = super().validate_user(auth_token)
        now = timezone.now()
        stale = Q(last_used_at=None) | Q(last_used_at__lt=now - USE_IS_NOTED_EVERY)
        if token.last_used_at is None or token.last_used_at < now - USE_IS_NOTED_EVERY:
            Token.objects.filter(stale, pk=token.pk).update(last_used_at=now)
        return user, token

    def _cleanup_token(self, auth_token: Token) -> bool:
        """Whether it has expired; then it is removed. Knox would read all of its user's tokens with each request."""
        expired = auth_token.expiry is not None and auth_token.expiry < timezone.now()
        if expired:
            auth_token.delete()
        return expired


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # registers itself
    """How the OpenAPI document describes it."""

    target_class = TokenAuthentication
    name = "Token"

    def get_security_definition(self, _auto_schema: Any) -> dict[str, Any]:
        return {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": "`Token <token>`",
        }
