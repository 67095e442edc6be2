"""What VMs, volumes and templates count for at their account, from the request to their end."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain

import pytest

from accounts_app import limits
from accounts_app.actions import account_create
from accounts_app.models import Account
from compute_app.actions import Deployment, vm_deploy, vm_destroy
from compute_app.models import VM
from core_app.errors import LimitExceeded
from core_app.models import Event
from infra_app.models import Agent, StoragePool
from operations_app.models import Operation
from templates_app.models import Template
from tests.unit.accounts_app.test_limits import used
from tests.unit.compute_app.cloud import MIB, at_once, deploy, shown
from tests.unit.templates_app.fleet import GIB, Fleet, in_transaction, setting

ONE_VM = {"vms": 1, "volumes": 2, "primary_storage_bytes": GIB + MIB}


def of_vms(account: Account) -> dict[str, int]:
    return {name: amount for name, amount in used(account).items() if name != "templates"}


def nothing_drifted() -> bool:
    limits.check()
    return not Event.objects.filter(kind="account.usage_mended").exclude(message__startswith="templates").exists()


def test_a_vm_counts_from_the_request_until_it_is_expunged(fleet: Fleet, template: Template, pool: StoragePool) -> None:
    _, operation = deploy(fleet, template, data_disk_sizes=[MIB])
    assert of_vms(fleet.account) == ONE_VM
    fleet.works(operation)
    vm = VM.objects.get()
    fleet.works(in_transaction(vm_destroy, vm, expunge=False))
    assert (shown(vm)[0], of_vms(fleet.account)) == ("destroyed", ONE_VM)
    fleet.works(in_transaction(vm_destroy, vm, expunge=True))
    assert (shown(vm)[0], of_vms(fleet.account)) == ("expunged", {})
    assert nothing_drifted()


def test_one_that_failed_counts_until_it_is_destroyed(fleet: Fleet, template: Template, pool: StoragePool) -> None:
    vm, operation = deploy(fleet, template, data_disk_sizes=[MIB])
    fleet.cancels(operation)
    fleet.works(operation)
    assert (shown(vm)[0], of_vms(fleet.account)) == ("error", {"vms": 1})
    fleet.works(in_transaction(vm_destroy, vm, expunge=False))
    assert (shown(vm)[0], of_vms(fleet.account)) == ("expunged", {})
    assert nothing_drifted()


@pytest.mark.parametrize("resource", ONE_VM)
def test_a_refusal_names_the_limit_and_leaves_nothing(
    fleet: Fleet, template: Template, pool: StoragePool, resource: str
) -> None:
    limits.put(fleet.account, {resource: 0})
    with pytest.raises(LimitExceeded, match=f"acme may have 0 {resource}, has 0") as refusal:
        deploy(fleet, template, data_disk_sizes=[MIB])
    assert (refusal.value.status, refusal.value.code) == (409, "limit_exceeded")
    assert not VM.objects.exists()
    assert not Operation.objects.exists()
    assert of_vms(fleet.account) == {}


def test_a_template_counts_until_its_registration_fails(fleet: Fleet, host: Agent) -> None:
    limits.put(fleet.account, {"templates": 1})
    _, operation = fleet.registered("first")
    with pytest.raises(LimitExceeded):
        fleet.registered("second")
    assert used(fleet.account) == {"templates": 1}
    fleet.fails(fleet.the_open(operation), elsewhere=False)
    assert used(fleet.account) == {}
    fleet.checked("second")
    assert used(fleet.account) == {"templates": 1}


def _repeated(times: int, deed: Callable[[], object]) -> list[LimitExceeded]:
    """The refusals of one thread that asks again and again."""
    refusals = []
    for _ in range(times):
        try:
            deed()
        except LimitExceeded as refusal:
            refusals.append(refusal)
    return refusals


def test_of_a_hundred_deployments_at_once_exactly_the_limit_is_accepted(transactional_db: None, fleet: Fleet) -> None:
    setting("host.memory.overcommit", 10)
    pool = fleet.pool("shared", fleet.host("host1"), capacity_bytes=1000 * GIB)
    template = fleet.template()
    fleet.on_pool(template, pool)
    limits.put(fleet.account, {"vms": 10})
    other = Deployment("vm", account_create("other"), template, fleet.zone, cpus=1, memory_bytes=MIB)
    five_times = partial(_repeated, 5, partial(vm_deploy, replace(other, account=fleet.account)))
    *refused, _ = at_once(*[five_times] * 20, partial(vm_deploy, other))
    refusals = list(chain.from_iterable(refused))
    assert {str(refusal.cause) for refusal in refusals} == {"acme may have 10 vms, has 10, and asks for 1 more."}
    assert len(refusals) == 90
    assert VM.objects.filter(account=fleet.account).count() == used(fleet.account)["vms"] == 10
    assert VM.objects.filter(account=other.account).count() == 1
    assert nothing_drifted()
