"""Templates and placements in the admin: to look at; the API acts."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from core_app.admin import ReadOnlyAdmin
from templates_app.models import Placement, Template


class PlacementInline(admin.TabularInline):  # type: ignore[type-arg]  # not generic when it runs
    model = Placement
    fields = ("kind", "zone", "pool", "state", "percent", "path", "size_bytes", "error")
    readonly_fields = fields
    extra = 0
    can_delete = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Placement]:
        rows: QuerySet[Placement] = super().get_queryset(request)
        return rows.select_related("zone", "pool", "operation", "template")


@admin.register(Template)
class TemplateAdmin(ReadOnlyAdmin):
    list_display = ("name", "account", "format", "state", "size_bytes", "virtual_size_bytes", "created_at")
    list_filter = ("state", "format", "zones")
    list_select_related = ("account",)
    search_fields = ("name", "id")
    exclude = ("secret_headers",)
    inlines = (PlacementInline,)


@admin.register(Placement)
class PlacementAdmin(ReadOnlyAdmin):
    list_display = ("template", "kind", "zone", "pool", "state", "percent", "path")
    list_filter = ("state", "kind", "zone")
    list_select_related = ("template", "zone", "pool", "operation")
