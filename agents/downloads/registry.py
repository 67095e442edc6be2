"""Which downloader serves a URL, and what it is asked for."""

from collections.abc import Mapping
from typing import Any

from agents.common.address_guard import check_url_syntax
from agents.common.request_headers import parse_headers
from agents.downloads.base import Downloader, Request
from agents.downloads.http import HttpDownloader
from agents.protocol.kinds import DownloadLimits, Source

DOWNLOADERS: Mapping[str, Downloader] = {"http": HttpDownloader(), "https": HttpDownloader()}
"""Scheme → downloader."""


def request_for(source: Source, limits: DownloadLimits, secrets: Mapping[str, Any]) -> Request:
    """What to ask for. ``secrets`` may hold ``secret_headers``. Raises CommandError for bad headers."""
    return Request(
        url=source.url,
        limits=limits,
        headers=parse_headers(source.headers),
        secret_headers=parse_headers(secrets.get("secret_headers", {})),
        follow_redirects=source.follow_redirects,
    )


def downloader_for(request: Request, downloaders: Mapping[str, Downloader]) -> Downloader:
    """Raises CommandError ``url_refused`` or ``address_refused``; a scheme without a downloader is refused, too."""
    return downloaders[check_url_syntax(request.url, request.limits.allowed_networks).scheme]
