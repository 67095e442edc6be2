"""What templates count for at their account."""

from uuid import UUID

from accounts_app.models import Resource
from templates_app.models import Template

COUNTED = (Template.State.ALLOCATED, Template.State.READY)


def of_template() -> dict[str, int]:
    """A template counts until its registration fails or it is deleted."""
    return {Resource.TEMPLATES: 1}


def count_templates(account_id: UUID) -> int:
    return Template.objects.filter(account=account_id, state__in=COUNTED).count()
