"""What a role may do; which rows it may do it to is tenancy's question."""

from collections.abc import Collection
from typing import Any

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from accounts_app.models import Role, User


class RolePermission(BasePermission):
    """Everyone reads; operators and admins write; users write where the view says ``writable_by_users``.

    A view with ``operators_only`` is for those who see the whole fleet, for there is no row of an account behind it.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        user = request.user
        if not isinstance(user, User):
            return False
        if user.operates:
            return True
        if getattr(view, "operators_only", False) and not user.sees_everything:
            return False
        if request.method in SAFE_METHODS:
            return True
        writable: bool | Collection[str] = getattr(view, "writable_by_users", False)
        return user.role == Role.USER and (writable if isinstance(writable, bool) else view.action in writable)
