"""What people write for a field, as JSON. All raise ``ValueError`` with a text for people."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cloudctl.cli.table import Field, Kind

NONE = "none"
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_BYTES_EACH = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")
_SECONDS_EACH = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_FROM_ELSEWHERE_ONLY = "give @FILE, or @- for standard input: what stands on a command line is no secret"


def bytes_of(text: str) -> int:
    """``1.5GiB`` → 1610612736."""
    return round(_measure(text, _BYTES, _BYTES_EACH, "a size as 512M, 10GiB or a number of bytes"))


def seconds_of(text: str) -> float:
    """``90``, ``1.5m`` → 90.0."""
    return _measure(text, _SECONDS, _SECONDS_EACH, "a time as 90, 15m, 12h or 30d")


def value_of(field: Field, text: str) -> Any:
    """What one occurrence of a field's option means in JSON; references stay as they are written."""
    if field.nullable and text == NONE:
        return None
    if field.choices and text not in field.choices:
        raise ValueError(f"{text!r} is none of {', '.join(field.choices)}")
    return _READERS[field.kind](field, text)


def entry_of(field: Field, text: str) -> tuple[str, str]:
    """``NAME=VALUE`` of a map."""
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise ValueError(f"{field.word_of_option} is written NAME=VALUE")
    return name, _secret(value) if field.kind is Kind.SECRET_MAP else _content(value)


def _measure(text: str, pattern: re.Pattern[str], each: Mapping[str, int], wanted: str) -> float:
    match = pattern.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not {wanted}")
    unit = match[2] if match[2] in each else match[2].upper()
    return float(match[1]) * each[unit] if "." in match[1] else int(match[1]) * each[unit]


def _content(text: str) -> str:
    """The text, or what is in the file that follows ``@``."""
    if not text.startswith("@"):
        return text
    try:
        return sys.stdin.read() if text == "@-" else Path(text[1:]).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{text[1:]} cannot be read: {error}")


def _secret(text: str) -> str:
    """From a file or standard input; the line's end is not part of it."""
    if not text.startswith("@"):
        raise ValueError(_FROM_ELSEWHERE_ONLY)
    return _content(text).removesuffix("\n").removesuffix("\r")


def _number(text: str) -> int:
    if not re.fullmatch(r"-?\d+", text):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def _object(field: Field, text: str) -> dict[str, Any]:
    members = {member.word_of_option: member for member in field.members}
    if "=" not in text and len(members) == 1:
        text = f"{next(iter(members))}={text}"
    made = {}
    for part in text.split(","):
        word, sign, value = part.partition("=")
        if not sign or word not in members:
            raise ValueError(f"{part!r} is not member=value; members: {', '.join(members)}")
        made[members[word].name] = value_of(members[word], value)
    return made


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


_READERS: Mapping[Kind, Callable[[Field, str], Any]] = {
    Kind.TEXT: lambda _field, text: text,
    Kind.REFERENCE: lambda _field, text: text,
    Kind.CONTENT: lambda _field, text: _content(text),
    Kind.SECRET: lambda _field, text: _secret(text),
    Kind.NUMBER: lambda _field, text: _number(text),
    Kind.BYTES: lambda _field, text: bytes_of(text),
    Kind.SECONDS: lambda _field, text: round(seconds_of(text)),
    Kind.MAP: entry_of,
    Kind.SECRET_MAP: entry_of,
    Kind.OBJECT: _object,
    Kind.JSON: lambda _field, text: _json(text),
}
