"""Networks, and VMs with cards in them."""

from typing import Any

import pytest

from compute_app.actions import network_create, network_delete, vm_destroy, vm_start, vm_stop
from compute_app.models import Network, Nic
from core_app.errors import InvalidInput, WrongState
from infra_app.models import StoragePool, Zone
from operations_app.models import Command
from templates_app.models import Template
from tests.unit.compute_app.cloud import deploy, deployed
from tests.unit.people import Person
from tests.unit.templates_app.fleet import Fleet, in_transaction

NETWORKS = "/api/v1/networks/"


@pytest.fixture
def network(zone: Zone) -> Network:
    return network_create(name="front", zone=zone, kind="bridge", source="br0")


def cards(command: Command) -> list[tuple[str, str]]:
    return [(nic["kind"], nic["source"]) for nic in command.payload["nics"]]


@pytest.mark.usefixtures("pool")
class TestCards:
    def test_a_vm_has_one_in_each_and_their_addresses_stay(
        self, fleet: Fleet, template: Template, network: Network, zone: Zone
    ) -> None:
        back = network_create(name="back", zone=zone, kind="libvirt", source="default")
        vm = deployed(fleet, template, networks=[back, network, back])
        first = Command.objects.get(kind="vm.start")
        assert cards(first) == [("libvirt", "default"), ("bridge", "br0"), ("libvirt", "default")]
        macs = [nic["mac"] for nic in first.payload["nics"]]
        assert len(set(macs)) == 3
        # Locally administered, for one card: the two lowest bits of the first byte.
        assert {int(mac[:2], 16) & 3 for mac in macs} == {2}
        fleet.works(in_transaction(vm_stop, vm, force=True))
        again = fleet.works(in_transaction(vm_start, vm))
        assert [nic["mac"] for nic in again.commands.get().payload["nics"]] == macs

    def test_a_network_of_another_zone_is_refused(self, fleet: Fleet, template: Template) -> None:
        other = network_create(name="x", zone=Zone.objects.create(name="other"), kind="bridge", source="br0")
        with pytest.raises(InvalidInput) as refused:
            deploy(fleet, template, networks=[other])
        assert list(refused.value.errors) == ["networks"]

    def test_one_that_is_used_stays_until_its_vms_are_expunged(
        self, fleet: Fleet, template: Template, network: Network
    ) -> None:
        vm = deployed(fleet, template, networks=[network])
        fleet.works(in_transaction(vm_destroy, vm, expunge=False))
        with pytest.raises(WrongState, match="has a card in front"):
            network_delete(network)
        fleet.works(in_transaction(vm_destroy, vm, expunge=True))
        assert not Nic.objects.exists()
        network_delete(network)


class TestApi:
    def test_an_operator_makes_and_deletes_one_and_everyone_sees_it(
        self, olga: Person, alice: Person, zone: Zone
    ) -> None:
        body = {"name": "front", "zone": str(zone.pk), "kind": "bridge", "source": "br0"}
        assert alice.post(NETWORKS, body).status_code == 403
        made = olga.post(NETWORKS, body)
        assert made.status_code == 201, made.content
        assert olga.post(NETWORKS, body).status_code == 409
        (shown,) = alice.get(f"{NETWORKS}?kind=bridge&zone={zone.pk}").json()["results"]
        assert {name: shown[name] for name in body} == body
        path = f"{NETWORKS}{shown['id']}/"
        assert [person.delete(path).status_code for person in (alice, olga, olga)] == [403, 204, 404]

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"kind": "bridge", "source": "x" * 16}, "source"),
            ({"kind": "bridge", "source": "../net"}, "source"),
            ({"kind": "libvirt", "source": "a'/><x"}, "source"),
            ({"kind": "libvirt", "source": "--help"}, "source"),
            ({"kind": "vlan"}, "kind"),
            ({"name": ""}, "name"),
        ],
    )
    def test_what_no_host_can_have_is_refused(self, olga: Person, zone: Zone, given: Any, field: str) -> None:
        body = {"name": "front", "zone": str(zone.pk), "kind": "bridge", "source": "br0"} | given
        answer = olga.post(NETWORKS, body)
        assert (answer.status_code, list(answer.json()["errors"])) == (400, [field])

    def test_a_vm_shows_its_cards(self, alice: Person, template: Template, pool: StoragePool, network: Network) -> None:
        body = {"name": "vm", "template": str(template.pk), "zone": str(pool.zone_id), "memory_bytes": 16 << 20}
        for networks in ([str(template.pk)], [str(network.pk)] * 9):
            assert list(alice.post("/api/v1/vms/", {**body, "networks": networks}).json()["errors"]) == ["networks"]
        answer = alice.post("/api/v1/vms/", {**body, "networks": [str(network.pk)]})
        assert answer.status_code == 202, answer.content
        (nic,) = alice.get(f"/api/v1/vms/{answer.json()['target']['id']}/").json()["nics"]
        assert (nic["network"], len(nic["mac"])) == (str(network.pk), 17)
