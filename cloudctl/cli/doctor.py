"""``cloudctl doctor``: is this installation sound, and if not, what to do."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from itertools import chain, islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from rich.text import Text

from cloudctl.cli.client import Client
from cloudctl.cli.commands import OUTPUT
from cloudctl.cli.errors import CliError
from cloudctl.cli.findings import Finding, bad, doubtful, finding_of, good
from cloudctl.cli.machine import look_at_machine
from cloudctl.cli.output import clean, console, print_json, size
from cloudctl.cli.session import Session
from cloudctl.cli.waiting import describe

CLOCK_SECONDS = 5.0
POOL_LOW_PERCENT = 10
ALARM_AGE = timedelta(days=1)
NAMED_LIMIT = 10
"""Objects of a kind that are named; more are only counted."""

Row = Mapping[str, Any]
Look = Callable[[Client], Iterator[Finding]]


@click.command(params=[OUTPUT])
@click.option("--host", is_flag=True, help="Look at this machine too: libvirt, QEMU, KVM, room.")
@click.option("--libvirt-uri", default="qemu:///system", show_default=True, metavar="URI")
@click.option("--room", multiple=True, default=["/"], show_default=True, metavar="PATH", help="Where room is needed.")
def doctor(host: bool, libvirt_uri: str, room: tuple[str, ...], output: str) -> int:
    """Check an installation and say what to do.

    The exit code is 0 if nothing is wrong, also with warnings; 1 with a problem; 5 if the server does not answer.
    """
    session = click.get_current_context().ensure_object(Session)
    machine = look_at_machine(libvirt_uri, tuple(map(Path, room))) if host else iter(())
    findings = []
    for finding in chain(look_at_server(session), machine):
        findings.append(finding)
        if output == "table":
            _print(finding)
    if output == "json":
        print_json([{"level": one.level.mark, "what": one.what, "remedy": one.remedy} for one in findings])
    return max(finding.level.exit_code for finding in findings)


def _print(finding: Finding) -> None:
    shown = console(sys.stdout)
    mark = Text(f"{finding.level.mark:>9}  ", style=finding.level.style)
    shown.print(mark + Text(clean(finding.what)), soft_wrap=True)
    if finding.remedy:
        shown.print(Text(f"{'':>11}→ {clean(finding.remedy)}"), soft_wrap=True)


def look_at_server(session: Session) -> Iterator[Finding]:
    """All that can be seen from here; what cannot be asked is a finding, and the rest is looked at nevertheless."""
    try:
        client = session.client
    except CliError as error:
        yield finding_of(error)
        return
    for look in SERVER:
        found = list(_looked(look, client))
        yield from found
        if any(finding.level.exit_code for finding in found[:1]):
            return
    for look in FLEET:
        yield from _looked(look, client)


def _looked(look: Look, client: Client) -> Iterator[Finding]:
    try:
        yield from look(client)
    except CliError as error:
        yield finding_of(error)


def readiness(client: Client) -> Iterator[Finding]:
    """/readyz: the server, its database, its broker; its version and its clock."""
    asked = time.time()
    status, body, headers = client.look("readyz")
    if not isinstance(body, dict) or "reasons" not in body:
        yield bad(f"{client.url} answers, but is no cloudctl server ({status}).", "Correct the address.")
        return
    yield good(f"{client.url} answers, version {body.get('version', 'unknown')}.")
    for part, reason in body["reasons"].items():
        yield bad(f"{part}: {reason}", f"Start the {part}, or correct how the server reaches it; its log says more.")
    if not body["reasons"]:
        yield good("Database and broker answer.")
    yield from clock(headers.get("Date", ""), asked, time.time())


def clock(date: str, asked: float, answered: float) -> Iterator[Finding]:
    """The server's clock by its Date (whole seconds) against the moments before and after, in seconds."""
    try:
        server = parsedate_to_datetime(date).timestamp()
    except ValueError:
        return
    apart = max(asked - (server + 1), server - answered, 0.0)
    if apart > CLOCK_SECONDS:
        yield doubtful(
            f"This machine's clock and the server's are {apart:.0f} s apart.",
            "Run a time service on both. Nothing breaks, but times mislead, and certificates may seem invalid.",
        )


def encryption(client: Client) -> Iterator[Finding]:
    """Whether the token travels in the clear."""
    parts = urlsplit(client.url)
    if parts.scheme == "http" and not _is_this_machine(parts.hostname or ""):
        yield doubtful(
            "The address is http: the token travels readable.", "Put TLS in front of the server and use https."
        )


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def token(client: Client) -> Iterator[Finding]:
    """Whose token it is."""
    me = client.get("users/me/")
    yield good(f"The token is valid: user {me['name']}, role {me['role']}.")


def hosts(client: Client) -> Iterator[Finding]:
    """Hosts that are silent, ahead of the database, or of another version than most."""
    rows = list(client.rows("hosts/"))
    away = [row for row in rows if row["state"] != "up"]
    for row in islice(away, NAMED_LIMIT):
        yield bad(
            f"Host {row['name']} is {row['state']}, last heard of {_ago(row['last_ping'])}.",
            "Look whether the machine, its network and its agent run; what runs on it goes on meanwhile.",
        )
    for row in (row for row in rows if row["ahead"]):
        yield bad(
            f"Host {row['name']} knows commands that the database never issued.",
            "The database was restored from a backup: see `agent.ahead` in docs/operating.md before anything else.",
        )
    versions = sorted({row["agent_version"] for row in rows if row["agent_version"]})
    if len(versions) > 1:
        yield doubtful(f"Agents of versions {', '.join(versions)} run.", "Finish the upgrade: restart the older ones.")
    if not rows:
        yield doubtful("There is no host that you may see.", "An operator joins one with a join token.")
    elif not away:
        yield good(f"Hosts: all {len(rows)} up.")
    yield from _more(away, "hosts are not up", "cloudctl hosts list --all")


def pools(client: Client) -> Iterator[Finding]:
    """Pools with little room, or that no host has told of."""
    rows = list(client.rows("storage-pools/"))
    low = [row for row in rows if is_low(row)]
    for row in islice(low, NAMED_LIMIT):
        free = f"{size(row['available_bytes'])} of {size(row['capacity_bytes'])} free"
        yield doubtful(
            f"Pool {row['name']}: {free if row['capacity_bytes'] else 'no host has told of its room'}.",
            "Remove what is not needed or make it larger."
            if row["capacity_bytes"]
            else "See that its path is there on its hosts, and that they are up.",
        )
    if rows and not low:
        yield good(f"Storage pools: all {len(rows)} have room.")
    yield from _more(low, "pools are low on room", "cloudctl storage-pools list --all")


def is_low(pool: Row) -> bool:
    """Whether less than a tenth is free, or nothing is known."""
    return bool(pool["available_bytes"] * 100 <= pool["capacity_bytes"] * POOL_LOW_PERCENT)


def zones(client: Client) -> Iterator[Finding]:
    """Zones in which nothing is deleted by itself."""
    for row in client.rows("zones/"):
        if row["deletions_suspended"]:
            yield bad(
                f"Zone {row['name']}: deletions are suspended.",
                "A host knows more than the database: see `agent.ahead` in docs/operating.md.",
            )


def operations(client: Client) -> Iterator[Finding]:
    """Operations that need a person."""
    rows = list(islice(client.rows("operations/", state="needs_attention"), NAMED_LIMIT + 1))
    for row in rows[:NAMED_LIMIT]:
        parts = row["error"] or {}
        yield bad(
            f"Operation {row['id']} ({describe(row)}) needs a person: {parts.get('cause', '')}",
            parts.get("remedy") or f"See: cloudctl commands list --operation {row['id']}",
        )
    if len(rows) > NAMED_LIMIT:
        yield bad("… and further ones.", "See: cloudctl operations list --state needs_attention")
    if not rows:
        yield good("No operation needs a person.")


def alarms(client: Client) -> Iterator[Finding]:
    """Alarms of the last day."""
    since = datetime.now(UTC) - ALARM_AGE
    page = client.get("events/", level="alarm", page_size=NAMED_LIMIT)
    for row in page["results"]:
        if datetime.fromisoformat(row["created_at"]) > since:
            yield doubtful(
                f"Alarm {row['kind']}, {_ago(row['created_at'])}: {row['message']}",
                f"See: cloudctl events show {row['id']}, and docs/operating.md.",
            )


SERVER: tuple[Look, ...] = (readiness, encryption, token)
FLEET: tuple[Look, ...] = (hosts, pools, zones, operations, alarms)


def _more(rows: Sequence[Row], what: str, command: str) -> Iterator[Finding]:
    if len(rows) > NAMED_LIMIT:
        yield bad(f"In all {len(rows)} {what}.", f"See: {command}")


def _ago(moment: str | None) -> str:
    """``5 minutes ago``, by this machine's clock."""
    if moment is None:
        return "never"
    seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    for unit, each in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * each:
            return f"{seconds // each:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
