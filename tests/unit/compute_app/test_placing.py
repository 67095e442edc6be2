"""Room: what is promised is counted once, from the promise until it is certainly given back."""

from functools import partial
from typing import Any

import pytest
from django.db import transaction

from accounts_app.models import Account
from compute_app.actions import Deployment, vm_deploy, vm_destroy, vm_start
from compute_app.models import VM, Volume
from compute_app.placing import find_host
from core_app.errors import NoRoom
from infra_app.models import Agent, StoragePool
from operations_app.actions import cancel
from operations_app.models import Command, Operation, Waiter
from templates_app.actions import template_prepare
from templates_app.models import Placement, Template
from tests.unit.compute_app.cloud import at_once, deploy, deployed, nothing_held, shown
from tests.unit.templates_app.fleet import GIB, TEMPLATE_BYTES, Fleet, download_of, in_transaction, setting, state_of


class TestMemory:
    """A host of 8 GiB."""

    def full(self, fleet: Fleet, template: Template, memory_bytes: int = GIB) -> bool:
        try:
            deploy(fleet, template, memory_bytes=memory_bytes)
        except NoRoom:
            return True
        return False

    def test_it_is_promised_at_once(self, fleet: Fleet, template: Template, pool: StoragePool) -> None:
        deploy(fleet, template, memory_bytes=8 * GIB)
        assert self.full(fleet, template)

    def test_it_is_given_back_when_the_deployment_is_put_back_not_before(
        self, fleet: Fleet, template: Template, pool: StoragePool
    ) -> None:
        _, operation = deploy(fleet, template, memory_bytes=8 * GIB)
        fleet.works(operation, until="vm.start")
        fleet.fails(fleet.the_open(operation))
        assert fleet.the_open(operation).kind == "volume.remove"
        assert self.full(fleet, template)
        fleet.works(operation)
        assert not self.full(fleet, template)

    def test_a_stopped_vm_takes_none_and_a_starting_one_does(
        self, fleet: Fleet, template: Template, pool: StoragePool
    ) -> None:
        vm = deployed(fleet, template, memory_bytes=8 * GIB, start=False)
        in_transaction(vm_start, vm)
        assert self.full(fleet, template)

    def test_a_vm_that_is_being_destroyed_keeps_it_until_it_is_off(
        self, fleet: Fleet, template: Template, pool: StoragePool
    ) -> None:
        vm = deployed(fleet, template, memory_bytes=8 * GIB)
        operation = in_transaction(vm_destroy, vm, expunge=False)
        assert self.full(fleet, template)
        fleet.works(operation)
        assert not self.full(fleet, template)

    def test_the_setting_stretches_it(self, fleet: Fleet, template: Template, pool: StoragePool) -> None:
        setting("host.memory.overcommit", 1.5)
        deploy(fleet, template, memory_bytes=12 * GIB)
        assert self.full(fleet, template)

    @pytest.mark.parametrize("state", ["disconnected", "maintenance", "down"])
    def test_a_host_that_is_not_up_has_none(
        self, fleet: Fleet, template: Template, host: Agent, pool: StoragePool, state: str
    ) -> None:
        Agent.objects.filter(pk=host.pk).update(state=state)
        with pytest.raises(NoRoom, match="no host is up"):
            deploy(fleet, template)


class TestStorage:
    """A pool of 10 GiB; a VM's root disk takes 1 GiB, the template 100 MiB."""

    @pytest.fixture
    def pool(self, fleet: Fleet, host: Agent) -> StoragePool:
        return fleet.pool("shared", host, capacity_bytes=10 * GIB)

    def room_for(self, fleet: Fleet, template: Template, size_bytes: int) -> bool:
        """Whether it fits; nothing is left of the attempt."""
        with transaction.atomic():
            try:
                deploy(fleet, template, root_size_bytes=size_bytes, memory_bytes=GIB // 64)
            except NoRoom:
                return False
            else:
                transaction.set_rollback(True)
        return True

    def rest(self, fleet: Fleet, template: Template, expected: int) -> None:
        """Exactly so much is left for a disk."""
        assert self.room_for(fleet, template, expected)
        assert not self.room_for(fleet, template, expected + 1)

    def test_a_template_is_counted_once_absent_coming_or_there(
        self, fleet: Fleet, template: Template, pool: StoragePool
    ) -> None:
        left = 10 * GIB - TEMPLATE_BYTES
        self.rest(fleet, template, left)
        operation = in_transaction(template_prepare, template, pool)
        self.rest(fleet, template, left)
        fleet.works(operation)
        self.rest(fleet, template, left)

    def test_one_that_is_coming_takes_room_from_others(
        self, fleet: Fleet, template: Template, pool: StoragePool
    ) -> None:
        in_transaction(template_prepare, template, pool)
        self.rest(fleet, fleet.template("other"), 10 * GIB - 2 * TEMPLATE_BYTES)

    def test_one_that_did_not_come_gives_it_back(self, fleet: Fleet, template: Template, pool: StoragePool) -> None:
        operation = in_transaction(template_prepare, template, pool)
        fleet.fails(fleet.the_open(operation), elsewhere=False)
        self.rest(fleet, fleet.template("other"), 10 * GIB - TEMPLATE_BYTES)

    def test_disks_take_it_until_they_are_certainly_removed(
        self, fleet: Fleet, template: Template, pool: StoragePool
    ) -> None:
        fleet.on_pool(template, pool)
        left = 10 * GIB - TEMPLATE_BYTES
        vm, operation = deploy(fleet, template, root_size_bytes=4 * GIB, data_disk_sizes=[2 * GIB])
        self.rest(fleet, template, left - 6 * GIB)
        fleet.works(operation, until="volume.create")
        first, second = fleet.open(operation)
        fleet.fails(first, elsewhere=False)
        fleet.says(second, "COMPLETED")
        for command in fleet.open(operation):
            self.rest(fleet, template, left - 6 * GIB)
            fleet.says(command, "COMPLETED")
        assert shown(vm)[0] == "error"
        self.rest(fleet, template, left)

    def test_what_is_really_free_bounds_it_too(
        self, fleet: Fleet, template: Template, host: Agent, pool: StoragePool
    ) -> None:
        seen = fleet.room(pool, 10 * GIB).model_copy(update={"available_bytes": 3 * GIB})
        fleet.pings(host, pools=[seen])
        self.rest(fleet, template, 3 * GIB - TEMPLATE_BYTES)

    def test_the_setting_stretches_it(self, fleet: Fleet, template: Template, host: Agent, pool: StoragePool) -> None:
        setting("storage.overcommit", 0.5)
        self.rest(fleet, template, 5 * GIB - TEMPLATE_BYTES)

    def test_a_template_of_unknown_size_does_not_add_room(
        self, fleet: Fleet, template: Template, pool: StoragePool
    ) -> None:
        Template.objects.filter(pk=template.pk).update(size_bytes=-1)
        template.refresh_from_db()
        in_transaction(template_prepare, template, pool)
        self.rest(fleet, template, 10 * GIB)


class TestChoice:
    def test_the_roomiest_pool_of_the_roomiest_host(self, fleet: Fleet, template: Template, host: Agent) -> None:
        big = fleet.host("big", memory_bytes=64 * GIB)
        fleet.pool("small", big, host, capacity_bytes=20 * GIB)
        roomy = fleet.pool("roomy", big, capacity_bytes=50 * GIB)
        fleet.pool("roomier but elsewhere", host, local=True, capacity_bytes=90 * GIB)
        vm, _ = deploy(fleet, template)
        assert (shown(vm)[2], Volume.objects.get(vm=vm).pool) == ("big", roomy)

    def test_host_and_pool_as_asked(self, fleet: Fleet, template: Template, host: Agent) -> None:
        fleet.pool("big", fleet.host("big", memory_bytes=64 * GIB))
        local = fleet.pool("local", host, local=True)
        for asked in ({"host": host.host}, {"pool": local}, {"host": host.host, "pool": local}):
            vm, _ = deploy(fleet, template, **asked)
            assert (shown(vm)[2], Volume.objects.get(vm=vm).pool) == ("host1", local)

    def test_queries_do_not_grow_with_the_fleet(
        self, fleet: Fleet, template: Template, pool: StoragePool, django_assert_max_num_queries: Any
    ) -> None:
        fleet.on_pool(template, pool)
        vm = deployed(fleet, template, start=False)
        for number in range(5):
            fleet.pool(f"pool{number}", fleet.host(f"more{number}"))
        with django_assert_max_num_queries(6):
            find_host(vm)
        with django_assert_max_num_queries(72):
            deploy(fleet, template)


# --- many at once --------------------------------------------------------------------------------------------------


@pytest.fixture
def ten_fit(transactional_db: None, fleet: Fleet) -> tuple[Template, StoragePool]:
    """Room for ten VMs of a gigabyte of memory, on a pool of plenty."""
    host = fleet.host("host1", memory_bytes=10 * GIB)
    return fleet.template(), fleet.pool("shared", host, capacity_bytes=1000 * GIB)


def wanted(fleet: Fleet, template: Template) -> Deployment:
    account = Account.objects.get(pk=fleet.account.pk)
    return Deployment("vm", account, template, fleet.zone, cpus=1, memory_bytes=GIB)


def test_of_fifty_at_once_exactly_ten_are_accepted(fleet: Fleet, ten_fit: tuple[Template, StoragePool]) -> None:
    template, pool = ten_fit
    outcomes = at_once(*[partial(vm_deploy, wanted(fleet, template))] * 50)
    refusals = [outcome for outcome in outcomes if isinstance(outcome, NoRoom)]
    assert len(refusals) == 40
    assert {refusal.status for refusal in refusals} == {409}
    assert VM.objects.count() == Operation.objects.filter(kind="vm.deploy").count() == 10
    assert Volume.objects.count() == 10
    assert Operation.objects.filter(kind="template.download").count() == 1
    assert Command.objects.filter(kind="template.download").count() == 1
    assert Waiter.objects.filter(awaited=download_of(template, pool)).count() == 10


def test_reports_cancels_and_deployments_never_wait_for_each_other_in_a_circle(
    fleet: Fleet, ten_fit: tuple[Template, StoragePool]
) -> None:
    """The end of a download, deployments that join it, and one that leaves it, all at the same moment."""
    template, pool = ten_fit
    for _ in range(2):
        Placement.objects.filter(pool=pool).update(state="absent")
        _, leaving = vm_deploy(wanted(fleet, template))
        command = fleet.the_open(download_of(template, pool))
        outcomes = at_once(
            partial(fleet.says, command, "COMPLETED"),
            partial(cancel, leaving.pk),
            *[partial(vm_deploy, wanted(fleet, template))] * 3,
        )
        joined = [outcome[1] for outcome in outcomes if isinstance(outcome, tuple)]
        assert [outcome for outcome in outcomes if isinstance(outcome, NoRoom)] == []
        assert state_of(command.operation) == "succeeded"
        for operation in joined:
            assert fleet.works(operation).state == "succeeded"
            fleet.works(in_transaction(vm_destroy, VM.objects.get(pk=operation.target_id), expunge=True))
        assert fleet.works(leaving).state == "cancelled"
        assert nothing_held()
