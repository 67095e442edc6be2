"""What templates count for at their account: its limits, and its usage records."""

from uuid import UUID

from accounts_app import usage
from accounts_app.models import Resource
from templates_app.models import Template

COUNTED = (Template.State.ALLOCATED, Template.State.READY)


def of_template() -> dict[str, int]:
    """A template counts until its registration fails or it is deleted."""
    return {Resource.TEMPLATES: 1}


def count_templates(account_id: UUID) -> int:
    return Template.objects.filter(account=account_id, state__in=COUNTED).count()


def template_moved(template: Template) -> None:
    """A template is in another state: it is used while it can be."""
    there = template.state == Template.State.READY
    usage.record("template", template, count=int(there), size_bytes=max(template.size_bytes or 0, 0))
