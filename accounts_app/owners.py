"""Whose a new object is, and which objects its maker may name."""

from typing import Any, cast

from django.db.models import Model, QuerySet
from rest_framework import serializers

from accounts_app.models import Account, User
from accounts_app.tenancy import for_user, user_of
from core_app.errors import InvalidInput, NotFound, NotPermitted


class VisibleField(serializers.PrimaryKeyRelatedField[Any]):
    """A reference to an object that the user sees; any other is not found, whether it exists or not.

    The serializer needs the view's context.
    """

    def get_queryset(self) -> QuerySet[Any]:
        return for_user(cast("QuerySet[Any]", super().get_queryset()), user_of(self.context["request"]))

    def to_internal_value(self, data: Any) -> Model:
        try:
            found: Model = super().to_internal_value(data)
        except serializers.ValidationError as error:
            if error.get_codes() != ["does_not_exist"]:
                raise
            name = self.get_queryset().model._meta.verbose_name
            raise NotFound(
                f"There is no {name} {data}.", "Nothing was made.", f"Look at the list for each {name} of yours."
            )
        return found


def account_for(user: User, wanted: Account | None) -> Account:
    """The account that owns what ``user`` makes: the one that was named, else the user's own, else the only one.

    Raises NotFound for an account that the user does not see, NotPermitted for a user without any, InvalidInput where
    there is no telling.
    """
    if user.sees_everything:
        return wanted or user.account or _only_account()
    if user.account is None:
        raise NotPermitted("You belong to no account.", "Nothing was made.", "Ask an operator to put you into one.")
    if wanted is not None and wanted != user.account:
        raise NotFound(f"There is no account {wanted.pk}.", "Nothing was made.", "Leave it out: your own is taken.")
    return user.account


def _only_account() -> Account:
    accounts = list(Account.objects.all()[:2])
    if len(accounts) == 1:
        return accounts[0]
    raise InvalidInput(
        "It is not clear which account this belongs to.",
        "Nothing was made.",
        "Name the account.",
        errors={"account": ["Name one."]},
    )
