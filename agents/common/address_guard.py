"""Where a download may go: scheme, port, and every address that a name stands for.

The check is worth something only if the connection then goes to an address that was checked: resolve once with
:func:`resolve`, connect to what it returned, and do both again for each redirect.
"""

import ipaddress
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urlsplit

from agents.common.errors import CommandError

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_URL_LENGTH = 4096

REFUSED_PORTS = {
    2049: "NFS",
    2375: "Docker",
    2376: "Docker",
    3306: "MySQL",
    5432: "PostgreSQL",
    5672: "AMQP",
    6379: "Redis",
    11211: "memcached",
    16509: "libvirt",
    16514: "libvirt",
    27017: "MongoDB",
}
"""Services of a data centre that take commands from whoever connects. Below 1024 only 80 and 443 are let through."""

REFUSED_NETWORKS = {
    ipaddress.ip_network(network): reason
    for network, reason in {
        "0.0.0.0/8": "this host itself",
        "10.0.0.0/8": "a private network",
        "100.64.0.0/10": "carrier-grade NAT",
        "127.0.0.0/8": "loopback",
        "169.254.0.0/16": "link-local",
        "172.16.0.0/12": "a private network",
        "192.0.0.0/24": "reserved for protocols",
        "192.0.2.0/24": "documentation",
        "192.88.99.0/24": "a 6to4 relay",
        "192.168.0.0/16": "a private network",
        "198.18.0.0/15": "benchmarking",
        "198.51.100.0/24": "documentation",
        "203.0.113.0/24": "documentation",
        "224.0.0.0/4": "multicast",
        "240.0.0.0/4": "reserved",
        "::/128": "this host itself",
        "::1/128": "loopback",
        "64:ff9b:1::/48": "local translation to IPv4",
        "2001::/23": "reserved for protocols",
        "2001:db8::/32": "documentation",
        "3fff::/20": "documentation",
        "fc00::/7": "a private network",
        "fe80::/10": "link-local",
        "fec0::/10": "site-local",
        "ff00::/8": "multicast",
    }.items()
}
"""From the IANA special-purpose address registries (RFC 6890 and its updates)."""

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NUMERIC_LABEL = re.compile(r"(0x[0-9a-f]*|[0-9]+)", re.ASCII | re.IGNORECASE)
_HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*", re.ASCII)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class CheckedUrl(NamedTuple):
    """A URL whose syntax, scheme and port are fit for a download."""

    scheme: str
    host: str
    """Lower case, without brackets."""
    port: int
    target: str
    """Path and query as they go into the request."""

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        """Without the query, which may hold a secret: fit for logs and messages."""
        return f"{self.scheme}://{self.authority}{self.target.partition('?')[0]}"


def check_url_syntax(url: str, allowed_networks: Iterable[str] = ()) -> CheckedUrl:
    """Check what can be known without a network; a literal address is checked as a resolved one would be.

    Raises CommandError ``url_refused`` or ``address_refused``.
    """
    parts = _split(url)
    if parts.scheme not in DEFAULT_PORTS:
        raise _refused(
            f"The scheme {parts.scheme!r} is not one that can be downloaded from.", "Use http:// or https://."
        )
    if parts.username is not None or parts.password is not None:
        raise _refused(
            "The URL carries a user name or a password, which would be stored and shown.",
            "Give an Authorization header among the secret headers instead.",
        )
    host = _checked_host(parts)
    port = _checked_port(parts)
    if (literal := _literal(host)) is not None:
        check_addresses(host, [literal], allowed_networks)
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=~-._[]") if parts.query else ""
    return CheckedUrl(parts.scheme, host, port, path + query)


def check_addresses(host: str, addresses: Iterable[Address], allowed_networks: Iterable[str] = ()) -> None:
    """Raise CommandError ``address_refused`` unless every address is public or inside an allowed network (CIDR)."""
    allowed = [ipaddress.ip_network(network, strict=False) for network in allowed_networks]
    for address in addresses:
        reason = refusal(address)
        inner = embedded_ipv4(address)
        if reason and not any(each in network for network in allowed for each in (address, inner or address)):
            raise CommandError(
                "address_refused",
                f"{host} stands for the address {address}, which is not public: {reason}.",
                "Nothing was sent to it.",
                "Use a public address, or have an operator add its network to the setting download.address.allow.",
            )


def refusal(address: Address) -> str | None:
    """Why no download may go to this address; None when it is public."""
    inner = embedded_ipv4(address)
    if inner is not None:
        reason = refusal(inner)
        return f"it leads to {inner}, {reason}" if reason else None
    for network, reason in REFUSED_NETWORKS.items():
        if address in network:
            return reason
    if address.version == 6 and address not in _GLOBAL_UNICAST:
        return "not global unicast"
    return None


def embedded_ipv4(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one leads to: IPv4-mapped (RFC 4291), 6to4 (RFC 3056), NAT64 (RFC 6052)."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def resolve(
    url: CheckedUrl, allowed_networks: Sequence[str], timeout_seconds: float, pulse: Callable[[], None]
) -> tuple[str, ...]:
    """All addresses of the URL's host, each checked; connect to one of these and nothing else.

    ``pulse`` is called several times a second and may raise. Raises CommandError ``address_refused``, or
    ``source_unreachable`` when the name cannot be resolved in time.
    """
    addresses = _look_up(url, timeout_seconds, pulse)
    check_addresses(url.host, [ipaddress.ip_address(address) for address in addresses], allowed_networks)
    return addresses


def _look_up(url: CheckedUrl, timeout_seconds: float, pulse: Callable[[], None]) -> tuple[str, ...]:
    found: list[str] = []
    errors: list[OSError] = []

    def ask() -> None:
        try:
            answers = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
            found.extend(dict.fromkeys(str(answer[4][0]).partition("%")[0] for answer in answers))
        except OSError as error:
            errors.append(error)

    # getaddrinfo() has neither a timeout nor a way to be cancelled.
    thread = threading.Thread(target=ask, name=f"resolve {url.host}", daemon=True)
    thread.start()
    deadline = time.monotonic() + timeout_seconds
    while thread.is_alive() and time.monotonic() < deadline:
        pulse()
        thread.join(0.1)
    if found:
        return tuple(found)
    reason = errors[0].strerror if errors else f"no answer in {timeout_seconds:g} s"
    raise CommandError(
        "source_unreachable",
        f"The name {url.host} cannot be resolved: {reason}.",
        "Nothing was downloaded.",
        "Check the name and this host's name servers.",
        elsewhere=True,
    )


def _split(url: str) -> SplitResult:
    if len(url) > MAX_URL_LENGTH:
        raise _refused(f"The URL is longer than {MAX_URL_LENGTH} characters.", "Use a shorter one.")
    if not url.isprintable() or not url.isascii() or any(character in ' \\"<>^`{|}' for character in url):
        raise _refused("The URL holds a character that no URL may hold.", "Percent-encode it; write names as xn--….")
    try:
        return urlsplit(url)
    except ValueError as error:
        raise _refused(f"This is not a URL: {error}.", "Write it as https://host/path.") from error


def _checked_host(parts: SplitResult) -> str:
    host = (parts.hostname or "").removesuffix(".")
    if not host:
        raise _refused("The URL names no host.", "Write it as https://host/path.")
    if _literal(host) is not None:
        return host
    if ":" in host or "[" in parts.netloc:
        raise _refused(f"The host [{host}] is not an IPv6 address.", "Write it in full, without a zone.")
    if _NUMERIC_LABEL.fullmatch(host.rpartition(".")[2]):
        raise _refused(
            f"The host {host} is a number in disguise.", "Write an IPv4 address as four decimal numbers without zeros."
        )
    if len(host) > 253 or not _HOST_NAME.fullmatch(host):
        raise _refused(f"{host} is not a host name.", "Use letters, digits, hyphens and dots.")
    return host


def _checked_port(parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError as error:
        raise _refused("The port is not a number from 1 to 65535.", "Correct the port.") from error
    if port is None:
        return DEFAULT_PORTS[parts.scheme]
    if port in REFUSED_PORTS:
        raise _refused(f"Port {port} is that of {REFUSED_PORTS[port]}.", "Serve the file from another port.")
    if port < 1024 and port not in DEFAULT_PORTS.values():
        raise _refused(f"Port {port} belongs to another service.", "Use 80, 443, or a port from 1024 on.")
    return port


def _literal(host: str) -> Address | None:
    if "%" in host:
        return None
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _refused(cause: str, remedy: str) -> CommandError:
    return CommandError("url_refused", cause, "Nothing was downloaded.", remedy)
