"""A real HTTP server with the faults of real mirrors, each chosen per test; requests are recorded."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Hook = Callable[["Exchange"], bool]
"""Answers an exchange itself and returns True, or returns False for the ordinary answer."""


@dataclass
class Mirror:
    """One body at every path, and what goes wrong with it."""

    body: bytes = b""
    etag: str = '"one"'
    last_modified: str = ""
    ranges: bool = True
    declare_length: int | None = None
    """Content-Length to claim instead of the true one."""
    cut_at: list[int] = field(default_factory=list)
    """Absolute offsets at which one connection each is cut."""
    hook: Hook | None = None
    requests: list[dict[str, str]] = field(default_factory=list)
    """Headers of each request, lower case, with ``:path``."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when the server is ended: whoever stalls on purpose waits for it."""
    url: str = ""

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def ranges_asked(self) -> list[str]:
        return [request.get("range", "") for request in self.requests]


class Exchange(BaseHTTPRequestHandler):
    """One request; helpers for hooks."""

    protocol_version = "HTTP/1.1"
    mirror: Mirror

    def do_GET(self) -> None:
        self.close_connection = True
        self.mirror.requests.append({":path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
        if self.mirror.hook is None or not self.mirror.hook(self):
            self.serve()

    def start(self, status: int, **headers: str | int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def serve(self) -> None:
        mirror, begin, end = self.mirror, 0, len(self.mirror.body)
        asked = self.headers.get("Range", "").removeprefix("bytes=")
        same = self.headers.get("If-Range", mirror.etag or mirror.last_modified) in (mirror.etag, mirror.last_modified)
        headers: dict[str, str | int] = {}
        if mirror.etag:
            headers["ETag"] = mirror.etag
        if mirror.last_modified:
            headers["Last_Modified"] = mirror.last_modified
        status = 200
        if asked and same and mirror.ranges:
            first, _, last = asked.partition("-")
            begin, end = int(first), min(int(last or end - 1) + 1, end)
            if begin >= len(mirror.body):
                self.start(416, Content_Range=f"bytes */{len(mirror.body)}", Content_Length=0)
                return
            status, headers["Content_Range"] = 206, f"bytes {begin}-{end - 1}/{len(mirror.body)}"
        length = end - begin if mirror.declare_length is None else mirror.declare_length
        self.start(status, Content_Length=length, **headers)
        self.send(begin, end)

    def send(self, begin: int, end: int) -> None:
        cut = next((offset for offset in self.mirror.cut_at if begin <= offset < end), None)
        if cut is not None:
            self.mirror.cut_at.remove(cut)
            end = cut
        with memoryview(self.mirror.body) as view:
            try:
                self.wfile.write(view[begin:end])
            except OSError:
                return  # the client has seen enough

    def log_message(self, *_: object) -> None:
        """Tests read ``requests`` instead."""


@contextmanager
def serving(mirror: Mirror, tls: ssl.SSLContext | None = None) -> Iterator[Mirror]:
    """Serve on a free port of 127.0.0.1 until the end of the block."""
    handler = type("Exchange", (Exchange,), {"mirror": mirror})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    mirror.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield mirror
    finally:
        mirror.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()


def closed_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
