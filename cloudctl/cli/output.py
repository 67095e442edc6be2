"""What is printed: tables for people, JSON for programs. What comes from elsewhere is never printed raw."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cloudctl.cli.errors import CliError
from cloudctl.cli.references import References
from cloudctl.cli.resources import BY_NAME, SHOWN_BY_NAME

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_ENDLESS = 100_000


def clean(text: str) -> str:
    """With everything that a terminal could act on, or that hides or turns round text, as an escape one can see."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode() for char in text
    )


def size(number: float) -> str:
    """``1610612736`` → ``1.5 GiB``."""
    unit = 0
    while abs(number) >= 1024 and unit < len(UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.4g} {UNITS[unit]}"


def console(stream: TextIO) -> Console:
    """Of a terminal, its width; else lines as long as they are."""
    return Console(file=stream, width=None if stream.isatty() else _ENDLESS, highlight=False, markup=False, emoji=False)


def print_json(value: Any) -> None:
    """ASCII only, so that nothing in it can act on a terminal."""
    sys.stdout.write(json.dumps(value, indent=2).replace("\x7f", "\\u007f") + "\n")


def print_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], references: References) -> None:
    """A table, a line a row."""
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.removesuffix("_bytes").upper(), overflow="fold", no_wrap=not sys.stdout.isatty())
    for row in rows:
        table.add_row(*[Text(_cell(column, row.get(column), references)) for column in columns])
    console(sys.stdout).print(table)


def print_row(row: Mapping[str, Any], references: References) -> None:
    """All fields of one object, a line each."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold", no_wrap=not sys.stdout.isatty())
    for name, value in row.items():
        table.add_row(Text(clean(name)), Text(_cell(name, value, references)))
    console(sys.stdout).print(table)


def print_lines(text: str) -> None:
    """A text of several lines, cleaned line by line."""
    for line in text.splitlines():
        console(sys.stdout).print(Text(clean(line)))


def say(text: str, style: str = "") -> None:
    """A line for people, beside the output."""
    console(sys.stderr).print(Text(clean(text), style=style), soft_wrap=True)


def print_error(error: CliError) -> None:
    """Cause, consequence and remedy on stderr."""
    say(f"Error: {error.cause}", "bold red")
    parts = [("consequence", error.consequence), ("remedy", error.remedy), *error.details]
    for name, text in parts:
        say(f"  {name}: {text}")


def _cell(name: str, value: Any, references: References) -> str:
    if name in SHOWN_BY_NAME and isinstance(value, str):
        return clean(references.name_of(BY_NAME[SHOWN_BY_NAME[name]], value))
    if name.endswith("_bytes") and isinstance(value, int):
        return size(value)
    return clean(_plain(value))


def _plain(value: Any) -> str:
    """A value of JSON as a person would write it."""
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_plain(one) for one in value)
    if isinstance(value, dict):
        return _mapping(value)
    return _time(value) if isinstance(value, str) else str(value)


def _mapping(value: Mapping[str, Any]) -> str:
    if value.keys() == {"type", "id", "name"}:
        return f"{value['type']} {value['name']}"
    if {"cause", "consequence", "remedy"} <= value.keys():
        return f"{value['cause']} {value['consequence']} {value['remedy']}"
    return ", ".join(f"{name}: {_plain(one)}" for name, one in value.items())


def _time(text: str) -> str:
    """RFC 3339 without fractions of a second; any other text as it is."""
    if len(text) < 20 or text[10:11] != "T":
        return text
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S%z").replace("+0000", "Z")
    except ValueError:
        return text
