"""One HTTP request to an address that was checked, with redirects followed by hand and every wait interruptible.

Proxies and credentials from the environment are not used: the address that was checked is the one that is dialled.
"""

import errno
import http.client
import io
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import urljoin

from agents.common.address_guard import CheckedUrl, check_url_syntax, resolve
from agents.common.errors import CommandError
from agents.common.request_headers import CREDENTIAL_HEADERS
from agents.downloads.base import Request, TransientError
from agents.protocol.kinds import DownloadLimits

MAX_REDIRECTS = 10
REDIRECTS = frozenset({301, 302, 303, 307, 308})
READ_BYTES = 1024 * 1024
SLICE_SECONDS = 0.2
"""The longest wait between two looks at whether to go on."""


class Patience:
    """How long one download may take and how slow it may be; ``check`` ends it from outside."""

    def __init__(self, limits: DownloadLimits, check: Callable[[], None]) -> None:
        self.limits = limits
        self._check = check
        self._end = time.monotonic() + limits.total_timeout_seconds
        self.begin_window()

    def pulse(self) -> None:
        """Raise what ``check`` raises, or CommandError ``download_timeout``."""
        self._check()
        if time.monotonic() > self._end:
            raise CommandError(
                "download_timeout",
                f"The download took longer than {self.limits.total_timeout_seconds:g} s.",
                "It was given up.",
                "Use a faster mirror, or raise the setting download.total_timeout.",
                elsewhere=True,
            )

    def begin_window(self) -> None:
        """A new connection is not blamed for the slowness of the last one."""
        self._window_start, self._window_bytes = time.monotonic(), 0

    def received(self, count: int) -> None:
        """Raise TransientError ``source_stalled`` when a window of time brought fewer bytes than the floor."""
        self._window_bytes += count
        passed = time.monotonic() - self._window_start
        if passed < self.limits.stall_seconds:
            return
        if self._window_bytes < self.limits.stall_bytes_per_second * passed:
            raise TransientError(
                "source_stalled",
                f"The source sent {self._window_bytes} bytes in {passed:.0f} s.",
                "It was tried again and given up in the end.",
                "Use a faster mirror, or lower the setting download.stall_bytes_per_second.",
            )
        self.begin_window()

    def wait(self, seconds: float) -> None:
        """Sleep, ended by whatever :meth:`pulse` raises."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.pulse()
            time.sleep(min(left, SLICE_SECONDS))


class Response:
    """The answer to one request, after redirects. Use as a context manager; it ends the connection."""

    def __init__(self, url: CheckedUrl, answer: http.client.HTTPResponse, line: "_Line") -> None:
        self.url = url
        self.status = answer.status
        self._answer = answer
        self._line = line

    def __enter__(self) -> "Response":
        return self

    def __exit__(self, *_: object) -> None:
        self._line.hang_up()

    def header(self, name: str) -> str:
        """Empty when absent."""
        return self._answer.getheader(name, "").strip()

    def read(self) -> bytes:
        """What one read of the socket brings, at most 1 MiB; empty at the end. Raises TransientError when it broke."""
        try:
            return self._answer.read1(READ_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise broken(self.url, error) from error


class Client:
    """Sends requests of one download."""

    def __init__(self, request: Request, patience: Patience) -> None:
        self._request = request
        self._patience = patience
        self._tls = ssl.create_default_context()

    def get(self, extra: Mapping[str, str]) -> Response:
        """GET the URL with the request's headers and ``extra`` ones, following redirects; any other status returns."""
        allowed = self._request.limits.allowed_networks
        origin = url = check_url_syntax(self._request.url, allowed)
        for _ in range(MAX_REDIRECTS + 1):
            response = self._exchange(url, {**self._headers(origin, url), **extra})
            if response.status not in REDIRECTS:
                return response
            with response:
                target = response.header("Location")
            if not self._request.follow_redirects:
                raise _redirect(f"{url} redirects, and redirects are not to be followed.")
            if not target:
                raise _redirect(f"{url} redirects to nowhere.")
            url = check_url_syntax(urljoin(f"{url.scheme}://{url.authority}{url.target}", target), allowed)
        raise _redirect(f"{origin} redirects more than {MAX_REDIRECTS} times.")

    def _headers(self, origin: CheckedUrl, url: CheckedUrl) -> dict[str, str]:
        """Secrets go to the first origin only, or to the same host when it moves from http to https."""
        headers, secret = {"User-Agent": "cloudctl", **self._request.headers}, dict(self._request.secret_headers)
        if url[:3] == origin[:3] or (url.host == origin.host and (origin.scheme, url.scheme) == ("http", "https")):
            return headers | secret
        hidden = CREDENTIAL_HEADERS | {name.lower() for name in secret}
        return {name: value for name, value in headers.items() if name.lower() not in hidden}

    def _exchange(self, url: CheckedUrl, headers: Mapping[str, str]) -> Response:
        line = _Line(self._connect(url), self._patience)
        self._patience.begin_window()
        try:
            connection = http.client.HTTPConnection(url.host, url.port)
            connection.sock = cast(socket.socket, line)
            own = {"Host": url.authority, "Accept-Encoding": "identity", "Connection": "close"}
            connection.request("GET", url.target, headers={**headers, **own})
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            line.hang_up()
            raise broken(url, error) from error
        except BaseException:
            line.hang_up()
            raise
        return Response(url, answer, line)

    def _connect(self, url: CheckedUrl) -> socket.socket:
        failures = []
        for address in self._addresses(url):
            try:
                return self._secured(_dial(address, url.port, self._patience), url)
            except OSError as error:
                failures.append(f"{address}: {error.strerror or error}")
        raise TransientError(
            "source_unreachable",
            f"No connection to {url.host} port {url.port} ({'; '.join(failures)}).",
            "Nothing was downloaded from it.",
            "Check the mirror and this host's route to it.",
        )

    def _addresses(self, url: CheckedUrl) -> tuple[str, ...]:
        limits = self._request.limits
        try:
            return resolve(url, limits.allowed_networks, limits.connect_timeout_seconds, self._patience.pulse)
        except CommandError as error:
            problem = error.problem
            if not problem.elsewhere:
                raise
            raise TransientError(problem.code, problem.cause, problem.consequence, problem.remedy) from error

    def _secured(self, plain: socket.socket, url: CheckedUrl) -> socket.socket:
        if url.scheme != "https":
            return plain
        try:
            plain.settimeout(self._request.limits.connect_timeout_seconds)
            return self._tls.wrap_socket(plain, server_hostname=url.host)
        except ssl.SSLError as error:
            plain.close()
            reason = getattr(error, "verify_message", "") or error.reason or str(error)
            raise CommandError(
                "source_untrusted",
                f"No trusted TLS connection to {url.host}: {reason}.",
                "Nothing was sent or downloaded.",
                "Check the server's certificate, its name and dates, and that its authority is trusted on the host.",
                elsewhere=True,
            ) from error
        except OSError:
            plain.close()
            raise


class _Line(io.RawIOBase):
    """A connected socket as http.client wants one, which looks up from each wait several times a second."""

    def __init__(self, connected: socket.socket, patience: Patience) -> None:
        super().__init__()
        self._socket = connected
        self._patience = patience
        connected.settimeout(SLICE_SECONDS)

    def sendall(self, data: bytes) -> None:
        self._socket.settimeout(self._patience.limits.read_timeout_seconds)
        self._socket.sendall(data)
        self._socket.settimeout(SLICE_SECONDS)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        deadline = time.monotonic() + self._patience.limits.read_timeout_seconds
        while True:
            self._patience.pulse()
            try:
                count = self._socket.recv_into(buffer)
            except TimeoutError:
                self._patience.received(0)
                if time.monotonic() > deadline:
                    raise TimeoutError(errno.ETIMEDOUT, "nothing came for too long") from None
            else:
                self._patience.received(count)
                return count

    def close(self) -> None:
        """Does nothing: http.client closes early, while the response is still being read from here."""

    def hang_up(self) -> None:
        self._socket.close()


def broken(url: CheckedUrl, error: Exception | str) -> TransientError:
    """The connection ended before the body did."""
    reason = error if isinstance(error, str) else getattr(error, "strerror", None) or str(error) or type(error).__name__
    return TransientError(
        "source_broken",
        f"The transfer from {url} broke: {reason}.",
        "It was tried again and given up in the end.",
        "Check the mirror and the network between it and this host.",
    )


def _dial(address: str, port: int, patience: Patience) -> socket.socket:
    """Connect in slices of time, so that a cancel is heard meanwhile."""
    connecting = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)
        number = connecting.connect_ex((address, port))
        deadline = time.monotonic() + patience.limits.connect_timeout_seconds
        poll = select.poll()
        poll.register(connecting, select.POLLOUT)
        while number == errno.EINPROGRESS:
            patience.pulse()
            if poll.poll(SLICE_SECONDS * 1000):
                number = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            elif time.monotonic() > deadline:
                number = errno.ETIMEDOUT
        if number:
            raise OSError(number, os.strerror(number))
    except BaseException:
        connecting.close()
        raise
    return connecting


def _redirect(cause: str) -> CommandError:
    return CommandError(
        "redirect_refused", cause, "Nothing was downloaded.", "Register the URL where the file really is."
    )
