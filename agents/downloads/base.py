"""What a downloader is: one interface for every kind of URL, so that another kind is one more class."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from agents.common.errors import CommandError
from agents.downloads.part import Part
from agents.protocol.kinds import DownloadLimits


class TransientError(CommandError):
    """The source failed in a way that may be gone in a moment: the same host tries again, some times."""

    def __init__(self, code: str, cause: str, consequence: str, remedy: str) -> None:
        super().__init__(code, cause, consequence, remedy, elsewhere=True)


@dataclass(frozen=True, slots=True)
class Request:
    """What to fetch. Headers are plain and checked (:func:`agents.common.request_headers.parse_headers`)."""

    url: str
    limits: DownloadLimits
    headers: Mapping[str, str] = field(default_factory=dict)
    secret_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent to the URL's own origin only."""
    follow_redirects: bool = True


@dataclass(frozen=True, slots=True)
class Remote:
    """The body as its server describes it; journaled, so that a resumption can see that it is still the same."""

    size_bytes: int = -1
    """-1 when the server does not say."""
    validator: str = ""
    """Names these very bytes (a strong ETag, or Last-Modified); empty when there is none, then nothing resumes."""


@dataclass(frozen=True, slots=True)
class Checked:
    remote: Remote
    resumable: bool
    head: bytes
    """The first bytes, enough to inspect the image's header."""


class Monitor(Protocol):
    """Follows one download for the command it belongs to."""

    def check(self) -> None:
        """Called several times a second; raises Cancelled or Interrupted to end the download."""

    def received(self, remote: Remote) -> None:
        """Some more bytes are in the part."""

    def trouble(self, cause: str) -> None:
        """The source failed and is tried again."""


class Downloader(Protocol):
    """Fetches URLs of some schemes. Everything raised is CommandError, or comes from the monitor."""

    def check(self, request: Request, pulse: Callable[[], None]) -> Checked:
        """Ask for the first bytes only; writes nothing."""

    def download(self, request: Request, part: Part, known: Remote, monitor: Monitor) -> Remote:
        """Put the whole body into the part, going on from ``part.offset`` if the body is still the ``known`` one."""
