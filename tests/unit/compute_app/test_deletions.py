"""Deleting a template, and the plans of deletions."""

from typing import Any

import pytest

from core_app.models import Event
from infra_app.models import Agent, StoragePool
from operations_app.models import Command, Operation
from templates_app.models import Placement, Template
from tests.unit.accounts_app.test_limits import used
from tests.unit.compute_app.cloud import MIB, deploy, existing, nothing_held
from tests.unit.people import Person
from tests.unit.templates_app.fleet import GIB, TEMPLATE_BYTES, Fleet, committed, state_of


def delete(person: Person, path: str) -> Any:
    with committed():
        return person.delete(f"/api/v1/{path}")


def rows() -> list[Any]:
    """All that a deletion changes."""
    models = (Template, Placement, Operation, Command, Event)
    return [list(model._default_manager.order_by("pk").values()) for model in models]


@pytest.fixture
def copy(fleet: Fleet, template: Template, pool: StoragePool) -> Placement:
    return fleet.on_pool(template, pool)


def test_a_template_is_gone_at_once_and_its_copies_are_removed(
    fleet: Fleet, alice: Person, host: Agent, pool: StoragePool
) -> None:
    template = fleet.checked()
    copy = fleet.on_pool(template, pool)
    answer = delete(alice, f"templates/{template.pk}/")
    operation = Operation.objects.get(pk=answer.json()["id"])
    assert (answer.status_code, operation.kind, state_of(template)) == (202, "template.delete", "deleted")
    assert used(fleet.account) == {}
    assert fleet.open(operation)[0].payload["file_name"] == template.file_name
    assert answer.json()["may_cancel"] is False
    fleet.works(operation)
    assert (state_of(operation), state_of(copy)) == ("succeeded", "absent")
    assert set(template.placements.values_list("state", flat=True)) == {"absent"}
    assert nothing_held()
    assert delete(alice, f"templates/{template.pk}/").status_code == 409


def test_one_that_is_in_use_stays(fleet: Fleet, alice: Person, template: Template, copy: Placement) -> None:
    vm = existing(fleet, template, copy.pool, None)  # type: ignore[arg-type]
    refused = delete(alice, f"templates/{template.pk}/")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/template_in_use")
    assert refused.json()["cause"] == "debian is the backing of vm-root."
    assert state_of(template) == "ready"
    vm.volumes.update(state="removed")
    assert delete(alice, f"templates/{template.pk}/").status_code == 202


def test_one_that_is_being_downloaded_stays(fleet: Fleet, alice: Person, template: Template, pool: StoragePool) -> None:
    with committed():
        download = alice.post(f"/api/v1/templates/{template.pk}/prepare/", {"pool": str(pool.pk)}).json()["id"]
    refused = delete(alice, f"templates/{template.pk}/")
    assert (refused.status_code, refused.json()["operation"]) == (409, download)
    assert state_of(template) == "ready"


def test_nobody_deploys_from_one_that_was_just_deleted(
    fleet: Fleet, alice: Person, template: Template, copy: Placement
) -> None:
    stale = Template.objects.get(pk=template.pk)
    delete(alice, f"templates/{template.pk}/")
    with pytest.raises(Exception, match="debian is deleted"):
        deploy(fleet, stale)


def test_only_its_owner_or_an_operator_deletes_a_public_one(
    fleet: Fleet, olga: Person, charlie: Person, template: Template
) -> None:
    assert delete(charlie, f"templates/{template.pk}/").status_code == 404
    Template.objects.update(public=True)
    assert delete(charlie, f"templates/{template.pk}/").status_code == 403
    assert delete(olga, f"templates/{template.pk}/").status_code == 202


def test_a_removal_that_fails_is_asked_for_again(
    fleet: Fleet, alice: Person, template: Template, copy: Placement
) -> None:
    operation = Operation.objects.get(pk=delete(alice, f"templates/{template.pk}/").json()["id"])
    fleet.fails(fleet.the_open(operation), "image_in_use")
    assert (state_of(operation), state_of(copy)) == ("needs_attention", "ready")
    fleet.sweeps()
    fleet.works(operation)
    assert (state_of(operation), state_of(copy)) == ("succeeded", "absent")


# --- plans ---------------------------------------------------------------------------------------------------------


def test_the_plan_of_a_templates_deletion(alice: Person, template: Template, copy: Placement) -> None:
    before = rows()
    answer = delete(alice, f"templates/{template.pk}/?dry_run=true")
    file = {"host": "host1", "pool": "shared", "path": copy.path, "size_bytes": TEMPLATE_BYTES}
    assert answer.status_code == 200
    assert answer.json() == {"power_off_on": None, "files": [file], "size_bytes": TEMPLATE_BYTES}
    assert rows() == before


def test_the_plan_of_a_vms_destruction(
    fleet: Fleet, alice: Person, template: Template, copy: Placement, host: Agent
) -> None:
    vm = existing(fleet, template, copy.pool, host)  # type: ignore[arg-type]
    before = rows()
    kept = delete(alice, f"vms/{vm.pk}/?dry_run=true").json()
    assert kept == {"power_off_on": "host1", "files": [], "size_bytes": 0}
    plan = delete(alice, f"vms/{vm.pk}/?dry_run=true&expunge=true").json()
    names = [f"/pools/shared/volume-{volume.pk}.qcow2" for volume in vm.volumes.order_by("device_index")]
    assert [file["path"] for file in plan["files"]] == names
    assert (plan["power_off_on"], plan["size_bytes"]) == ("host1", GIB + MIB)
    assert rows() == before


def test_a_plan_is_refused_as_the_deletion_would_be(
    fleet: Fleet, alice: Person, template: Template, copy: Placement, host: Agent
) -> None:
    vm = existing(fleet, template, copy.pool, host)  # type: ignore[arg-type]
    assert delete(alice, f"templates/{template.pk}/?dry_run=true").status_code == 409
    assert delete(alice, f"vms/{vm.pk}/?dry_run=perhaps").status_code == 400
    operation = delete(alice, f"vms/{vm.pk}/").json()["id"]
    assert delete(alice, f"vms/{vm.pk}/?dry_run=true").json()["operation"] == operation
