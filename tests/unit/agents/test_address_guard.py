"""No download reaches an address that is not public, however it is written."""

import ipaddress
import socket
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.common.address_guard import check_addresses, check_url_syntax, embedded_ipv4, refusal, resolve
from agents.common.errors import CommandError


def _never() -> None:
    """Nobody cancels."""


def _code(call: Callable[[], object]) -> str:
    with pytest.raises(CommandError) as caught:
        call()
    problem = caught.value.problem
    assert problem.cause
    assert problem.consequence
    assert problem.remedy
    return problem.code


@pytest.mark.parametrize(
    ("url", "host", "port", "target", "authority"),
    [
        ("http://example.org/a.qcow2", "example.org", 80, "/a.qcow2", "example.org"),
        ("https://Example.ORG.:8443/a b".replace(" ", "%20"), "example.org", 8443, "/a%20b", "example.org:8443"),
        ("HTTP://example.org", "example.org", 80, "/", "example.org"),
        ("https://example.org/a?b=c%2F&d#part", "example.org", 443, "/a?b=c%2F&d", "example.org"),
        ("http://[2606:4700::1]:8080/x", "2606:4700::1", 8080, "/x", "[2606:4700::1]:8080"),
        ("http://8.8.8.8/x", "8.8.8.8", 80, "/x", "8.8.8.8"),
    ],
)
def test_a_good_url_is_taken_apart(url: str, host: str, port: int, target: str, authority: str) -> None:
    checked = check_url_syntax(url)
    assert (checked.host, checked.port, checked.target, checked.authority) == (host, port, target, authority)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/x",
        "file:///etc/passwd",
        "nfs://example.org/x",
        "//example.org/x",
        "example.org/x",
        "",
        "http://",
        "http:///x",
        "http://user:secret@example.org/x",
        "http://user@example.org/x",
        "http://example.org:99999/x",
        "http://example.org:22/x",
        "http://example.org:6379/x",
        "http://example.org:0/x",
        "http://example.org:x/x",
        "http://exa mple.org/x",
        "http://example.org/x\r\nHost: evil",
        "http://example.org\\@evil.org/x",
        "http://ex%61mple.org/x",
        "http://１２７.0.0.1/x",  # noqa: RUF001
        "http://-example.org/x",
        "http://[::1/x",
        "http://[fe80::1%25eth0]/x",
        "http://[v1.x]/x",
        "http://2130706433/x",
        "http://0x7f000001/x",
        "http://017700000001/x",
        "http://127.1/x",
        "http://0x7f.0.0.1/x",
        "http://127.0.0.01/x",
        "http://1.2.3.4.5/x",
        "http://example.org/" + "x" * 5000,
    ],
)
def test_a_bad_url_is_refused_before_any_network(url: str) -> None:
    assert _code(lambda: check_url_syntax(url)) == "url_refused"


REFUSED = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2001::1",
    "2001:db8::1",
    "fc00::1",
    "fd12::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "100::1",
    "5f00::1",
]


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    assert _code(lambda: check_url_syntax(f"http://{host}/x")) == "address_refused"


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1", "2001:4860:4860::8888", "64:ff9b::808:808"])
def test_a_public_address_is_let_through(address: str) -> None:
    assert refusal(ipaddress.ip_address(address)) is None


@given(st.ip_addresses())
def test_nothing_that_python_knows_as_not_public_is_let_through(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    inner = embedded_ipv4(address)
    if not (inner or address).is_global or (inner or address).is_multicast or (inner or address).is_reserved:
        assert refusal(address) is not None


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_in_ipv6_clothes_is_judged_as_itself(address: ipaddress.IPv4Address) -> None:
    for clothed in (f"::ffff:{address}", f"64:ff9b::{address}"):
        assert (refusal(ipaddress.ip_address(clothed)) is None) == (refusal(address) is None)


def test_one_bad_address_among_good_ones_refuses_the_name() -> None:
    both = [ipaddress.ip_address("8.8.8.8"), ipaddress.ip_address("127.0.0.1")]
    assert _code(lambda: check_addresses("both.example.org", both)) == "address_refused"


@pytest.mark.parametrize("address", ["10.77.0.5", "::ffff:10.77.0.5"])
def test_an_allowed_network_opens_itself_only(address: str) -> None:
    check_addresses("mirror", [ipaddress.ip_address(address)], ["10.77.0.0/24"])
    outside = ipaddress.ip_address(address.replace("10.77.0", "10.78.0"))
    assert _code(lambda: check_addresses("mirror", [outside], ["10.77.0.0/24"])) == "address_refused"


def test_a_name_is_resolved_and_checked() -> None:
    url = check_url_syntax("http://localhost:8000/x")
    assert _code(lambda: resolve(url, (), 10, _never)) == "address_refused"
    addresses = resolve(url, ("127.0.0.0/8", "::1/128"), 10, _never)
    assert set(addresses) <= {"127.0.0.1", "::1"}
    assert addresses


def test_a_name_that_does_not_exist_may_exist_for_another_host() -> None:
    with pytest.raises(CommandError) as caught:
        resolve(check_url_syntax("http://no-such-name.invalid/x"), (), 30, _never)
    assert caught.value.problem.code == "source_unreachable"
    assert caught.value.problem.elsewhere


def test_resolving_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Exception):  # noqa: N818
        pass

    def stop() -> None:
        raise Stop

    release = socket.socketpair()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release[0].recv(1) and [])
    with pytest.raises(Stop):
        resolve(check_url_syntax("http://slow.example.org/x"), (), 30, stop)
    release[1].close()


def test_a_shown_url_has_no_query() -> None:
    assert str(check_url_syntax("https://example.org/a.iso?token=secret")) == "https://example.org/a.iso"
