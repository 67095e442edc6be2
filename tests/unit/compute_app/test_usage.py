"""What is used is written down from when to when."""

from accounts_app import usage
from accounts_app.models import UsageRecord
from compute_app import accounting
from compute_app.actions import vm_destroy, vm_start, vm_stop
from compute_app.models import VM
from infra_app.models import Agent, StoragePool
from templates_app.models import Template
from tests.unit.compute_app.cloud import MIB, deploy, deployed, existing, shown
from tests.unit.people import Person
from tests.unit.templates_app.fleet import GIB, TEMPLATE_BYTES, Fleet, in_transaction

Figures = list[tuple[str, int, int, bool]]


def figures(kind: str = "") -> Figures:
    """Kind, count, size and whether it goes on, oldest first."""
    rows = UsageRecord.objects.filter(kind=kind) if kind else UsageRecord.objects.all()
    return [(r.kind, r.count, r.size_bytes, r.ended_at is None) for r in rows.order_by("size_bytes", "created_at")]


def test_a_vm_is_used_while_it_runs(fleet: Fleet, template: Template, pool: StoragePool) -> None:
    vm = deployed(fleet, template, cpus=2)
    assert figures("vm.running") == [("vm.running", 2, GIB, True)]
    stopping = in_transaction(vm_stop, vm, force=True)
    assert figures("vm.running") == [("vm.running", 2, GIB, True)]
    fleet.works(stopping)
    assert figures("vm.running") == [("vm.running", 2, GIB, False)]
    fleet.works(in_transaction(vm_start, vm))
    fleet.works(in_transaction(vm_destroy, VM.objects.get(), expunge=False))
    assert figures("vm.running") == [("vm.running", 2, GIB, False)] * 2
    first, second = UsageRecord.objects.filter(kind="vm.running").order_by("created_at")
    assert first.ended_at
    assert second.ended_at
    assert first.created_at < first.ended_at < second.created_at < second.ended_at


def test_one_that_goes_off_by_itself_is_used_no_more(
    fleet: Fleet, template: Template, pool: StoragePool, host: Agent
) -> None:
    vm = deployed(fleet, template)
    fleet.pings(host, vms=[])
    assert shown(vm)[0] == "stopped"
    assert figures("vm.running") == [("vm.running", 1, GIB, False)]


def test_volumes_are_used_from_when_they_are_made_until_they_are_removed(
    fleet: Fleet, template: Template, pool: StoragePool
) -> None:
    vm, operation = deploy(fleet, template, data_disk_sizes=[MIB])
    fleet.works(operation, until="volume.create")
    assert figures("volume") == []
    fleet.works(operation)
    assert figures("volume") == [("volume", 1, MIB, True), ("volume", 1, GIB, True)]
    fleet.works(in_transaction(vm_destroy, vm, expunge=True))
    assert figures("volume") == [("volume", 1, MIB, False), ("volume", 1, GIB, False)]


def test_another_size_is_another_record(fleet: Fleet, template: Template, pool: StoragePool) -> None:
    volume = existing(fleet, template, pool, None).volumes.get(device_index=1)
    for size in (MIB, MIB, 2 * MIB):
        volume.size_bytes = size
        accounting.volume_resized(volume)
    assert figures("volume") == [("volume", 1, MIB, False), ("volume", 1, 2 * MIB, True)]
    first, second = UsageRecord.objects.order_by("created_at")
    assert first.ended_at == second.created_at


def test_a_template_is_used_from_when_it_is_ready(fleet: Fleet, host: Agent) -> None:
    _, operation = fleet.registered()
    assert figures() == []
    fleet.works(operation)
    assert figures() == [("template", 1, TEMPLATE_BYTES, True)]


def test_an_account_sees_its_own(
    fleet: Fleet, template: Template, pool: StoragePool, alice: Person, charlie: Person
) -> None:
    vm = existing(fleet, template, pool, None)
    usage.record("vm.running", vm, count=1, size_bytes=GIB)
    usage.record("vm.running", vm, count=0)
    usage.record("vm.running", vm, count=2, size_bytes=GIB)
    (second, first) = alice.get("/api/v1/usage-records/").json()["results"]
    assert first["target"] == {"type": "vm", "id": str(vm.pk), "name": "vm"}
    assert (first["count"], first["ended_at"] is None, second["ended_at"]) == (1, False, None)
    assert charlie.get("/api/v1/usage-records/").json()["results"] == []
    for query, expected in {
        f"target={vm.pk}": 2,
        "kind=volume": 0,
        f"account={vm.account_id}&kind=vm.running": 2,
        f"after={first['ended_at']}": 1,
        f"before={second['created_at']}": 1,
    }.items():
        assert len(alice.get(f"/api/v1/usage-records/?{query}").json()["results"]) == expected, query
