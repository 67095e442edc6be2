"""A template mirror as bad as the worst one: `python -m tests.lab.mirror_server FOLDER HTTP HTTPS CONTROL`.

It serves FOLDER/files over HTTP and HTTPS on three inherited listening sockets, with ranges (RFC 9110, section 14) and
a strong ETag of each file's content. Faults come over the third: which path, what is wrong, for how many requests.
Every request is a JSON line in FOLDER/requests.jsonl, written when the answer is over.
"""

import hashlib
import json
import re
import select
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

_BLOCK_BYTES = 64 * 1024
_IDLE_SECONDS = 60.0
_INVERTED = bytes(range(255, -1, -1))
_CUTTING = {"drop", "stall", "endless", "lying_length"}

Kind = Literal[
    "drop",  # the connection is cut after `at` bytes of the body
    "stall",  # nothing more is sent after `at` bytes of the body, the connection stays open
    "throttle",  # `rate` bytes a second
    "delay",  # `seconds` before the answer begins
    "status",  # answers `status`, with `headers`
    "redirect",  # answers 302 to `location`
    "wrong_body",  # other bytes of the same length, under the same ETag
    "changed",  # other bytes of the same length, under another ETag
    "ignore_range",  # answers 200 and the whole file to a Range
    "wrong_range",  # answers 206 with the right Content-Range and the file's first bytes
    "endless",  # a body without a length that never ends
    "lying_length",  # Content-Length says `length`, the body has the file's
    "no_head",  # answers 405 to HEAD
    "need_header",  # answers 401 unless the request carries all of `headers`
]


@dataclass
class Fault:
    """One thing wrong with one path: after `skip` requests, for `times` requests (None: for all that follow)."""

    path: str
    kind: Kind
    at: int = 0
    rate: int = 0
    seconds: float = 0.0
    status: int = HTTPStatus.SERVICE_UNAVAILABLE
    location: str = ""
    length: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    times: int | None = None
    skip: int = 0


@dataclass(frozen=True)
class Request:
    """One line of the log. `range` is the Range header; `bytes` of the body were handed to the connection."""

    method: str
    path: str
    range: str | None
    status: int
    bytes: int
    headers: dict[str, str]


class Faults:
    """The faults in force. `heal` is set anew with each healing, so that a stalled answer can wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: list[Fault] = []
        self.healed = threading.Event()

    def add(self, row: Fault) -> None:
        with self._lock:
            self._rows.append(row)

    def clear(self) -> None:
        with self._lock:
            self._rows.clear()
            self.healed.set()
            self.healed = threading.Event()

    def rows(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(row) for row in self._rows]

    def taken(self, path: str) -> dict[str, Fault]:
        """The faults this request meets, by kind; those for a number of requests are used up by it."""
        met: dict[str, Fault] = {}
        with self._lock:
            for row in self._rows:
                if row.path == path and row.skip > 0:
                    row.skip -= 1
                elif row.path == path and row.times != 0:
                    met[row.kind] = row
                    row.times = None if row.times is None else row.times - 1
        return met


class _Server(ThreadingHTTPServer):
    """Serves an inherited listening socket; a TLS handshake happens in the request's own thread."""

    daemon_threads = True

    def __init__(self, listener: int, handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = socket.socket(fileno=listener)
        self._tls = tls

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        with self._tls.wrap_socket(request, server_side=True) as encrypted:
            super().finish_request(encrypted, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says in one line that a client went away or was not pleased with the certificate."""
        print(f"{client_address[1]}: {sys.exc_info()[1]!r}", file=sys.stderr, flush=True)


class _Handler(BaseHTTPRequestHandler):
    """One request to the mirror; `files`, `log`, `faults` are the process's."""

    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    files: Path
    log: Path
    faults: Faults

    def do_GET(self) -> None:
        self._status, self._sent, self._path = 0, 0, unquote(urlsplit(self.path).path)
        met = self.faults.taken(self._path)
        try:
            self._serve(met)
        except OSError:
            self.close_connection = True
        finally:
            self._record()

    def do_HEAD(self) -> None:
        self.do_GET()

    def _serve(self, met: dict[str, Fault]) -> None:
        if delay := met.get("delay"):
            time.sleep(delay.seconds)
        if refusal := self._refusal(met):
            status, headers = refusal
            self._begin(status, headers | {"Content-Length": "0"})
            return
        content, etag = _content(self.files / self._path.lstrip("/"), met)
        size = len(content)
        wanted = None if "ignore_range" in met else self._range(size, etag)
        headers = {"ETag": etag, "Accept-Ranges": "bytes"}
        if wanted is None:
            self._begin(HTTPStatus.OK, headers | _length(size, met))
        elif wanted.start >= size:
            headers |= {"Content-Range": f"bytes */{size}", "Content-Length": "0"}
            self._begin(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers)
            return
        else:
            headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{size}"
            self._begin(HTTPStatus.PARTIAL_CONTENT, headers | _length(len(wanted), met))
        if self.command == "GET":
            self._send(content, wanted or range(size), met)

    def _refusal(self, met: dict[str, Fault]) -> tuple[int, dict[str, str]] | None:
        if "no_head" in met and self.command == "HEAD":
            return HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET"}
        needed = met["need_header"].headers if "need_header" in met else {}
        if any(self.headers.get(name) != value for name, value in needed.items()):
            return HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": "Token"}
        if fault := met.get("status"):
            return fault.status, fault.headers
        if fault := met.get("redirect"):
            return HTTPStatus.FOUND, {"Location": fault.location}
        return None if (self.files / self._path.lstrip("/")).is_file() else (HTTPStatus.NOT_FOUND, {})

    def _range(self, size: int, etag: str) -> range | None:
        """The bytes asked for; None for the whole, also when If-Range names another version."""
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked is None or not any(asked.groups()) or self.headers.get("If-Range", etag) != etag:
            return None
        first, last = asked.groups()
        if not first:
            return range(max(0, size - int(last)), size)
        return range(int(first), min(size, int(last) + 1) if last else size)

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self._status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, content: bytes, wanted: range, met: dict[str, Fault]) -> None:
        healed = self.faults.healed
        for block in _blocks(content, wanted, met):
            if "stall" in met and self._sent == met["stall"].at and not self._wait(healed):
                break
            if "throttle" in met:
                time.sleep(len(block) / met["throttle"].rate)
            self.wfile.write(block)
            self._sent += len(block)
        if _CUTTING & met.keys():
            self.close_connection = True

    def _wait(self, healed: threading.Event) -> bool:
        """Sends nothing until the faults are healed; False when the client leaves before."""
        while not healed.wait(0.1):
            if select.select([self.connection], [], [], 0)[0]:
                return False
        return True

    def _record(self) -> None:
        headers = dict(self.headers.items())
        line = Request(self.command, self._path, headers.get("Range"), self._status, self._sent, headers)
        # One write of one line: lines of several threads do not mix.
        with self.log.open("a") as log:
            log.write(json.dumps(asdict(line)) + "\n")

    def log_message(self, *_: Any) -> None:
        """Nothing: the request log says it all."""


class _Control(BaseHTTPRequestHandler):
    """GET, POST and DELETE on /faults."""

    faults: Faults

    def do_GET(self) -> None:
        self._answer(self.faults.rows())

    def do_POST(self) -> None:
        self.faults.add(Fault(**json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        self._answer(self.faults.rows())

    def do_DELETE(self) -> None:
        self.faults.clear()
        self._answer([])

    def _answer(self, rows: list[dict[str, Any]]) -> None:
        self.send_response(HTTPStatus.OK)
        self.end_headers()
        self.wfile.write(json.dumps(rows).encode())

    def log_message(self, *_: Any) -> None:
        """Nothing: faults are not requests."""


def _content(path: Path, met: dict[str, Fault]) -> tuple[bytes, str]:
    """The bytes served and their ETag, after what the faults do to them."""
    stat = path.stat()
    content, digest = _read(path, stat.st_mtime_ns, stat.st_size)
    if "wrong_body" in met or "changed" in met:
        content = content.translate(_INVERTED)
    return content, f'"{digest}-changed"' if "changed" in met else f'"{digest}"'


@lru_cache(maxsize=4)
def _read(path: Path, _mtime_ns: int, _size: int) -> tuple[bytes, str]:
    content = path.read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:32]


def _length(true: int, met: dict[str, Fault]) -> dict[str, str]:
    """How the answer says where its body ends."""
    if "endless" in met:
        return {"Connection": "close"}
    return {"Content-Length": str(met["lying_length"].length if "lying_length" in met else true)}


def _blocks(content: bytes, wanted: range, met: dict[str, Fault]) -> Iterator[bytes]:
    """The body in pieces; one ends where the answer is to stall or to be cut."""
    first = 0 if "wrong_range" in met else wanted.start
    size = min(len(wanted), met["drop"].at) if "drop" in met else len(wanted)
    step = max(1, min(_BLOCK_BYTES, met["throttle"].rate // 10)) if "throttle" in met else _BLOCK_BYTES
    stops = sorted({*range(step, size, step), size, *([met["stall"].at] if "stall" in met else [])})
    sent = 0
    for stop in (stop for stop in stops if stop <= size):
        if stop > sent:
            yield content[first + sent : first + stop]
            sent = stop
    while "endless" in met:
        yield content[:_BLOCK_BYTES]


def _tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def main() -> None:
    """Serves until it is killed."""
    folder = Path(sys.argv[1])
    http, https, control = map(int, sys.argv[2:])
    _Handler.files, _Handler.log = folder / "files", folder / "requests.jsonl"
    _Handler.faults = _Control.faults = Faults()
    servers = [
        _Server(http, _Handler),
        _Server(https, _Handler, _tls(folder / "server.pem")),
        _Server(control, _Control),
    ]
    for server in servers:
        threading.Thread(target=server.serve_forever).start()


if __name__ == "__main__":
    main()
