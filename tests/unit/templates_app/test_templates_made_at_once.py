"""What the tests make at once is what the words of the agents would have made."""

from typing import Any

from django.forms import model_to_dict

from infra_app.models import StoragePool
from templates_app.actions import template_prepare
from templates_app.models import Placement, Template
from tests.unit.templates_app.fleet import Fleet, in_transaction


def test_a_template_and_its_placements(fleet: Fleet, pool: StoragePool) -> None:
    said = fleet.checked()
    fleet.works(in_transaction(template_prepare, said, pool))
    made = fleet.template()
    fleet.on_pool(made, pool)
    assert rows(made) == rows(said)


def rows(template: Template) -> list[dict[str, Any]]:
    placements = Placement.objects.filter(template=template).order_by("kind")
    return [plain(row, template) for row in (Template.objects.get(pk=template.pk), *placements)]


def plain(row: Any, template: Template) -> dict[str, Any]:
    """All fields but those that differ between any two rows."""
    fields = {field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields}
    for name in ("id", "created_at", "operation_id", "template_id"):
        fields.pop(name, None)
    fields |= {"zones": model_to_dict(row, ["zones"]).get("zones")}
    return {name: str(value).replace(str(template.pk), "T") for name, value in fields.items()}
