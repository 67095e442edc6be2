"""What must be true of a lab at rest, whatever was killed before: the database, the pools and the hypervisors agree."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt

from agents.protocol.states import COMMAND_FINAL
from tests.lab import process
from tests.lab.lab import Host, Lab
from tests.lab.waiting import poll

OPEN_OPERATIONS = ("pending", "running", "needs_attention")
TRANSITIONAL = {
    "vms/": ("creating", "starting", "stopping", "destroying"),
    "volumes/": ("creating",),
    "templates/": ("allocated",),
    "hosts/": ("joined", "disconnected"),
}
RUNS = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_BLOCKED)


def wait_rest(lab: Lab, timeout: float = 120.0) -> None:
    """Returns when no operation is on its way any more."""
    client = lab.client

    def at_rest() -> bool:
        return not any(next(client.list("operations/", state=state), None) for state in OPEN_OPERATIONS)

    poll(at_rest, timeout, "no operation is open")


def assert_consistent(lab: Lab, timeout: float = 30.0) -> None:
    """Fails with every finding, if some are left when the lab has had `timeout` seconds to come to rest."""
    wait_rest(lab, timeout)
    found: list[str] = []

    def nothing_found() -> bool:
        found[:] = findings(lab)
        return not found

    try:
        poll(nothing_found, timeout, "the lab is consistent")
    except TimeoutError:
        raise AssertionError("\n".join(found)) from None


def findings(lab: Lab) -> list[str]:
    """Everything that is wrong now, a line each; empty for a sound lab at rest."""
    return [*_rows(lab), *_files(lab), *_domains(lab), *_children(lab), *_journals(lab)]


def _rows(lab: Lab) -> Iterator[str]:
    """No row is on its way, and no command was begun more often than it may be."""
    client = lab.client
    for path, states in TRANSITIONAL.items():
        for state in states:
            yield from (f"{path}{row['id']} is still {state}" for row in client.list(path, state=state))
    most = 1 + client.get("settings/command.redo.max/")["value"]
    for command in client.list("commands/"):
        if command["state"] not in COMMAND_FINAL:
            yield f"{command['kind']} {command['id']} is still {command['state']}"
        if command["attempt"] > most:
            yield f"{command['kind']} {command['id']} was begun {command['attempt']} times, {most} are allowed"


def _journals(lab: Lab) -> Iterator[str]:
    """An agent keeps no command that the server knows to be over."""
    for host in lab.hosts:
        yield from (f"{path} was not acknowledged" for path in sorted(host.journal.glob("*.json")))


def _files(lab: Lab) -> Iterator[str]:
    """Every file in a pool has an owner in the database, and the other way round."""
    present = {path for pool in lab.pools for path in Path(pool["path"]).rglob("*") if path.is_file()}
    recorded = dict(_recorded(lab))
    for path in sorted(present - _chains(recorded.keys() & present) - _seeds(lab, recorded)):
        yield f"{path} belongs to nothing"
    for path in sorted(recorded.keys() - present):
        yield f"{path} of {recorded[path]} is missing"


def _seeds(lab: Lab, recorded: dict[Path, str]) -> set[Path]:
    """Beside any disk of a VM that is not expunged its seed may lie."""
    folders = {path.parent for path in recorded}
    states = ("stopped", "running", "destroyed")
    names = [f"seed-{vm['id']}.iso" for state in states for vm in lab.client.list("vms/", state=state)]
    return {folder / name for folder in folders for name in names}


def _recorded(lab: Lab) -> Iterator[tuple[Path, str]]:
    client = lab.client
    for volume in client.list("volumes/"):
        if volume["path"] and volume["state"] == "ready":
            yield Path(volume["path"]), f"volume {volume['id']}"
    for template in client.list("templates/"):
        for placement in client.list(f"templates/{template['id']}/placements/"):
            if placement["kind"] == "pool" and placement["state"] == "ready":
                yield Path(placement["path"]), f"template {template['id']}"


def _chains(tops: set[Path]) -> set[Path]:
    """The files and all that back them, as their qcow2 headers say."""
    members: set[Path] = set()
    for top in tops - members:
        # -U: a running guest holds the lock on its disk.
        command = ["qemu-img", "info", "-U", "--backing-chain", "--output=json", str(top)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        members |= {Path(file["filename"]) for file in json.loads(shown)}
    return members


def _domains(lab: Lab) -> Iterator[str]:
    """A domain runs where its VM's row says, once, and only there."""
    running = {(uuid, host.id) for host in lab.hosts for uuid in _running(host)}
    vms = {vm["id"]: vm for vm in lab.client.list("vms/")}
    expected = {(vm["id"], str(vm["host"])) for vm in vms.values() if vm["state"] == "running"}
    for uuid, host in sorted(running - expected):
        yield f"a domain of VM {uuid} runs on host {host}, the API says {_shown(vms.get(uuid))}"
    for uuid, host in sorted(expected - running):
        yield f"VM {uuid} should run on host {host}, no domain does"


def _running(host: Host) -> list[str]:
    connection = libvirt.open(host.hypervisor.uri)
    try:
        return [domain.UUIDString() for domain in connection.listAllDomains() if domain.state()[0] in RUNS]
    finally:
        connection.close()


def _shown(vm: dict[str, Any] | None) -> str:
    return "there is none" if vm is None else f"{vm['state']} on {vm['host']}"


def _children(lab: Lab) -> Iterator[str]:
    """No child of an agent outlives its command."""
    for entry in process.table():
        # Not by its environment: an agent gives its children none of the lab's.
        program, *arguments = process.command(entry.identity.pid)
        if Path(program).name == "qemu-img" and str(lab.dir) in " ".join(arguments):
            yield f"qemu-img still runs as process {entry.identity.pid}"
