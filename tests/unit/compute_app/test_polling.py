"""What is polled answers 304 without being rendered, until anything that is shown has changed."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from compute_app.models import VM, Volume
from infra_app.models import Agent, StoragePool
from operations_app.models import Operation
from templates_app.models import Placement, Template
from tests.unit.compute_app.cloud import deploy, existing
from tests.unit.people import Person
from tests.unit.templates_app.fleet import Fleet

CHANGES: dict[str, Callable[[], object]] = {
    "vms/{vm}/": lambda: VM.objects.update(power_reason="x"),
    "vms/{vm}/ ": lambda: Volume.objects.filter(device_index=1).update(state="removed"),
    "vms/": lambda: VM.objects.update(state="error"),
    "vms/?page_size=1": lambda: VM.objects.create(
        **{name: getattr(VM.objects.get(), name) for name in ("account_id", "zone_id", "template_id", "memory_bytes")},
        cpus=1,
        name="another",
        created_at=VM.objects.get().created_at.replace(year=2000),
    ),
    "templates/": lambda: Template.objects.update(name="x"),
    "templates/{template}/placements/": lambda: Operation.objects.update(progress={"done_bytes": 1, "total_bytes": 2}),
    "operations/": lambda: Operation.objects.update(cancel_requested_at="2026-01-01T00:00Z"),
    "operations/{operation}/": lambda: Operation.objects.update(position=1),
}


@pytest.fixture
def paths(fleet: Fleet, template: Template, host: Agent, pool: StoragePool) -> dict[str, Any]:
    vm = existing(fleet, template, pool, host)
    operation = Operation.objects.create(kind="vm.stop", target_type="vm", target_id=vm.pk, account=fleet.account)
    Placement.objects.filter(pool=pool).update(operation=operation, state="downloading")
    return {"vm": vm.pk, "template": template.pk, "operation": operation.pk}


@pytest.mark.parametrize("path", CHANGES)
def test_it_is_unchanged_until_it_is_not(alice: Person, paths: dict[str, Any], path: str) -> None:
    url = f"/api/v1/{path.strip().format(**paths)}"
    first = alice.get(url)
    again = alice.get(url, HTTP_IF_NONE_MATCH=first["ETag"])
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    assert first["ETag"] == again["ETag"]
    CHANGES[path]()
    changed = alice.get(url, HTTP_IF_NONE_MATCH=first["ETag"])
    assert changed.status_code == 200
    assert changed.content != first.content
    assert changed["ETag"] != first["ETag"]


def test_nobody_learns_of_what_is_not_theirs(charlie: Person, alice: Person, paths: dict[str, Any]) -> None:
    url = f"/api/v1/vms/{paths['vm']}/"
    etag = alice.get(url)["ETag"]
    assert charlie.get(url, HTTP_IF_NONE_MATCH=etag).status_code == 404
    assert charlie.get(url, HTTP_IF_NONE_MATCH="*").status_code == 404


def test_an_operation_moves_its_etag_with_each_report(
    fleet: Fleet, alice: Person, template: Template, pool: StoragePool
) -> None:
    _, operation = deploy(fleet, template)
    url, etags = f"/api/v1/operations/{operation.pk}/", set()
    for kind in ("template.download", "volume.create", "vm.start", ""):
        etags.add(alice.get(url)["ETag"])
        fleet.works(operation, until=kind)
    etags.add(alice.get(url)["ETag"])
    assert len(etags) == 4, "the first two looks saw the same"


def test_a_304_costs_as_few_queries_as_the_list(alice: Person, paths: dict[str, Any]) -> None:
    etag = alice.get("/api/v1/vms/")["ETag"]
    with CaptureQueriesContext(connection) as seen:
        assert alice.get("/api/v1/vms/", HTTP_IF_NONE_MATCH=etag).status_code == 304
    assert len(seen) <= 4
