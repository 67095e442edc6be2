"""``?dry_run=true``: what a request would do, and nothing done."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from django.db import transaction
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request

T = TypeVar("T")

PARAMETER = OpenApiParameter("dry_run", bool, description="Answer 200 with the plan, and do nothing")


class PlannedFileSerializer(serializers.Serializer[Any]):
    """A file that would be removed."""

    host = serializers.CharField(allow_null=True, help_text="Who would do it; null while none reaches the pool")
    pool = serializers.CharField()
    path = serializers.CharField()
    size_bytes = serializers.IntegerField(help_text="Of a disk, as its guest sees it")


class DeletionPlanSerializer(serializers.Serializer[Any]):
    """What a deletion would do."""

    power_off_on = serializers.CharField(allow_null=True, help_text="Host where a VM's power would be taken away")
    files = PlannedFileSerializer(many=True)
    size_bytes = serializers.IntegerField(help_text="Of all the files")


def deletion_plan(files: Sequence[Mapping[str, Any]], power_off_on: str | None = None) -> dict[str, Any]:
    """The body of :class:`DeletionPlanSerializer`."""
    return {"power_off_on": power_off_on, "files": files, "size_bytes": sum(file["size_bytes"] for file in files)}


def wanted(request: Request) -> bool:
    """Whether only the plan is asked for. Raises a validation error for anything that is no truth value."""
    return bool(serializers.BooleanField().run_validation(request.query_params.get("dry_run", "false")))


def rehearse(act: Callable[[], T], describe: Callable[[T], dict[str, Any]]) -> dict[str, Any]:
    """Describe what ``act`` did, and take it back: refused is what would be refused, and nothing is published."""
    with transaction.atomic():
        plan = describe(act())
        transaction.set_rollback(True)
    return plan
