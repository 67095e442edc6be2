"""Zones and storage pools: what is made, what is refused, and why."""

from typing import Any

import pytest

from core_app.models import Event
from infra_app import actions
from infra_app.models import Agent, StoragePool, Zone
from tests.unit.people import Person, joined


def wish(zone: Zone, /, **changes: Any) -> dict[str, Any]:
    return {"name": "pool1", "zone": str(zone.pk), "type": "shared", "path": "/srv/pool1"} | changes


def test_a_pool_of_each_type(olga: Person, zone: Zone, agent: Agent) -> None:
    wishes = [
        wish(zone),
        wish(zone, name="pool2", type="nfs", path="/var/lib/pool2"),
        wish(zone, name="pool3", type="local", path="/srv/pool3", host=str(agent.pk)),
    ]
    made = [olga.post("/api/v1/storage-pools/", w) for w in wishes]
    assert [answer.status_code for answer in made] == [201, 201, 201], [a.content for a in made]
    assert made[2].json() == wishes[2] | {
        "id": made[2].json()["id"],
        "capacity_bytes": 0,
        "available_bytes": 0,
        "created_at": made[2].json()["created_at"],
    }
    local = olga.get(f"/api/v1/storage-pools/?type=local&host={agent.pk}").json()["results"]
    assert [pool["name"] for pool in local] == ["pool3"]
    assert Event.objects.filter(kind="storage_pool.created").count() == 3


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"path": "srv"}, "path"),
        *(({"path": path}, "path") for path in ("/", "/etc", "/etc/pool", "/usr", "/proc/1", "/dev/shm", "/var/lib")),
        ({"path": "//srv"}, "path"),
        ({"path": "/srv/"}, "path"),
        ({"path": "/srv/../etc"}, "path"),
        ({"path": "/srv/./x"}, "path"),
        ({"path": "/srv/x\x00"}, "path"),
        ({"type": "local"}, "host"),
        ({"type": "ceph"}, "type"),
        ({"zone": "11111111-1111-1111-1111-111111111111"}, "zone"),
        ({"name": ""}, "name"),
    ],
)
def test_a_pool_that_is_not_described_as_it_must_be(olga: Person, zone: Zone, changes: Any, field: str) -> None:
    answer = olga.post("/api/v1/storage-pools/", wish(zone, **changes))
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [field])
    assert not StoragePool.objects.exists()


def test_a_host_must_fit(olga: Person, zone: Zone, agent: Agent) -> None:
    far = joined(actions.zone_create("zone2"), "host2")
    for changes in ({"host": str(agent.pk)}, {"type": "local", "host": str(far.pk)}):
        answer = olga.post("/api/v1/storage-pools/", wish(zone, **changes))
        assert (answer.status_code, list(answer.json()["errors"])) == (400, ["host"])


def test_two_pools_never_share_a_folder(olga: Person, zone: Zone, agent: Agent) -> None:
    neighbour = joined(zone, "host2")
    local = wish(zone, type="local", host=str(agent.pk))
    assert olga.post("/api/v1/storage-pools/", local).status_code == 201
    again = olga.post("/api/v1/storage-pools/", local | {"name": "pool2"})
    assert (again.status_code, again.json()["type"]) == (409, "/problems/pool_exists")
    assert olga.post("/api/v1/storage-pools/", local | {"host": str(neighbour.pk)}).status_code == 409
    assert olga.post("/api/v1/storage-pools/", local | {"name": "pool2", "host": str(neighbour.pk)}).status_code == 201
    named = olga.post("/api/v1/storage-pools/", local | {"path": "/srv/elsewhere"}).json()
    assert "has a pool pool1 already, at /srv/pool1" in named["cause"]
    assert "folder" not in named["detail"]
    for path in ("/srv/pool1", "/srv", "/srv/pool1/inside"):
        refused = olga.post("/api/v1/storage-pools/", wish(zone, name="pool3", path=path))
        assert (refused.status_code, path) == (409, path)
        assert path in refused.json()["cause"]
    assert olga.post("/api/v1/storage-pools/", wish(zone, name="pool3", path="/srv/pool10")).status_code == 201
    far = actions.zone_create("zone2")
    assert olga.post("/api/v1/storage-pools/", wish(far)).status_code == 201


def test_zones(olga: Person, alice: Person) -> None:
    made = olga.post("/api/v1/zones/", {"name": "north"})
    assert (made.status_code, made.json()["enabled"], made.json()["deletions_suspended"]) == (201, True, False)
    assert olga.post("/api/v1/zones/", {"name": "north"}).json()["type"] == "/problems/zone_exists"
    assert [zone["name"] for zone in alice.get("/api/v1/zones/?name=north").json()["results"]] == ["north"]


def test_hosts_are_found_by_zone_and_state(olga: Person, zone: Zone, agent: Agent) -> None:
    joined(zone, "store1", role="image-store")
    assert [h["name"] for h in olga.get(f"/api/v1/hosts/?zone={zone.pk}&state=joined").json()["results"]] == ["host1"]
    assert olga.get("/api/v1/hosts/?state=up").json()["results"] == []
    assert olga.get("/api/v1/hosts/?state=upp").status_code == 400
    assert agent.host.id == agent.pk
