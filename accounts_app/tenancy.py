"""What a user sees, in one place."""

from typing import Any, TypeVar

from django.contrib.auth.models import AnonymousUser
from django.db.models import Model, QuerySet
from rest_framework.exceptions import NotAuthenticated
from rest_framework.filters import BaseFilterBackend
from rest_framework.request import Request

from accounts_app.models import User

M = TypeVar("M", bound=Model)


def for_user(queryset: QuerySet[M], user: User | AnonymousUser) -> QuerySet[M]:
    """The rows that ``user`` may see.

    A model says what an account sees by a static method ``visible_to_account(account_id) -> Q``. A model without one
    belongs to the operators: it is closed until it says otherwise.
    """
    if not isinstance(user, User):
        return queryset.none()
    if user.sees_everything:
        return queryset
    rule = getattr(queryset.model, "visible_to_account", None)
    if rule is None or user.account_id is None:
        return queryset.none()
    return queryset.filter(rule(user.account_id))


def user_of(request: Request) -> User:
    """Who asks. Raises NotAuthenticated where nobody does."""
    if not isinstance(request.user, User):
        raise NotAuthenticated
    return request.user


class TenancyFilter(BaseFilterBackend):
    """REST framework asks it for lists and for objects by id alike, so what another account has is not found."""

    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: Any) -> QuerySet[Any]:
        return for_user(queryset, request.user)
