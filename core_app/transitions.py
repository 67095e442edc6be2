"""State changes that have exactly one winner.

A model carries its state machine as data, ``machine = StateMachine({to: {from, …}})``. :func:`transition` moves a row
by one ``UPDATE … WHERE state IN (…)`` and writes the event in the same transaction; whoever comes second is told so.
"""

from collections.abc import Collection, Mapping
from typing import Any

from django.db import models, transaction
from django.db.models.expressions import BaseExpression

from core_app import events


class StateMachine:
    """Which states may become which: ``moves[to]`` is what ``to`` may be reached from. The field is ``state``."""

    def __init__(self, moves: Mapping[str, Collection[str]]) -> None:
        self.moves = {str(to): frozenset(map(str, sources)) for to, sources in moves.items()}

    def sources(self, to: str) -> frozenset[str]:
        """States that may become ``to``. Raises ValueError for a state that nothing may become: a mistake in code."""
        if to not in self.moves:
            raise ValueError(f"no move leads to state {to!r}; known: {sorted(self.moves)}")
        return self.moves[to]


def transition(  # noqa: PLR0913  (a row, a state, and what goes into the same statement and event)
    obj: models.Model,
    to: str,
    *,
    event: str,
    message: str = "",
    sets: dict[str, Any] | None = None,
    where: dict[str, Any] | None = None,
    level: str = "info",
) -> bool:
    """Move ``obj`` to state ``to`` if its row is in a state that allows it and fits ``where``.

    ``sets`` are further fields of the same statement, ``where`` further lookups that guard it. True: this caller moved
    the row, the event is written, and ``obj`` has the new values. False: nothing was written; ``obj`` is as it was.
    """
    to = str(to)
    changes = {"state": to} | (sets or {})
    with transaction.atomic():
        rows = type(obj)._base_manager.filter(pk=obj.pk, state__in=sorted(obj.machine.sources(to)), **(where or {}))  # type: ignore[attr-defined]
        if not rows.update(**changes):
            return False
        _take_over(obj, changes)
        events.record(event, obj, message, level=level, details={"to": to})
    return True


def _take_over(obj: models.Model, changes: dict[str, Any]) -> None:
    """Set what was written on the object; what the database computed is read back."""
    computed = [name for name, value in changes.items() if isinstance(value, BaseExpression | models.F)]
    for name, value in changes.items():
        if name not in computed:
            setattr(obj, name, value)
    if computed:
        obj.refresh_from_db(fields=computed)
