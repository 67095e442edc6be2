"""``volumes/`` over HTTP: shapes, fields, who may what, and what a deletion would do."""

from typing import Any
from uuid import uuid4

import pytest

from compute_app.models import VM, Volume
from infra_app.models import Agent, StoragePool, Zone
from operations_app.models import Operation
from templates_app.models import Template
from tests.unit.compute_app.cloud import MIB, existing, nothing_held
from tests.unit.compute_app.test_vms_api import delete, post
from tests.unit.people import Person
from tests.unit.templates_app.fleet import Fleet, state_of

VOLUMES = "/api/v1/volumes/"


@pytest.fixture
def body(pool: StoragePool, zone: Zone) -> dict[str, Any]:
    return {"name": "data", "zone": str(zone.pk), "size_bytes": MIB}


@pytest.fixture
def vm(fleet: Fleet, template: Template, pool: StoragePool, host: Agent) -> VM:
    return existing(fleet, template, pool, host)


def done(fleet: Fleet, answer: Any) -> str:
    """The path of what an accepted request was about, when its operation has succeeded."""
    assert answer.status_code == 202, answer.content
    operation = answer.json()
    assert answer["Location"].endswith(f"/api/v1/operations/{operation['id']}/")
    assert fleet.works(Operation.objects.get(pk=operation["id"])).state == "succeeded"
    return f"{VOLUMES}{operation['target']['id']}/"


def test_the_life_of_a_volume(fleet: Fleet, alice: Person, body: dict[str, Any], vm: VM) -> None:
    path = done(fleet, post(alice, VOLUMES, body))
    made = alice.get(path).json()
    assert (made["state"], made["vm"], made["device"], made["outlives_vm"]) == ("ready", None, None, True)
    assert (made["size_bytes"], made["format"], made["chain_length"]) == (MIB, "qcow2", 1)

    done(fleet, post(alice, f"{path}attach/", {"vm": str(vm.pk)}))
    attached = alice.get(path).json()
    assert (attached["vm"], attached["device"]) == (str(vm.pk), "vdc")
    assert made["id"] in alice.get(f"/api/v1/vms/{vm.pk}/").json()["volumes"]
    refused = delete(alice, path)
    assert (refused.status_code, refused.json()["cause"]) == (409, "data is vdc of vm.")

    answer = post(alice, f"{path}resize/", {"size_bytes": 2 * MIB})
    assert alice.get(path).json()["size_bytes"] == MIB, "a guest does not see it before it is done"
    done(fleet, answer)
    assert alice.get(path).json()["size_bytes"] == 2 * MIB

    done(fleet, post(alice, f"{path}detach/"))
    plan = delete(alice, f"{path}?dry_run=true")
    file = {"host": "host1", "pool": "shared", "path": made["path"], "size_bytes": 2 * MIB}
    assert (plan.status_code, plan.json()) == (200, {"power_off_on": None, "files": [file], "size_bytes": 2 * MIB})
    assert (alice.get(path).json()["state"], nothing_held()) == ("ready", True)
    done(fleet, delete(alice, path))
    assert alice.get(path).json()["state"] == "removed"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "two\nlines"}, "name"),
        ({"size_bytes": MIB + 1}, "size_bytes"),
        ({"size_bytes": MIB - 512}, "size_bytes"),
        ({"size_bytes": 1 << 62}, "size_bytes"),
        ({"size_bytes": None}, "size_bytes"),
        ({"zone": str(uuid4())}, "zone"),
        ({"pool": str(uuid4())}, "pool"),
        ({"vm": str(uuid4())}, "vm"),
    ],
)
def test_a_wrong_field_is_named(alice: Person, body: dict[str, Any], given: dict[str, Any], field: str) -> None:
    answer = post(alice, VOLUMES, body | given)
    assert (answer.status_code, list(answer.json()["errors"])) == (400, [field])
    assert not Volume.objects.exists()


def test_a_resize_that_is_none_is_refused(alice: Person, vm: VM) -> None:
    path = f"{VOLUMES}{vm.volumes.get(device_index=1).pk}/resize/"
    for size in (MIB, MIB - 512, 2 * MIB + 1, -1, "much"):
        answer = post(alice, path, {"size_bytes": size})
        assert (answer.status_code, list(answer.json()["errors"])) == (400, ["size_bytes"])


def test_an_expunge_plan_leaves_out_what_is_kept(fleet: Fleet, alice: Person, body: dict[str, Any], vm: VM) -> None:
    kept = done(fleet, post(alice, VOLUMES, body))
    done(fleet, post(alice, f"{kept}attach/", {"vm": str(vm.pk)}))
    plan = delete(alice, f"/api/v1/vms/{vm.pk}/?expunge=true&dry_run=true").json()
    assert len(plan["files"]) == 2
    assert alice.get(kept).json()["path"] not in {file["path"] for file in plan["files"]}


def test_who_may_what(charlie: Person, rita: Person, body: dict[str, Any], vm: VM, fleet: Fleet) -> None:
    disk = vm.volumes.get(device_index=1)
    path = f"{VOLUMES}{disk.pk}/"
    for person, status in ((charlie, 404), (rita, 403)):
        answers = [
            post(person, f"{path}detach/"),
            post(person, f"{path}resize/", {"size_bytes": 2 * MIB}),
            post(person, f"{path}attach/", {"vm": str(vm.pk)}),
            delete(person, path),
        ]
        assert [answer.status_code for answer in answers] == [status] * 4
    mine = done(fleet, post(charlie, VOLUMES, body))
    assert post(charlie, f"{mine}attach/", {"vm": str(vm.pk)}).status_code == 404
    assert (state_of(disk), nothing_held()) == ("ready", True)
