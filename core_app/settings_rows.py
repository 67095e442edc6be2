"""Settings that operators change while the system runs: defined as data here and in each app, stored as rows.

An app adds its own with :func:`define` in ``AppConfig.ready()``. A row exists only where a value is not the default.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.dispatch import Signal

from core_app import events
from core_app.errors import InvalidInput, NotFound
from core_app.models import Setting

Value = bool | int | float | str

setting_changed = Signal()
"""Sent with ``name`` and ``value`` in the transaction that stores the value, so that a receiver's rows go with it."""


@dataclass(frozen=True)
class Definition:
    """``kind`` names a reader in ``KINDS``; ``bounds`` are the smallest and largest number, or the choices."""

    name: str
    kind: str
    default: Value
    unit: str
    bounds: tuple[Any, ...]
    help: str


_definitions: dict[str, Definition] = {}


def define(  # noqa: PLR0913, PLR0917  (the columns of the table below)
    name: str,
    kind: str,
    default: Value,
    unit: str,
    bounds: tuple[Any, ...],
    help: str,  # noqa: A002  (the word of the API)
) -> None:
    """Make a setting known. Raises ValueError for a second definition, or a default that it would refuse itself."""
    if name in _definitions:
        raise ValueError(f"setting {name} is defined twice")
    definition = Definition(name, kind, default, unit, bounds, help)
    read(definition, default)
    _definitions[name] = definition


def definitions() -> list[Definition]:
    """All of them, by name."""
    return [_definitions[name] for name in sorted(_definitions)]


def definition_of(name: str) -> Definition:
    """Raises NotFound for a name that no app defines."""
    if name not in _definitions:
        raise NotFound(f"There is no setting {name}.", "Nothing was changed.", "See /api/v1/settings/ for the names.")
    return _definitions[name]


def get(name: str) -> Any:
    """The value in force. Raises NotFound for an unknown name."""
    default = definition_of(name).default
    row = Setting.objects.filter(pk=name).first()
    return default if row is None else row.value


def values() -> dict[str, Any]:
    """All values in force, by name."""
    return {d.name: d.default for d in definitions()} | {
        row.name: row.value for row in Setting.objects.filter(name__in=_definitions)
    }


def put(name: str, value: Any) -> Value:
    """Store a value and tell ``setting_changed``. Raises NotFound; InvalidInput for a value out of bounds."""
    definition = definition_of(name)
    try:
        accepted = read(definition, value)
    except ValueError as error:
        raise InvalidInput(
            f"{name} cannot be {value!r}: {error}.",
            "The setting stays as it was.",
            "Send a value within the bounds that /api/v1/settings/ shows.",
            errors={"value": [str(error)]},
        )
    with transaction.atomic():
        row, _ = Setting.objects.update_or_create(name=name, defaults={"value": accepted})
        events.record("setting.changed", row, f"{name} is now {accepted}", details={"value": accepted})
        setting_changed.send(sender=Setting, name=name, value=accepted)
    return accepted


def read(definition: Definition, value: Any) -> Value:
    """The value as its kind has it, from JSON or from text (a command line's). Raises ValueError and says why."""
    if not isinstance(value, bool | int | float | str):
        raise ValueError(f"it must be a {definition.kind}")
    return KINDS[definition.kind](value, definition.bounds)


def _boolean(value: Any, _bounds: tuple[Any, ...]) -> bool:
    words = {"true": True, "false": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() not in words:
        raise ValueError("it must be true or false")
    return words[str(value).lower()]


def _whole(value: Any, bounds: tuple[Any, ...]) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError("it must be a whole number")
    return int(_within(int(value), bounds))


def _number(value: Any, bounds: tuple[Any, ...]) -> float:
    if isinstance(value, bool):
        raise ValueError("it must be a number")
    return _within(float(value), bounds)


def _within(number: float, bounds: tuple[Any, ...]) -> float:
    low, high = bounds
    if not low <= number <= high:
        raise ValueError(f"it must be from {low} to {high}")
    return number


def _choice(value: Any, bounds: tuple[Any, ...]) -> str:
    if value not in bounds:
        raise ValueError(f"it must be one of {', '.join(bounds)}")
    return str(value)


def _networks(value: Any, _bounds: tuple[Any, ...]) -> str:
    if not isinstance(value, str):
        raise ValueError("it must be text, networks separated by commas")
    parts = [part.strip() for part in value.split(",") if part.strip()]
    return ",".join(str(ipaddress.ip_network(part)) for part in parts)


KINDS: dict[str, Callable[[Any, tuple[Any, ...]], Value]] = {
    "boolean": _boolean,
    "integer": _whole,
    "number": _number,
    "choice": _choice,
    "networks": _networks,
}

DAY = 86_400

for _row in (
    ("reconcile.commands.enabled", "boolean", True, "", (), "Whether commands of unknown outcome are reconciled"),
    ("reconcile.commands.interval", "number", 60, "s", (0.5, DAY), "Time between two rounds of reconciliation"),
    ("reconcile.commands.max.attempts", "integer", 30, "", (1, 10_000), "Attempts before a person is asked"),
    ("reconcile.commands.workers", "integer", 100, "", (1, 1000), "Commands that are reconciled at once, at most"),
    ("ping.interval", "number", 60, "s", (0.5, 3600), "Time between two pings of an agent"),
    ("command.queue.deadline", "number", DAY, "s", (1, 30 * DAY), "How long a command may wait to be started"),
    ("command.redo.max", "integer", 3, "", (0, 100), "How often a command is begun anew after an interruption"),
    ("download.address.allow", "networks", "", "", (), "Private networks that downloads may reach, comma-separated"),
    ("download.connect.timeout", "number", 10, "s", (0.1, 600), "How long a mirror may take to accept a connection"),
    ("download.read.timeout", "number", 60, "s", (0.1, 3600), "How long a mirror may be silent in mid-answer"),
    ("download.stall.bytes_per_second", "integer", 1024, "B/s", (0, 10**12), "Slower than this is a stall; 0: never"),
    ("download.stall.seconds", "number", 120, "s", (1, DAY), "A stall of this length ends the attempt"),
    ("download.total.timeout", "number", 10_800, "s", (1, 7 * DAY), "How long a whole download may take"),
    (
        "expunge.delay",
        "number",
        DAY,
        "s",
        (0, 365 * DAY),
        "How long a destroyed VM can be recovered before it is expunged",
    ),
    ("api.requests.per.minute", "integer", 60_000, "", (0, 10**9), "Requests a token may make, a web process; 0: any"),
    ("host.memory.overcommit", "number", 1.0, "times", (0.1, 10), "Memory promised to VMs for each byte a host has"),
    ("storage.overcommit", "number", 1.0, "times", (0.1, 100), "Virtual disk sizes promised for each byte a pool has"),
    ("host.accelerator", "choice", "auto", "", ("auto", "kvm", "tcg"), "How VMs run; auto asks the host's own probe"),
):
    define(*_row)
