"""What a VM's network cards are plugged into, as this host has it."""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from agents.common.errors import CommandError
from agents.common.files import inside
from agents.hypervisor.connection import Hypervisor
from agents.hypervisor.errors import NetworkNotFound, translated
from agents.protocol.kinds import Nic

INTERFACES = Path("/sys/class/net")


def check_networks(hypervisor: Hypervisor, nics: Iterable[Nic]) -> None:
    """Raises CommandError where one is not on this host, before libvirt is asked to start anything."""
    for nic in nics:
        missing = _lacks_bridge(nic.source) if nic.kind == "bridge" else _lacks_network(hypervisor, nic.source)
        if missing:
            raise CommandError(
                "network_missing",
                missing,
                "The VM was not started: it would be cut off.",
                "Make the network on the host, or start the VM on another one.",
                elsewhere=True,
            )


def _lacks_bridge(source: str) -> str:
    if (inside(INTERFACES, source) / "bridge").is_dir():
        return ""
    return f"This host has no bridge {source}."


def _lacks_network(hypervisor: Hypervisor, source: str) -> str:
    connection = hypervisor.connection()
    with contextlib.suppress(NetworkNotFound), translated():
        active = connection.networkLookupByName(source).isActive()
        return "" if active else f"This host's libvirt network {source} is not active."
    return f"This host has no libvirt network {source}."
