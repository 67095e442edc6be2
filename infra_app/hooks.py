"""What later rooms know of the rows here; they tell in ``AppConfig.ready()``, for this room does not import them."""

from django.db.models import IntegerField, Value
from django.db.models.expressions import Combinable

_running_commands: list[Combinable] = [Value(0, output_field=IntegerField())]


def count_running_commands_by(expression: Combinable) -> None:
    """Set the expression that counts a host's running commands, over rows of ``Agent`` (``OuterRef("pk")``)."""
    _running_commands[:] = [expression]


def running_commands() -> Combinable:
    """The expression in force; 0 until a room of commands is there."""
    return _running_commands[0]
