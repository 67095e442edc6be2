"""Registers what this room offers to the others."""

from typing import Any

from django.apps import AppConfig


class OperationsConfig(AppConfig):
    name = "operations_app"
    verbose_name = "operations"

    def ready(self) -> None:
        from django.db.models import Count, IntegerField, OuterRef, Subquery
        from django.db.models.functions import Coalesce

        from agents.protocol.kinds import KINDS
        from agents.protocol.states import AGENT_ACTIVE
        from core_app import accepted, settings_rows
        from infra_app import hooks
        from operations_app import schedule
        from operations_app.models import Command

        for kind in KINDS.values():
            settings_rows.define(
                f"command.deadline.{kind.name}",
                "number",
                kind.deadline_seconds,
                "s",
                (0.5, 7 * settings_rows.DAY),
                f"How long {kind.name} may run before its outcome is in doubt",
            )
        running = Command.objects.filter(agent=OuterRef("pk"), state__in=sorted(AGENT_ACTIVE)).order_by()
        counted = running.values("agent").annotate(count=Count("pk")).values("count")
        hooks.count_running_commands_by(Coalesce(Subquery(counted, output_field=IntegerField()), 0))
        accepted.describe_operations_by(_described)
        settings_rows.setting_changed.connect(schedule.follow_setting, dispatch_uid="operations_app.schedule")


def _described(operation: Any) -> dict[str, Any]:
    from operations_app.api import OperationSerializer  # views want all rooms to be ready

    return OperationSerializer(operation).data
