"""Sizes as people write and read them; everywhere else they are bytes."""

import re
from decimal import Decimal

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_WRITTEN = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGTP])(?:i?B)?|B)?", re.IGNORECASE)


def size_text(size_bytes: int) -> str:
    """``1.5 GiB``; three digits at least, so that a disk that grows is seen to."""
    amount = Decimal(size_bytes)
    for unit in UNITS:
        if abs(amount) < 1024 or unit == UNITS[-1]:
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.3g} {unit}"


def read_size(text: str) -> int:
    """Bytes of ``10 GiB``, ``512M`` or ``1048576``; a prefix is a power of 1024. Raises ValueError for other text."""
    found = _WRITTEN.fullmatch(text.strip())
    if found is None:
        raise ValueError("write a size as 10 GiB, 512 MiB or a number of bytes")
    number, prefix = found.groups()
    size = Decimal(number) * 1024 ** " KMGTP".index((prefix or " ").upper())
    if size != int(size):
        raise ValueError("that is no whole number of bytes")
    return int(size)
