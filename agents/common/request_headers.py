"""Headers that a user wants sent with a download: the forms they come in, and what is refused."""

import re
from collections.abc import Iterator, Mapping

from agents.common.errors import CommandError

OWN_HEADERS = frozenset(
    {"accept-encoding", "connection", "content-length", "host", "if-range", "range", "te", "transfer-encoding"}
)
"""Those that frame the request or the resumption: the downloader sets them."""

CREDENTIAL_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})
"""Held back from other hosts like secret headers, wherever they were given."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # RFC 9110, 5.6.2
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110, 5.5
_IMPORTED = "HTTP_HEADER"


def parse_headers(given: Mapping[str, str]) -> dict[str, str]:
    """Plain name → value from plain headers and the imported forms.

    The imported forms are ``HTTP_HEADER:<name>`` → value, and ``HTTP_HEADER`` → ``name:value``. Raises CommandError
    ``header_refused``; its text never holds a value.
    """
    headers: dict[str, str] = {}
    for name, value in _plain(given):
        _check(name, value)
        if name.lower() in {known.lower() for known in headers}:
            raise _refused(f"The header {name} is given twice.", "Give it once.")
        headers[name] = value
    return headers


def _plain(given: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for key, value in given.items():
        if key == _IMPORTED:
            name, colon, rest = value.partition(":")
            if not colon:
                raise _refused("HTTP_HEADER holds no colon.", "Write it as name:value.")
            yield name.strip(" \t"), rest.strip(" \t")
        elif key.startswith(_IMPORTED + ":"):
            yield key.removeprefix(_IMPORTED + ":").strip(" \t"), value.strip(" \t")
        else:
            yield key, value


def _check(name: str, value: str) -> None:
    if not _TOKEN.fullmatch(name):
        raise _refused(f"{name!r} is not a header's name.", "Use letters, digits and hyphens.")
    if name.lower() in OWN_HEADERS:
        raise _refused(f"The header {name} is set by the download itself.", "Leave it out.")
    if not _VALUE.fullmatch(value):
        raise _refused(
            f"The value of the header {name} holds a line break or another character that no header may hold.",
            "Write it on one line.",
        )


def _refused(cause: str, remedy: str) -> CommandError:
    return CommandError("header_refused", cause, "Nothing was sent.", remedy)
