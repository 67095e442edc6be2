"""What operators may do to accounts, users and tokens. Each function is one transaction."""

from dataclasses import dataclass
from datetime import timedelta

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Q

from accounts_app import limits
from accounts_app.models import Account, Role, Token, User
from core_app import events
from core_app.errors import InvalidInput, NotPermitted, WrongState
from core_app.names import check_name


def account_create(name: str) -> Account:
    """Raises WrongState if the name is taken, InvalidInput if it cannot be a name."""
    check_name(name)
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

    Raises NotPermitted if ``by`` may not give the role, InvalidInput for a password that is too easy or what is no
    name, WrongState if the name is taken.
    """
    check_name(name)
    _check_may_give(role, by)
    try:
        with transaction.atomic():
            user = User(username=name, role=role, account=account, is_staff=role != Role.USER)
            _set_password(user, password)
            user.save(force_insert=True)
            events.record("user.created", user, f"{name} with role {role}")
    except IntegrityError:
        raise WrongState(
            f"There is a user {name} already.", "No other was made.", "Choose another name.", code="user_exists"
        )
    return user


@dataclass(frozen=True, slots=True)
class UserChange:
    """What is to be different about a user; None: as it is. One that is not active gets in no more, at once."""

    role: str | None = None
    account: Account | None = None
    active: bool | None = None
    password: str | None = None


def user_change(user: User, change: UserChange, *, by: User) -> User:
    """Change a user. Everyone may change the own password; the rest is for those who manage users of that role.

    Raises NotPermitted, InvalidInput for a password that is too easy, WrongState if no active admin were left.
    """
    with transaction.atomic():
        user = User.objects.select_for_update().get(pk=user.pk)
        _check_may_change(user, change, by)
        was_admin = user.administers and user.is_active
        user.role = change.role or user.role
        user.is_staff = user.is_superuser or user.role != Role.USER
        user.account = change.account or user.account
        user.is_active = user.is_active if change.active is None else change.active
        if change.password is not None:
            _set_password(user, change.password)
        user.save(update_fields=["role", "is_staff", "account", "is_active", "password"])
        if was_admin:
            _check_an_admin_is_left()
        events.record("user.changed", user, f"{user.name}: {', '.join(_changed(change))}; by {by.name}")
    return user


def user_delete(user: User, *, by: User) -> None:
    """Delete a user and its tokens; what it asked for stays. Raises NotPermitted, or WrongState for the last admin."""
    with transaction.atomic():
        user = User.objects.select_for_update().get(pk=user.pk)
        _check_manages(user, by)
        events.record("user.deleted", user, f"{user.name}; by {by.name}")
        user.delete()
        if user.administers and user.is_active:
            _check_an_admin_is_left()


def _changed(change: UserChange) -> list[str]:
    """Names of what is changed, never values: one is a password."""
    return [name for name in ("role", "account", "active", "password") if getattr(change, name) is not None]


def _set_password(user: User, password: str | None) -> None:
    if password is not None:
        try:
            validate_password(password, user)
        except ValidationError as error:
            raise InvalidInput(
                " ".join(error.messages),
                "The password was not set.",
                "Choose a longer, less usual one.",
                code="password_refused",
                errors={"password": error.messages},
            )
    user.set_password(password)


def _check_may_give(role: str, by: User | None) -> None:
    if by is not None and not by.operates:
        raise NotPermitted("Only operators make users.", "No user was made.", "Ask an operator.")
    if role == Role.ADMIN and by is not None and not by.administers:
        raise NotPermitted("Only an admin makes admins.", "No user was made.", "Ask an admin, or choose another role.")


def _check_may_change(user: User, change: UserChange, by: User) -> None:
    if by == user and _changed(change) == ["password"]:
        return
    _check_manages(user, by)
    if change.role is not None:
        _check_may_give(change.role, by)


def _check_manages(user: User, by: User) -> None:
    if not by.administers and (user.administers or not by.operates):
        raise NotPermitted(f"{by.name} may not manage {user.name}.", "Nothing was changed.", "Ask an admin.")


def _check_an_admin_is_left() -> None:
    """With none, nobody could ever make one again. Admins are locked, so that two do not remove each other."""
    admins = User.objects.select_for_update().filter(Q(is_superuser=True) | Q(role=Role.ADMIN), is_active=True)
    if not list(admins.order_by("pk").values_list("pk")):
        raise WrongState(
            "No active admin would be left.", "Nothing was changed.", "Make another admin first.", code="last_admin"
        )


def token_create(user: User, *, name: str, by: User | None, valid: timedelta = timedelta(days=90)) -> tuple[Token, str]:
    """Make a token of ``user``. The secret is returned this once.

    Raises NotPermitted if ``by`` is neither the user nor may act for users of that role.
    """
    _check_may_act_for(user, by)
    check_name(name)
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
