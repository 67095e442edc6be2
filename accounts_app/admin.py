"""Accounts, users and tokens in the admin."""

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin

from accounts_app.models import Account, Limit, Token, UsageRecord, User
from core_app.admin import ReadOnlyAdmin


@admin.register(Account)
class AccountAdmin(ReadOnlyAdmin):
    list_display = ("name", "id", "created_at")
    search_fields = ("name",)


@admin.register(Limit)
class LimitAdmin(ReadOnlyAdmin):
    list_display = ("account", "resource", "used", "maximum")
    list_filter = ("resource",)
    list_select_related = ("account",)
    search_fields = ("account__name",)


@admin.register(User)
class PersonAdmin(UserAdmin):  # type: ignore[type-arg]  # not generic when it runs
    list_display = ("username", "role", "account", "is_active", "last_login")
    list_filter = ("role", "is_active")
    fieldsets = (*(UserAdmin.fieldsets or ()), ("cloudctl", {"fields": ("role", "account")}))
    add_fieldsets = (*UserAdmin.add_fieldsets, ("cloudctl", {"fields": ("role", "account")}))


@admin.register(Token)
class TokenAdmin(ReadOnlyAdmin):
    list_display = ("name", "user", "created", "expiry", "last_used_at")
    list_select_related = ("user",)
    exclude = ("digest",)


@admin.register(UsageRecord)
class UsageRecordAdmin(ReadOnlyAdmin):
    list_display = ("kind", "target_name", "count", "size_bytes", "created_at", "ended_at")
    list_filter = ("kind",)
    search_fields = ("target_id", "target_name")
