"""Events and settings in the admin."""

from django.contrib import admin
from django.db import models
from django.http import HttpRequest

from core_app.models import Event, IdempotencyKey, Setting


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic when it runs
    """For rows that the system writes: people look, and act through actions."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "level", "kind", "target_type", "target_name", "message")
    list_filter = ("level", "kind")
    search_fields = ("target_id", "target_name")
    date_hierarchy = "created_at"
    show_full_result_count = False


@admin.register(Setting)
class SettingAdmin(ReadOnlyAdmin):
    list_display = ("name", "value")


@admin.register(IdempotencyKey)
class IdempotencyKeyAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "path", "key", "status")
    exclude = ("body",)
