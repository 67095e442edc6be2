"""``?dry_run=true``: what a request would do, and nothing done."""

from collections.abc import Callable
from typing import Any, TypeVar

from django.db import transaction
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request

T = TypeVar("T")

PARAMETER = OpenApiParameter("dry_run", bool, description="Answer 200 with the plan, and do nothing")


def wanted(request: Request) -> bool:
    """Whether only the plan is asked for. Raises a validation error for anything that is no truth value."""
    return bool(serializers.BooleanField().run_validation(request.query_params.get("dry_run", "false")))


def rehearse(act: Callable[[], T], describe: Callable[[T], dict[str, Any]]) -> dict[str, Any]:
    """Describe what ``act`` did, and take it back: refused is what would be refused, and nothing is published."""
    with transaction.atomic():
        plan = describe(act())
        transaction.set_rollback(True)
    return plan
