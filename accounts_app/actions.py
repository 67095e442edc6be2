"""What operators may do to accounts, users and tokens. Each function is one transaction."""

from datetime import timedelta

from django.db import IntegrityError, transaction

from accounts_app import limits
from accounts_app.models import Account, Role, Token, User
from core_app import events
from core_app.errors import NotPermitted, WrongState


def account_create(name: str) -> Account:
    """Raises WrongState if the name is taken."""
    try:
        with transaction.atomic():
            account = Account.objects.create(name=name)
            limits.make_rows(account)
            events.record("account.created", account)
    except IntegrityError:
        raise WrongState(
            f"There is an account {name} already.", "No other was made.", "Choose another name.", code="account_exists"
        )
    return account


def user_create(*, name: str, role: str, account: Account | None, password: str | None, by: User | None) -> User:
    """Make a user; without a password only tokens let it in. ``by`` None is the installation itself.

    Raises NotPermitted if ``by`` may not give the role, WrongState if the name is taken.
    """
    if role == Role.ADMIN and by is not None and not by.administers:
        raise NotPermitted("Only an admin makes admins.", "No user was made.", "Ask an admin, or choose another role.")
    try:
        with transaction.atomic():
            user = User(username=name, role=role, account=account, is_staff=role != Role.USER)
            user.set_password(password)
            user.save(force_insert=True)
            events.record("user.created", user, f"{name} with role {role}")
    except IntegrityError:
        raise WrongState(
            f"There is a user {name} already.", "No other was made.", "Choose another name.", code="user_exists"
        )
    return user


def token_create(user: User, *, name: str, by: User | None, valid: timedelta = timedelta(days=90)) -> tuple[Token, str]:
    """Make a token of ``user``. The secret is returned this once.

    Raises NotPermitted if ``by`` is neither the user nor may act for users of that role.
    """
    _check_may_act_for(user, by)
    with transaction.atomic():
        token, secret = Token.objects.create(user, expiry=valid, name=name)
        events.record("token.created", token, f"Token {name} of {user.name}")
    return token, secret


def token_delete(token: Token, *, by: User) -> None:
    """Make a token invalid at once. Raises NotPermitted as :func:`token_create` does."""
    _check_may_act_for(token.user, by)
    with transaction.atomic():
        events.record("token.deleted", token, f"Token {token.name} of {token.user.name}")
        token.delete()


def _check_may_act_for(user: User, by: User | None) -> None:
    if by is None or by == user or (by.operates and not user.administers) or by.administers:
        return
    raise NotPermitted(
        f"{by.name} may not manage the tokens of {user.name}.", "Nothing was changed.", "Ask the user, or an admin."
    )
