"""Templates and placements in the admin."""

from collections.abc import Iterable
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from accounts_app.models import User
from accounts_app.owners import account_for
from core_app.console import cells
from core_app.console.forms import NamesField, use_for
from core_app.console.pages import Panel, RoomAdmin, button
from infra_app.models import Zone
from operations_app.admin import happenings_of, operations_of, progress_text
from operations_app.models import Operation
from templates_app import actions, api
from templates_app.models import Placement, Template

PLACEMENTS_SHOWN = 100


def _zones(_field: Any, options: dict[str, Any]) -> forms.Field:
    help_text = "Names separated by commas; empty: all"
    return NamesField(rows=Zone.objects.all(), **options | {"help_text": help_text, "initial": None})


use_for(api.ZonesField, _zones)


def placement_progress(placement: Placement) -> SafeString:
    """How far its download is."""
    percent = placement.percent
    told = progress_text(placement.progress)
    return cells.meter(percent, f"{percent} %, {told}" if told else "", cells.tone(placement.state))


@admin.register(Template)
class TemplateAdmin(RoomAdmin):
    list_display = ("name", "state_badge", "format", "account", "download_size", "virtual_size", "made")
    list_filter = ("state", "format", "zones")
    list_select_related = ("account",)
    facts = ("state_badge", "account", "url_text", "format", "download_size", "virtual_size", "checksum_text",
             "sha256_text", "zone_names", "public", "made", "uid")  # fmt: skip
    live = True

    @admin.display(description="state")
    def state_badge(self, template: Template) -> SafeString:
        return cells.badge(template.state)

    @admin.display(description="URL")
    def url_text(self, template: Template) -> SafeString:
        """Without the query, which may hold a secret."""
        return cells.mono(template.url.partition("?")[0])

    @admin.display(description="download size")
    def download_size(self, template: Template) -> SafeString:
        return cells.size(template.size_bytes)

    @admin.display(description="disk size")
    def virtual_size(self, template: Template) -> SafeString:
        return cells.size(template.virtual_size_bytes)

    @admin.display(description="checksum given")
    def checksum_text(self, template: Template) -> SafeString:
        return cells.mono(template.checksum)

    @admin.display(description="SHA-256 of the first copy")
    def sha256_text(self, template: Template) -> SafeString:
        return cells.mono(template.sha256)

    @admin.display(description="zones")
    def zone_names(self, template: Template) -> SafeString:
        return cells.lines(cells.link(zone) for zone in template.zones.order_by("name")[:PLACEMENTS_SHOWN])

    @admin.display(description="made")
    def made(self, template: Template) -> SafeString:
        return cells.when(template.created_at)

    @admin.display(description="id")
    def uid(self, template: Template) -> SafeString:
        return cells.mono(template.pk)

    def panels(self, row: Template) -> Iterable[Panel]:
        placements = row.placements.filter(kind=Placement.Kind.POOL).select_related("template", "pool", "operation")
        yield Panel(
            "Placements",
            ("Pool", "State", "Percent", "Mirror", "Reason", "Operation"),
            [
                (
                    cells.link(one, one.pool),
                    cells.badge(one.state),
                    placement_progress(one),
                    cells.mono(one.mirror or ""),
                    (one.error or {}).get("cause", cells.NOTHING),
                    cells.link(one.operation, "download") if one.operation else cells.NOTHING,
                )
                for one in placements.order_by("pool__name", "pk")[:PLACEMENTS_SHOWN]
            ],
            "On no pool yet: the first VM that needs it there brings it.",
            css="wide",
        )
        yield from operations_of(row)
        yield from happenings_of(row)

    @button(
        "Register template",
        takes=api.NewTemplateSerializer,
        leaves_out=("direct_download", "is_iso"),  # always; it follows from the format
        on_list=True,
    )
    def register(self, user: User, fields: dict[str, Any]) -> Template:
        fields.pop("direct_download")
        account = account_for(user, fields.pop("account", None))
        template, _ = actions.template_register(actions.Registration(account=account, **fields), user)
        return template

    @button(
        "Download to a pool",
        takes=api.PrepareSerializer,
        when=lambda template: template.state == Template.State.READY,
    )
    def prepare(self, user: User, template: Template, **fields: Any) -> None:
        actions.template_prepare(template, fields["pool"], user)

    @button(
        "Delete",
        danger=True,
        when=lambda template: template.state != Template.State.DELETED,
        asks="Nobody can use it any more, at once, and its copies are removed from the pools.",
        previews=api.removal_plan,
    )
    def delete(self, user: User, template: Template) -> Operation:
        return actions.template_delete(template, user)


@admin.register(Placement)
class PlacementAdmin(RoomAdmin):
    list_display = ("template", "state_badge", "progress_cell", "pool", "kind", "zone")
    list_filter = ("state", "kind", "zone")
    list_select_related = ("template", "zone", "pool", "operation")
    name_lookup = "template__name"
    ids = ("id", "template_id", "pool_id")
    facts = ("template", "pool", "zone", "progress_cell", "mirror", "path_text", "size_cell", "attempt", "operation")
    live = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Placement]:
        rows: QuerySet[Placement] = super().get_queryset(request)
        return rows.select_related("template", "zone", "pool", "operation")

    @admin.display(description="state")
    def state_badge(self, placement: Placement) -> SafeString:
        return cells.badge(placement.state)

    @admin.display(description="percent")
    def progress_cell(self, placement: Placement) -> SafeString:
        return placement_progress(placement)

    @admin.display(description="path")
    def path_text(self, placement: Placement) -> SafeString:
        return cells.mono(placement.path)

    @admin.display(description="size")
    def size_cell(self, placement: Placement) -> SafeString:
        return cells.size(placement.size_bytes)

    def panels(self, row: Placement) -> Iterable[Panel]:
        yield from operations_of(row)
        yield from happenings_of(row)
