"""Accounts, users and tokens in the admin."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.contrib.auth.models import Group
from django.utils.safestring import SafeString

from accounts_app import actions, api, limits
from accounts_app.models import Account, Limit, Resource, Token, UsageRecord, User
from core_app.console import cells
from core_app.console.pages import Panel, RoomAdmin, Secret, button

ROWS_SHOWN = 50

admin.site.unregister(Group)  # roles decide here; groups would look as if they did


def _maxima(account: Account) -> dict[str, Any]:
    return {row.resource: row.maximum for row in account.limit_rows.all()}


def _amounts(limit: Limit) -> tuple[object, object]:
    shown = cells.size if limit.resource.endswith("_bytes") else str
    return shown(limit.used), "no limit" if limit.maximum is None else shown(limit.maximum)


@admin.register(Account)
class AccountAdmin(RoomAdmin):
    ordering = ("name",)
    list_display = ("name", "made", "uid")
    facts = ("uid", "made")

    @admin.display(description="made")
    def made(self, account: Account) -> SafeString:
        return cells.when(account.created_at)

    @admin.display(description="id")
    def uid(self, account: Account) -> SafeString:
        return cells.mono(account.pk)

    def panels(self, row: Account) -> Iterable[Panel]:
        limits_now = row.limit_rows.order_by("resource")
        yield Panel(
            "Limits",
            ("Resource", "Used", "Limit"),
            [(one.get_resource_display(), *_amounts(one)) for one in limits_now],
        )
        users = row.users.order_by("username")[:ROWS_SHOWN]
        yield Panel("Users", ("User", "Role"), [(cells.link(user), user.get_role_display()) for user in users])

    @button("New account", takes=api.AccountSerializer, on_list=True)
    def create(self, user: User, fields: dict[str, Any]) -> Account:
        return actions.account_create(fields["name"])

    @button("Change limits", takes=api.LimitsSerializer, begins=_maxima, asks="An empty field: no limit.")
    def change_limits(self, user: User, account: Account, **fields: Any) -> None:
        limits.put(account, {resource: fields.get(resource) for resource in Resource.values})


def _as_it_is(user: User) -> dict[str, Any]:
    return {"account": user.account_id, "role": user.role, "active": user.is_active}


@admin.register(User)
class PersonAdmin(RoomAdmin):
    ordering = ("username",)
    list_display = ("username", "role", "account", "is_active", "last_login")
    list_filter = ("role", "is_active")
    list_select_related = ("account",)
    name_lookup = "username"
    facts = ("role", "account", "is_active", "date_joined", "last_login")

    def panels(self, row: User) -> Iterable[Panel]:
        tokens = Token.objects.filter(user=row).order_by("-created")[:ROWS_SHOWN]
        yield Panel(
            "Tokens",
            ("Token", "Made", "Expires", "Last used"),
            [
                (cells.link(one), cells.when(one.created), cells.when(one.expiry), cells.when(one.last_used_at))
                for one in tokens
            ],
            css="wide",
        )

    @button("New user", takes=api.UserSerializer, on_list=True)
    def create(self, user: User, fields: dict[str, Any]) -> User:
        name, password = fields["username"], fields.get("password")
        return actions.user_create(
            name=name, role=fields["role"], account=fields.get("account"), password=password, by=user
        )

    @button("Change", takes=api.UserChangeSerializer, begins=_as_it_is)
    def change(self, user: User, row: User, **fields: Any) -> None:
        actions.user_change(row, actions.UserChange(**fields), by=user)

    @button("New token", takes=api.NewTokenSerializer, leaves_out=("user",))
    def create_token(self, user: User, row: User, **fields: Any) -> Secret:
        valid = timedelta(seconds=fields["valid_seconds"])
        _, secret = actions.token_create(row, name=fields["name"], by=user, valid=valid)
        return Secret(f"The token of {row.name}, shown this once", secret)

    @button(
        "Delete",
        danger=True,
        removes=True,
        asks="Its tokens go with it, and whatever uses them is refused. What it asked for stays.",
    )
    def delete(self, user: User, row: User) -> None:
        actions.user_delete(row, by=user)


@admin.register(Token)
class TokenAdmin(RoomAdmin):
    ordering = ("-created", "-pk")
    list_display = ("name", "user", "created", "expiry", "last_used_at")
    list_select_related = ("user",)
    facts = ("user", "created", "expiry", "last_used_at")

    @button("Delete", danger=True, removes=True, asks="It is invalid at once: whatever uses it is refused.")
    def delete(self, user: User, token: Token) -> None:
        actions.token_delete(token, by=user)


@admin.register(UsageRecord)
class UsageRecordAdmin(RoomAdmin):
    list_display = ("target_name", "kind", "count", "size_cell", "began", "ended")
    name_lookup = "target_name"
    ids = ("id", "target_id", "account_id")
    facts = ("kind", "target", "account_id", "count", "size_cell", "began", "ended")

    @admin.display
    def target(self, record: UsageRecord) -> SafeString:
        return cells.link_to(record.target_type, record.target_id, record.target_name)

    @admin.display(description="size")
    def size_cell(self, record: UsageRecord) -> SafeString:
        return cells.size(record.size_bytes)

    @admin.display
    def began(self, record: UsageRecord) -> SafeString:
        return cells.when(record.created_at)

    @admin.display
    def ended(self, record: UsageRecord) -> SafeString:
        return cells.when(record.ended_at)
