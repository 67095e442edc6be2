"""Whose a new object is."""

from accounts_app.models import Account, User
from core_app.errors import InvalidInput, NotPermitted


def account_for(user: User, wanted: Account | None) -> Account:
    """The account that owns what ``user`` makes: the one that was named, else the user's own, else the only one.

    Raises NotPermitted for another account's, InvalidInput where there is no telling.
    """
    if wanted is not None and not user.sees_everything and wanted.pk != user.account_id:
        raise NotPermitted("The account is not yours.", "Nothing was made.", "Leave the account out: yours is taken.")
    account = wanted or user.account or _only_account()
    if account is None:
        raise InvalidInput(
            "It is not clear which account this belongs to.",
            "Nothing was made.",
            "Name the account.",
            errors={"account": ["Name one."]},
        )
    return account


def _only_account() -> Account | None:
    accounts = list(Account.objects.all()[:2])
    return accounts[0] if len(accounts) == 1 else None
