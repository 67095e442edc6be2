"""Downloads over HTTP and HTTPS (RFC 9110), resumed by Range with If-Range."""

import re
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from agents.common.errors import CommandError
from agents.common.image_header import HEAD_BYTES
from agents.downloads.base import Checked, Monitor, Remote, Request, TransientError
from agents.downloads.connection import Client, Patience, Response, broken
from agents.downloads.part import MIB, Part

OK, PARTIAL, RANGE_NOT_SATISFIABLE = 200, 206, 416
MAX_RESTARTS = 5
CHECK_SECONDS = 60.0
"""The longest that a check takes, all tries together."""
PROGRESS_BYTES = MIB
"""A try that brought at least this much does not count as a failed one."""

TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
STATUS_OF_THIS_HOST = frozenset({403, 407, 451})
"""Refusals that may depend on who asks: another host is worth a try."""

T = TypeVar("T")

_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", re.ASCII)


class HttpDownloader:
    """``retries``: failed tries in a row before it gives up; ``backoff_seconds``: first pause, doubled each time."""

    def __init__(self, retries: int = 4, backoff_seconds: float = 0.5) -> None:
        self._retries = retries
        self._backoff_seconds = backoff_seconds

    def check(self, request: Request, pulse: Callable[[], None]) -> Checked:
        """One ranged GET, which servers that refuse HEAD answer too and which brings the header to inspect."""
        total = min(request.limits.total_timeout_seconds, CHECK_SECONDS)
        patience = Patience(request.limits.model_copy(update={"total_timeout_seconds": total}), pulse)
        client = Client(request, patience)
        return self._persist(lambda: _first_bytes(client), patience)

    def download(self, request: Request, part: Part, known: Remote, monitor: Monitor) -> Remote:
        patience = Patience(request.limits, monitor.check)
        transfer = _Transfer(Client(request, patience), part, known, monitor)
        self._persist(transfer.go_on, patience, lambda: part.offset, monitor.trouble)
        return transfer.remote

    def _persist(
        self,
        call: Callable[[], T],
        patience: Patience,
        position: Callable[[], int] = lambda: 0,
        trouble: Callable[[str], None] = lambda cause: None,
    ) -> T:
        """Call again after what may be gone in a moment; tries that got further are not counted."""
        failures = 0
        while True:
            before = position()
            try:
                return call()
            except TransientError as error:
                failures = 1 if position() - before >= PROGRESS_BYTES else failures + 1
                if failures > self._retries:
                    raise
                trouble(error.problem.cause)
            patience.wait(self._backoff_seconds * 2 ** (failures - 1))


class _Transfer:
    """One body on its way into a part, over as many connections as it takes."""

    def __init__(self, client: Client, part: Part, known: Remote, monitor: Monitor) -> None:
        self.remote = known
        self._client = client
        self._part = part
        self._monitor = monitor

    def go_on(self) -> None:
        """One connection. Returns when the body is whole; raises TransientError when another connection may help."""
        if self._part.offset and not self.remote.validator:
            self._start_over()
        if self._part.offset and self._part.offset == self.remote.size_bytes:
            return
        with self._client.get(self._range_headers()) as response:
            if self._begins_where_asked(response):
                self._receive(response)

    def _range_headers(self) -> dict[str, str]:
        if not self._part.offset:
            return {}
        return {"Range": f"bytes={self._part.offset}-", "If-Range": self.remote.validator}

    def _begins_where_asked(self, response: Response) -> bool:
        """Look at the answer before its body; False when the body turns out to be complete already."""
        offset = self._part.offset
        content_range = _content_range(response)
        whole = content_range.total == offset and self.remote.size_bytes in (-1, offset)
        if offset and response.status == RANGE_NOT_SATISFIABLE and whole:
            self.remote = Remote(offset, self.remote.validator)
            return False
        if offset and response.status in (PARTIAL, RANGE_NOT_SATISFIABLE):
            self._require_same_body(response, content_range)
        else:
            _require_status(response, OK)
            if offset:
                self._start_over()
            self.remote = Remote(_content_length(response), _validator(response))
        _require_identity(response)
        self._part.expect(self.remote.size_bytes)
        return True

    def _require_same_body(self, response: Response, content_range: "_ContentRange") -> None:
        """Bytes of another body must never be joined to those already there, whatever the server claims."""
        size, total = self.remote.size_bytes, content_range.total
        same_validator = _validator(response) in ("", self.remote.validator)
        if (
            content_range.start != self._part.offset
            or not same_validator
            or (-1 not in (size, total) and size != total)
        ):
            self._start_over()
            raise broken(response.url, "the answer to a range belongs to another content")
        if size == -1:
            self.remote = Remote(total, self.remote.validator)

    def _receive(self, response: Response) -> None:
        while data := response.read():
            self._part.write(data)
            self._monitor.received(self.remote)
        if self._part.offset < self.remote.size_bytes:
            raise broken(response.url, f"it ended after {self._part.offset} of {self.remote.size_bytes} bytes")
        self.remote = Remote(self._part.offset, self.remote.validator)

    def _start_over(self) -> None:
        if self._part.restarts == MAX_RESTARTS:
            raise CommandError(
                "source_not_resumable",
                "The source does not go on where a transfer broke: its content changes, or it cannot serve ranges.",
                "The download was given up after several beginnings.",
                "Use a mirror that supports ranges, or a URL whose content does not change.",
                elsewhere=True,
            )
        self._part.restart()


class _ContentRange(NamedTuple):
    start: int
    total: int
    """-1 when unknown, as is ``start`` when there is none."""


def _first_bytes(client: Client) -> Checked:
    with client.get({"Range": f"bytes=0-{HEAD_BYTES - 1}"}) as response:
        content_range = _content_range(response)
        if response.status == RANGE_NOT_SATISFIABLE and content_range.total == 0:
            return Checked(Remote(0), resumable=False, head=b"")
        partial = response.status == PARTIAL and content_range.start == 0
        if not partial:
            _require_status(response, OK)
        _require_identity(response)
        size = content_range.total if partial else _content_length(response)
        head = b""
        while len(head) < HEAD_BYTES and (data := response.read()):
            head += data
        if len(head) < min(HEAD_BYTES, size):
            raise broken(response.url, f"it ended after {len(head)} bytes")
        validator = _validator(response)
        return Checked(Remote(size, validator), partial and bool(validator), head[:HEAD_BYTES])


def _require_status(response: Response, wanted: int) -> None:
    status = response.status
    if status == wanted:
        return
    cause = f"{response.url} answered with status {status}."
    if status in TRANSIENT_STATUSES:
        raise TransientError(
            "source_status",
            cause,
            "It was tried again and given up in the end.",
            "Wait until the mirror is well again.",
        )
    raise CommandError(
        "source_status",
        cause,
        "Nothing was downloaded.",
        "Check that the URL is right and that the headers hold what the server asks for.",
        elsewhere=status in STATUS_OF_THIS_HOST,
    )


def _require_identity(response: Response) -> None:
    encoding = response.header("Content-Encoding").lower()
    if encoding not in ("", "identity"):
        raise CommandError(
            "source_encodes",
            f"{response.url} sends the file encoded as {encoding}, although it was asked not to.",
            "Nothing was downloaded.",
            "Switch off the server's compression of this file.",
        )


def _content_length(response: Response) -> int:
    """-1 when there is none, or a chunked body makes it meaningless (RFC 9112, 6.3)."""
    length = response.header("Content-Length")
    chunked = "chunked" in response.header("Transfer-Encoding").lower()
    return int(length) if length.isascii() and length.isdigit() and not chunked else -1


def _content_range(response: Response) -> _ContentRange:
    match = _CONTENT_RANGE.fullmatch(response.header("Content-Range"))
    if match is None:
        return _ContentRange(-1, -1)
    return _ContentRange(int(match[1] or -1), -1 if match[3] == "*" else int(match[3]))


def _validator(response: Response) -> str:
    """What If-Range may carry: a strong ETag, else Last-Modified (RFC 9110, 13.1.5)."""
    etag = response.header("ETag")
    return etag if etag and not etag.startswith("W/") else response.header("Last-Modified")
