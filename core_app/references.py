"""How an object is named where its type can vary: ``{type, id, name}``."""

from typing import TypedDict

from django.db import models


class Reference(TypedDict):
    type: str
    id: str
    name: str


def reference_type(model: type[models.Model]) -> str:
    """The model's word in the API: ``storage_pool``, ``vm_snapshot``; from its verbose name."""
    return str(model._meta.verbose_name).lower().replace(" ", "_")


def reference(target: models.Model) -> Reference:
    """Name an object; its text form stands in where it has no name."""
    return {
        "type": reference_type(type(target)),
        "id": str(target.pk),
        "name": str(getattr(target, "name", None) or target),
    }
