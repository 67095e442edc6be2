"""What may be asked for: networks, and the addresses of cards in them."""

import re
import secrets

from django.db import transaction

from compute_app.models import Network
from core_app import events
from core_app.errors import InvalidInput, WrongState
from core_app.names import check_name
from infra_app.models import Zone
from templates_app.actions import lock_zone

SOURCES = {
    # An interface's name has at most 15 bytes (IFNAMSIZ in linux/if.h).
    Network.Kind.BRIDGE: re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}"),
    Network.Kind.LIBVIRT: re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"),
}


def network_create(*, name: str, zone: Zone, kind: str, source: str) -> Network:
    """Make a network known. Raises InvalidInput for a source that no host can have, WrongState if the name is taken."""
    check_name(name)
    if not SOURCES[Network.Kind(kind)].fullmatch(source):
        raise InvalidInput(
            f"No host can have a {kind} of that name.",
            "No network was made.",
            "Give its name on the hosts: letters, digits, dots, dashes, underscores.",
            errors={"source": [f"It is no name of a {kind}."]},
        )
    with transaction.atomic():
        lock_zone(zone.pk)
        if Network.objects.filter(zone=zone, name=name).exists():
            raise WrongState(
                f"Zone {zone} has a network {name} already.",
                "No other was made.",
                "Choose another name, or use the network that is there.",
                code="network_exists",
            )
        network = Network.objects.create(name=name, zone=zone, kind=kind, source=source)
        events.record("network.created", network)
    return network


def network_delete(network: Network) -> None:
    """Forget a network; nothing on the hosts is touched. Raises WrongState while a VM has a card in it."""
    with transaction.atomic():
        lock_zone(network.zone_id)
        if nic := network.nics.select_related("vm").first():
            raise WrongState(
                f"VM {nic.vm} has a card in {network}.", "It was not deleted.", "Expunge the VMs that use it first."
            )
        events.record("network.deleted", network)
        network.delete()


def new_mac() -> str:
    """A locally administered unicast address (IEEE 802) that nobody had before: 40 random bits."""
    return ":".join(f"{byte:02x}" for byte in (0x02, *secrets.token_bytes(5)))
