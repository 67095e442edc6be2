"""What the names may hold that people give to things."""

import unicodedata

from core_app.errors import InvalidInput

_LINE_ENDS = frozenset({"Cc", "Zl", "Zp"})
"""Unicode's categories of control characters and of separators of lines and paragraphs."""
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Embeddings, overrides and isolates of the bidirectional algorithm (UAX #9): they turn what stands around a name."""


def check_name(name: str, field: str = "name") -> None:
    """Raise InvalidInput for a name that would break a line, or turn the text around it, wherever it is shown.

    Everything else is a name: quotes, markup, letters that are written from right to left and their marks.
    """
    bad = next((sign for sign in name if unicodedata.category(sign) in _LINE_ENDS or sign in _TURNING), None)
    if bad is None:
        return
    sign = f"U+{ord(bad):04X} ({unicodedata.name(bad, 'a control character').lower()})"
    raise InvalidInput(
        f"The {field} holds {sign}, which no name may hold.",
        "Nothing was made.",
        "Leave out control characters, line breaks and signs that turn the direction of the text.",
        code="name_refused",
        errors={field: [f"It may not hold {sign}."]},
    )
