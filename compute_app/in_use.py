"""What this room says against the deletion of what earlier rooms have."""

from compute_app.models import Volume
from templates_app.models import Template

NAMED = 3


def of_template(template: Template) -> str:
    """Volumes are overlays on the template's copy, also while they are still to be made."""
    overlays = Volume.objects.filter(files__backing_placement__template=template).exclude(state=Volume.State.REMOVED)
    names = list(overlays.order_by("created_at").values_list("name", flat=True)[: NAMED + 1])
    if not names:
        return ""
    more = " and others" if len(names) > NAMED else ""
    return f"{template} is the backing of {', '.join(names[:NAMED])}{more}."
