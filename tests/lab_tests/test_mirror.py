"""The mirror's faults are real on the wire; what clients make of them is tested where the clients are."""

import hashlib
import http.client
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.lab.mirror import Mirror
from tests.lab.supervisor import Supervisor
from tests.lab.waiting import poll

BODY = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(10_000))
IDENTITY = {"Accept-Encoding": "identity"}


@pytest.fixture(scope="module")
def running(supervisor: Supervisor, lab_dir: Path) -> Mirror:
    mirror = Mirror(lab_dir / "mirror", supervisor)
    mirror.start()
    mirror.add("image", BODY)
    return mirror


@pytest.fixture
def mirror(running: Mirror) -> Iterator[Mirror]:
    yield running
    running.heal()


def get(url: str, asked: str = "", **headers: str) -> requests.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    wanted = {**IDENTITY, **named, **({"Range": asked} if asked else {})}
    return requests.get(url, headers=wanted, timeout=5, allow_redirects=False)


def cut_body(url: str) -> bytes:
    """What arrives of an answer that does not end as it promised."""
    with pytest.raises(http.client.IncompleteRead) as cut, urllib.request.urlopen(url, timeout=5) as answer:
        answer.read()
    return cut.value.partial


def test_ranges_are_served_as_rfc_9110_says(mirror: Mirror) -> None:
    url, size = mirror.url("image"), len(BODY)
    whole = get(url)
    assert (whole.status_code, whole.content) == (200, BODY)
    etag = whole.headers["ETag"]
    for asked, part in (("bytes=10-19", BODY[10:20]), (f"bytes={size - 5}-", BODY[-5:]), ("bytes=-7", BODY[-7:])):
        answer = get(url, asked, If_Range=etag)
        assert (answer.status_code, answer.content) == (206, part)
    assert get(url, "bytes=10-19").headers["Content-Range"] == f"bytes 10-19/{size}"
    assert get(url, "bytes=10-19", If_Range='"older"').status_code == 200
    assert get(url, f"bytes={size}-").status_code == 416
    assert get(mirror.url("missing")).status_code == 404


def test_head_tells_the_length_and_may_be_refused(mirror: Mirror) -> None:
    url = mirror.url("image")
    assert requests.head(url, headers=IDENTITY, timeout=5).headers["Content-Length"] == str(len(BODY))
    mirror.fault("image", "no_head")
    assert requests.head(url, timeout=5).status_code == 405
    assert get(url).content == BODY


def test_https_is_signed_by_the_mirrors_own_authority(mirror: Mirror) -> None:
    url = mirror.url("image", "https")
    assert requests.get(url, verify=str(mirror.authority), timeout=5).content == BODY
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(url, timeout=5)


def test_a_drop_for_one_request_cuts_only_the_first(mirror: Mirror) -> None:
    mirror.fault("image", "drop", at=1000, times=1)
    assert cut_body(mirror.url("image")) == BODY[:1000]
    assert get(mirror.url("image"), "bytes=1000-").content == BODY[1000:]


def test_a_fault_may_let_requests_through_first(mirror: Mirror) -> None:
    mirror.fault("image", "status", status=503, headers={"Retry-After": "1"}, skip=1, times=1)
    answers = [get(mirror.url("image")) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 503, 200]
    assert answers[1].headers["Retry-After"] == "1"


def test_other_bytes_come_under_the_same_or_another_etag(mirror: Mirror) -> None:
    url = mirror.url("image")
    etag = get(url).headers["ETag"]
    mirror.fault("image", "wrong_body", times=1)
    wrong = get(url)
    assert (len(wrong.content), wrong.headers["ETag"]) == (len(BODY), etag)
    assert wrong.content != BODY
    mirror.fault("image", "changed")
    changed = get(url, "bytes=10-", If_Range=etag)
    assert changed.status_code == 200
    assert changed.headers["ETag"] != etag


def test_ranges_may_be_ignored_or_answered_with_the_wrong_bytes(mirror: Mirror) -> None:
    mirror.fault("image", "ignore_range", times=1)
    assert get(mirror.url("image"), "bytes=10-19").status_code == 200
    mirror.fault("image", "wrong_range")
    answer = get(mirror.url("image"), "bytes=10-19")
    assert (answer.status_code, answer.content) == (206, BODY[:10])


def test_lengths_lie_both_ways_and_a_body_may_never_end(mirror: Mirror) -> None:
    url = mirror.url("image")
    mirror.fault("image", "lying_length", length=10, times=1)
    assert get(url).content == BODY[:10]
    mirror.fault("image", "lying_length", length=len(BODY) + 10, times=1)
    assert cut_body(url) == BODY
    mirror.fault("image", "endless")
    answer = requests.get(url, headers=IDENTITY, timeout=5, stream=True)
    assert "Content-Length" not in answer.headers
    assert len(answer.raw.read(3 * len(BODY))) == 3 * len(BODY)
    answer.close()


def test_a_stalled_answer_goes_on_when_the_mirror_is_healed(mirror: Mirror) -> None:
    mirror.fault("image", "stall", at=100)
    answer = requests.get(mirror.url("image"), headers=IDENTITY, timeout=0.3, stream=True)
    assert answer.raw.read(100) == BODY[:100]
    with pytest.raises(Exception, match="timed out"):
        answer.raw.read(1)
    mirror.heal()
    answer = requests.get(mirror.url("image"), headers=IDENTITY, timeout=5, stream=True)
    assert answer.raw.read() == BODY


def test_a_throttle_holds_the_rate(mirror: Mirror) -> None:
    mirror.fault("image", "throttle", rate=640_000)
    started = time.monotonic()
    assert get(mirror.url("image")).content == BODY
    assert time.monotonic() - started > 0.9 * len(BODY) / 640_000


def test_redirects_and_needed_headers(mirror: Mirror) -> None:
    mirror.fault("moved", "redirect", location=mirror.url("image"))
    assert get(mirror.url("moved")).headers["Location"] == mirror.url("image")
    mirror.fault("image", "need_header", headers={"X-Key": "open"})
    assert get(mirror.url("image")).status_code == 401
    assert get(mirror.url("image"), X_Key="open").content == BODY


def test_every_request_is_a_line_of_the_log(mirror: Mirror) -> None:
    mirror.add("logged", b"12345")
    mirror.fault("logged", "status", status=503, skip=1)
    get(mirror.url("logged"), "bytes=1-2", X_Who="me")
    get(mirror.url("logged"))
    first, second = poll(lambda: seen if len(seen := mirror.requests("logged")) == 2 else None, 5, "two lines")
    assert (first.method, first.path, first.range, first.status, first.bytes) == ("GET", "/logged", "bytes=1-2", 206, 2)
    assert first.headers["X-Who"] == "me"
    assert (second.range, second.status, second.bytes) == (None, 503, 0)


def test_a_killed_mirror_comes_back_on_its_port(mirror: Mirror, supervisor: Supervisor) -> None:
    supervisor.restarted("mirror", after=supervisor.kill("mirror"))
    # The port stayed bound meanwhile, so the request only waits.
    assert get(mirror.url("image")).content == BODY
