"""What templates count for at their account: its limits, and its usage records."""

from uuid import UUID

from accounts_app import limits, usage
from accounts_app.models import Resource
from templates_app.models import Template

COUNTED = (Template.State.ALLOCATED, Template.State.READY)


def of_template() -> dict[str, int]:
    """A template counts until its registration fails or it is deleted."""
    return {Resource.TEMPLATES: 1}


def count_templates(account_id: UUID) -> int:
    return Template.objects.filter(account=account_id, state__in=COUNTED).count()


def template_ready(template: Template) -> None:
    """A template can be deployed from now on."""
    usage.record("template", template, size_bytes=max(template.size_bytes or 0, 0))


def template_gone(template: Template, *, was_counted: bool = True) -> None:
    """A template can be deployed from no more; one whose registration had failed is not counted any longer."""
    if was_counted:
        limits.give_back(template.account, of_template())
    usage.record("template", template, count=0)
