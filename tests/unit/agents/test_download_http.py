"""HTTP downloads against a real server with the faults of real mirrors."""

import hashlib
import itertools
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from agents.common.errors import Cancelled, CommandError
from agents.downloads.base import Checked, Remote, Request
from agents.downloads.http import HttpDownloader
from agents.downloads.part import MIB, Part
from agents.protocol.kinds import DownloadLimits
from tests.unit.agents.http_faults import Exchange, Mirror, closed_port, serving

BODY = random.Random(1).randbytes(5 * MIB + 123)
DOWNLOADER = HttpDownloader(backoff_seconds=0.01)
LOCAL = ("127.0.0.0/8",)


class Watcher:
    """A monitor that counts, and cancels when told to."""

    def __init__(self) -> None:
        self.troubles: list[str] = []
        self.cancel = threading.Event()
        self.remotes: list[Remote] = []

    def check(self) -> None:
        if self.cancel.is_set():
            raise Cancelled

    def received(self, remote: Remote) -> None:
        self.remotes.append(remote)

    def trouble(self, cause: str) -> None:
        self.troubles.append(cause)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serving(Mirror(BODY)) as started:
        yield started


def limits(**changes: Any) -> DownloadLimits:
    return DownloadLimits(allowed_networks=LOCAL, **changes)


def fetch(
    url: str,
    path: Path,
    known: Remote | None = None,
    offset: int = 0,
    *,
    watcher: Watcher | None = None,
    max_bytes: int = 1 << 40,
    **request: Any,
) -> bytes:
    """The body as it lies on disk, after its hash was compared with it."""
    request.setdefault("limits", limits())
    with Part(path, None, max_bytes) as part:
        part.resume(offset, lambda: None)
        DOWNLOADER.download(Request(url, **request), part, known or Remote(), watcher or Watcher())
        part.sync()
        sha256 = part.finished().sha256
    body = path.read_bytes()
    assert sha256 == hashlib.sha256(body).hexdigest()
    return body


def problem_of(call: Callable[[], object]) -> tuple[str, bool]:
    with pytest.raises(CommandError) as caught:
        call()
    return caught.value.problem.code, caught.value.problem.elsewhere


def test_a_whole_body_arrives(mirror: Mirror, tmp_path: Path) -> None:
    assert fetch(f"{mirror.url}/a", tmp_path / "p") == BODY
    (request,) = mirror.requests
    assert "range" not in request
    assert request["accept-encoding"] == "identity"
    assert request["host"] == f"127.0.0.1:{mirror.port}"


@pytest.mark.parametrize("percent", [0, 1, 50, 99])
def test_a_cut_body_is_resumed_where_it_was_cut(mirror: Mirror, tmp_path: Path, percent: int) -> None:
    cut = len(BODY) * percent // 100
    mirror.cut_at = [cut]
    watcher = Watcher()
    assert fetch(f"{mirror.url}/a", tmp_path / "p", watcher=watcher) == BODY
    assert mirror.ranges_asked() == ["", f"bytes={cut}-" if cut else ""]
    assert mirror.requests[1].get("if-range", '"one"') == '"one"'
    assert len(watcher.troubles) == 1


def test_tries_that_get_further_are_not_counted(mirror: Mirror, tmp_path: Path) -> None:
    mirror.cut_at = [MIB, 2 * MIB + 1, 3 * MIB + 2, 4 * MIB + 3, 5 * MIB + 4]
    assert fetch(f"{mirror.url}/a", tmp_path / "p") == BODY


def test_tries_that_get_nowhere_are(mirror: Mirror, tmp_path: Path) -> None:
    mirror.cut_at = [100] * 50
    assert problem_of(lambda: fetch(f"{mirror.url}/a", tmp_path / "p")) == ("source_broken", True)
    assert len(mirror.requests) == 5


def test_a_part_on_disk_is_gone_on_from(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(BODY[: 2 * MIB])
    assert fetch(f"{mirror.url}/a", tmp_path / "p", Remote(len(BODY), '"one"'), 2 * MIB) == BODY
    assert mirror.ranges_asked() == [f"bytes={2 * MIB}-"]


def test_a_whole_part_needs_no_request(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(BODY)
    assert fetch(f"{mirror.url}/a", tmp_path / "p", Remote(len(BODY), '"one"'), len(BODY)) == BODY
    assert mirror.requests == []


def test_a_whole_part_of_unknown_size_is_seen_as_whole(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(BODY)
    assert fetch(f"{mirror.url}/a", tmp_path / "p", Remote(-1, '"one"'), len(BODY)) == BODY
    assert mirror.ranges_asked() == [f"bytes={len(BODY)}-"]


@pytest.mark.parametrize(
    ("known", "requests"),
    [(Remote(len(BODY), '"older"'), 1), (Remote(len(BODY) + 1, '"one"'), 2), (Remote(len(BODY), ""), 1)],
)
def test_another_content_begins_anew(mirror: Mirror, tmp_path: Path, known: Remote, requests: int) -> None:
    (tmp_path / "p").write_bytes(bytes(MIB))
    assert fetch(f"{mirror.url}/a", tmp_path / "p", known, MIB) == BODY
    assert len(mirror.requests) == requests


def test_a_server_without_ranges_begins_anew(mirror: Mirror, tmp_path: Path) -> None:
    mirror.ranges = False
    mirror.cut_at = [3 * MIB]
    assert fetch(f"{mirror.url}/a", tmp_path / "p") == BODY
    assert len(mirror.requests) == 2


def test_without_a_validator_nothing_is_joined(mirror: Mirror, tmp_path: Path) -> None:
    mirror.etag, mirror.cut_at = "", [3 * MIB]
    assert fetch(f"{mirror.url}/a", tmp_path / "p") == BODY
    assert mirror.ranges_asked() == ["", ""]


def test_last_modified_serves_where_the_etag_is_weak(mirror: Mirror, tmp_path: Path) -> None:
    mirror.etag, mirror.last_modified = "", "Sat, 21 Nov 2026 10:00:00 GMT"
    mirror.cut_at = [MIB]
    assert fetch(f"{mirror.url}/a", tmp_path / "p") == BODY
    assert mirror.requests[1]["if-range"] == mirror.last_modified


def test_content_that_changes_between_ranges_is_never_joined(mirror: Mirror, tmp_path: Path) -> None:
    other = BODY[::-1]

    def change(exchange: Exchange) -> bool:
        mirror.hook = None
        exchange.serve()
        mirror.body, mirror.etag = other, '"two"'
        return True

    mirror.hook, mirror.cut_at = change, [2 * MIB]
    assert fetch(f"{mirror.url}/a", tmp_path / "p") == other


def test_a_server_that_ignores_if_range_is_seen_by_its_etag(mirror: Mirror, tmp_path: Path) -> None:
    def ignore(exchange: Exchange) -> bool:
        del exchange.headers["If-Range"]
        return False

    mirror.hook = ignore
    (tmp_path / "p").write_bytes(bytes(MIB))
    assert fetch(f"{mirror.url}/a", tmp_path / "p", Remote(len(BODY), '"older"'), MIB) == BODY
    assert mirror.ranges_asked() == [f"bytes={MIB}-", ""]


def test_a_range_that_begins_elsewhere_is_not_appended(mirror: Mirror, tmp_path: Path) -> None:
    def shift(exchange: Exchange) -> bool:
        if not exchange.headers.get("Range"):
            return False
        content_range = f"bytes 0-{len(BODY) - 1}/{len(BODY)}"
        exchange.start(206, Content_Range=content_range, Content_Length=len(BODY), ETag='"one"')
        exchange.send(0, len(BODY))
        return True

    mirror.hook, mirror.cut_at = shift, [MIB]
    assert fetch(f"{mirror.url}/a", tmp_path / "p") == BODY


def test_content_that_never_stays_is_given_up(mirror: Mirror, tmp_path: Path) -> None:
    numbers = itertools.count()

    def change(exchange: Exchange) -> bool:
        mirror.etag, mirror.cut_at = f'"{next(numbers)}"', [2 * MIB]
        return False

    mirror.hook = change
    assert problem_of(lambda: fetch(f"{mirror.url}/a", tmp_path / "p")) == ("source_broken", True)
    assert len(mirror.requests) < 15


def test_a_length_that_is_too_long_is_a_cut_that_never_heals(mirror: Mirror, tmp_path: Path) -> None:
    mirror.declare_length = len(BODY) + 1000
    assert problem_of(lambda: fetch(f"{mirror.url}/a", tmp_path / "p")) == ("source_not_resumable", True)
    assert len(mirror.requests) < 15


def test_a_body_without_a_length_is_taken_as_it_comes(mirror: Mirror, tmp_path: Path) -> None:
    def chunked(exchange: Exchange) -> bool:
        exchange.start(200, Transfer_Encoding="chunked")
        for start in range(0, len(BODY), 70_000):
            chunk = BODY[start : start + 70_000]
            exchange.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        exchange.wfile.write(b"0\r\n\r\n")
        return True

    mirror.hook = chunked
    assert fetch(f"{mirror.url}/a", tmp_path / "p") == BODY


def test_a_chunked_body_that_is_cut_is_not_taken_for_whole(mirror: Mirror, tmp_path: Path) -> None:
    def cut(exchange: Exchange) -> bool:
        exchange.start(200, Transfer_Encoding="chunked")
        exchange.wfile.write(b"ffff\r\nonly this")
        return True

    mirror.hook = cut
    assert problem_of(lambda: fetch(f"{mirror.url}/a", tmp_path / "p")) == ("source_broken", True)


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_never_ends_is_bounded(mirror: Mirror, tmp_path: Path, declared: bool) -> None:
    def endless(exchange: Exchange) -> bool:
        if declared:
            exchange.start(200, Content_Length=1 << 50)
        else:
            exchange.start(200)
        try:
            while not mirror.stop.is_set():
                exchange.wfile.write(bytes(MIB))
        except OSError:
            pass
        return True

    mirror.hook = endless
    code = problem_of(lambda: fetch(f"{mirror.url}/a", tmp_path / "p", max_bytes=8 * MIB))
    assert code == ("image_too_large", False)
    assert (tmp_path / "p").stat().st_size <= 8 * MIB


def _stall(exchange: Exchange) -> bool:
    exchange.start(200, Content_Length=len(BODY), ETag='"one"')
    exchange.mirror.stop.wait()
    return True


def test_a_silent_source_is_given_up_after_the_read_timeout(mirror: Mirror, tmp_path: Path) -> None:
    mirror.hook = _stall
    short = limits(read_timeout_seconds=0.1)
    assert problem_of(lambda: fetch(f"{mirror.url}/a", tmp_path / "p", limits=short)) == ("source_broken", True)
    assert len(mirror.requests) == 5


def test_a_trickling_source_is_given_up_below_the_floor(mirror: Mirror, tmp_path: Path) -> None:
    def trickle(exchange: Exchange) -> bool:
        exchange.start(200, Content_Length=len(BODY))
        try:
            while not mirror.stop.wait(0.02):
                exchange.wfile.write(b"x")
        except OSError:
            pass
        return True

    mirror.hook = trickle
    short = limits(stall_seconds=0.2, stall_bytes_per_second=10_000)
    assert problem_of(lambda: fetch(f"{mirror.url}/a", tmp_path / "p", limits=short)) == ("source_stalled", True)


def test_the_whole_download_has_an_end(mirror: Mirror, tmp_path: Path) -> None:
    mirror.hook = _stall
    short = limits(total_timeout_seconds=0.3)
    assert problem_of(lambda: fetch(f"{mirror.url}/a", tmp_path / "p", limits=short)) == ("download_timeout", True)


def test_a_cancel_is_heard_while_the_source_is_silent(mirror: Mirror, tmp_path: Path) -> None:
    mirror.hook = _stall
    watcher = Watcher()
    timer = threading.Timer(0.3, watcher.cancel.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        fetch(f"{mirror.url}/a", tmp_path / "p", watcher=watcher)
    assert time.monotonic() - began < 2
    timer.join()


@pytest.mark.parametrize(
    ("status", "elsewhere", "requests"),
    [
        (401, False, 1),
        (403, True, 1),
        (404, False, 1),
        (410, False, 1),
        (500, True, 5),
        (503, True, 5),
        (206, False, 1),
    ],
)
def test_a_status_decides_whether_to_ask_again(
    mirror: Mirror, tmp_path: Path, status: int, elsewhere: bool, requests: int
) -> None:
    def refuse(exchange: Exchange) -> bool:
        exchange.start(status, Content_Length=0)
        return True

    mirror.hook = refuse
    assert problem_of(lambda: fetch(f"{mirror.url}/a", tmp_path / "p")) == ("source_status", elsewhere)
    assert len(mirror.requests) == requests


def test_a_503_that_passes_is_survived(mirror: Mirror, tmp_path: Path) -> None:
    def refuse_once(exchange: Exchange) -> bool:
        mirror.hook = None
        exchange.start(503, Content_Length=0)
        return True

    mirror.hook = refuse_once
    assert fetch(f"{mirror.url}/a", tmp_path / "p") == BODY


def test_nobody_listening_is_worth_another_host(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{closed_port()}/a"
    assert problem_of(lambda: fetch(url, tmp_path / "p")) == ("source_unreachable", True)


def test_a_compressed_body_is_refused(mirror: Mirror, tmp_path: Path) -> None:
    def compress(exchange: Exchange) -> bool:
        exchange.start(200, Content_Encoding="gzip", Content_Length=5)
        return True

    mirror.hook = compress
    assert problem_of(lambda: fetch(f"{mirror.url}/a", tmp_path / "p")) == ("source_encodes", False)


# --- addresses and redirects ---------------------------------------------------------------------------------------


def test_no_packet_goes_to_an_address_that_is_not_allowed(mirror: Mirror, tmp_path: Path) -> None:
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]"):
        url = f"http://{host}:{mirror.port}/a"
        code = problem_of(lambda url=url: fetch(url, tmp_path / "p", limits=DownloadLimits()))  # type: ignore[misc]
        assert code == ("address_refused", False)
    assert mirror.requests == []


def test_the_connection_goes_to_the_address_that_was_checked(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that answers each question otherwise (DNS rebinding) gains nothing."""
    answers = iter(["127.0.0.1", "169.254.169.254"])

    def rebind(_host: str, port: int, **_: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebind)
    assert fetch(f"http://mirror.example.org:{mirror.port}/a", tmp_path / "p") == BODY
    assert mirror.requests[0]["host"] == f"mirror.example.org:{mirror.port}"
    code = problem_of(lambda: fetch(f"http://mirror.example.org:{mirror.port}/a", tmp_path / "p"))
    assert code == ("address_refused", False)
    assert len(mirror.requests) == 1


def test_a_name_that_answers_later_is_waited_for(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")])
    real = socket.getaddrinfo

    def fail_once(host: str, port: int, **options: Any) -> list[Any]:
        for failure in failures:
            raise failure
        return list(real(host, port, **options))

    monkeypatch.setattr(socket, "getaddrinfo", fail_once)
    assert fetch(f"{mirror.url}/a", tmp_path / "p") == BODY


def _redirect_to(*targets: str) -> Callable[[Exchange], bool]:
    left = list(targets)

    def redirect(exchange: Exchange) -> bool:
        if not left:
            return False
        exchange.start(302, Location=left.pop(0), Content_Length=0)
        return True

    return redirect


def test_a_redirect_is_followed_and_gone_on_from(mirror: Mirror, tmp_path: Path) -> None:
    mirror.hook = _redirect_to("/b?c=1", "d")
    assert fetch(f"{mirror.url}/x/a", tmp_path / "p") == BODY
    assert [request[":path"] for request in mirror.requests] == ["/x/a", "/b?c=1", "/d"]


@pytest.mark.parametrize(
    "target", ["http://127.1:1/", "http://10.0.0.1/", "http://[::1]/", "http://169.254.169.254/latest", "file:///etc"]
)
def test_a_redirect_to_a_forbidden_place_is_not_followed(mirror: Mirror, tmp_path: Path, target: str) -> None:
    mirror.hook = _redirect_to(target)
    code, elsewhere = problem_of(lambda: fetch(f"{mirror.url}/a", tmp_path / "p"))
    assert code in {"address_refused", "url_refused"}
    assert not elsewhere


def test_redirects_end(mirror: Mirror, tmp_path: Path) -> None:
    mirror.hook = _redirect_to(*["/again"] * 50)
    assert problem_of(lambda: fetch(f"{mirror.url}/a", tmp_path / "p")) == ("redirect_refused", False)
    assert len(mirror.requests) == 11


def test_redirects_can_be_forbidden(mirror: Mirror, tmp_path: Path) -> None:
    mirror.hook = _redirect_to("/b")
    code = problem_of(lambda: fetch(f"{mirror.url}/a", tmp_path / "p", follow_redirects=False))
    assert code == ("redirect_refused", False)
    assert len(mirror.requests) == 1


def test_secrets_stay_with_their_origin(mirror: Mirror, tmp_path: Path) -> None:
    headers = {"X-Plain": "p", "Authorization": "hush"}
    with serving(Mirror(BODY)) as other:
        mirror.hook = _redirect_to("/same", f"{other.url}/other")
        fetch(f"{mirror.url}/a", tmp_path / "p", headers=headers, secret_headers={"X-Secret": "s"})
    for request in mirror.requests:
        assert (request["x-plain"], request["authorization"], request["x-secret"]) == ("p", "hush", "s")
    (elsewhere,) = other.requests
    assert elsewhere["x-plain"] == "p"
    assert "authorization" not in elsewhere
    assert "x-secret" not in elsewhere


# --- TLS -----------------------------------------------------------------------------------------------------------


def _server_side(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """An authority that this host trusts."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return made


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_trusted_server_is_downloaded_from(authority: trustme.CA, tmp_path: Path, name: str) -> None:
    with serving(Mirror(BODY, cut_at=[MIB]), _server_side(authority, name)) as mirror:
        # localhost may stand for ::1 too.
        both = DownloadLimits(allowed_networks=(*LOCAL, "::1/128"))
        assert fetch(f"https://{name}:{mirror.port}/a", tmp_path / "p", limits=both) == BODY
    assert mirror.requests[0]["host"] == f"{name}:{mirror.port}"


def test_an_unknown_authority_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with serving(Mirror(BODY), _server_side(trustme.CA(), "127.0.0.1")) as mirror:
        assert problem_of(lambda: fetch(f"{mirror.url}/a", tmp_path / "p")) == ("source_untrusted", True)
    assert mirror.requests == []


@pytest.mark.usefixtures("authority")
def test_another_name_than_the_certificate_s_is_refused(authority: trustme.CA, tmp_path: Path) -> None:
    with serving(Mirror(BODY), _server_side(authority, "mirror.example.org")) as mirror:
        assert problem_of(lambda: fetch(f"{mirror.url}/a", tmp_path / "p")) == ("source_untrusted", True)


def test_no_secret_goes_from_https_to_http(authority: trustme.CA, mirror: Mirror, tmp_path: Path) -> None:
    with serving(Mirror(), _server_side(authority, "127.0.0.1")) as secure:
        secure.hook = _redirect_to(f"{mirror.url}/plain")
        fetch(f"{secure.url}/a", tmp_path / "p", secret_headers={"X-Secret": "s"})
    assert secure.requests[0]["x-secret"] == "s"
    assert "x-secret" not in mirror.requests[0]


# --- the check -----------------------------------------------------------------------------------------------------


def check(url: str) -> Checked:
    return DOWNLOADER.check(Request(url, limits()), lambda: None)


def test_a_check_reads_the_beginning_only(mirror: Mirror) -> None:
    found = check(f"{mirror.url}/a")
    assert found == Checked(Remote(len(BODY), '"one"'), resumable=True, head=BODY[:65536])
    assert mirror.ranges_asked() == ["bytes=0-65535"]


def test_a_check_of_a_server_without_ranges_stops_reading(mirror: Mirror) -> None:
    mirror.ranges = False
    found = check(f"{mirror.url}/a")
    assert (found.remote.size_bytes, found.resumable, found.head) == (len(BODY), False, BODY[:65536])


@pytest.mark.parametrize("body", [b"", b"short"])
def test_a_check_of_a_small_body(mirror: Mirror, body: bytes) -> None:
    mirror.body = body
    found = check(f"{mirror.url}/a")
    assert (found.remote.size_bytes, found.head) == (len(body), body)


def test_a_check_of_nobody(tmp_path: Path) -> None:
    assert problem_of(lambda: check(f"http://127.0.0.1:{closed_port()}/a")) == ("source_unreachable", True)
