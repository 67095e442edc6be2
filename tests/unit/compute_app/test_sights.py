"""What hosts see of VMs: what is old says nothing, what an operation is about is its own matter, strangers alarm."""

from typing import Any

import pytest

from agents.protocol.messages import HostFacts, VmFact
from compute_app import sights
from compute_app.actions import vm_destroy, vm_start, vm_stop
from compute_app.models import VM
from core_app.models import Event
from infra_app.models import Agent, Host, StoragePool
from operations_app.actions import submit
from operations_app.models import Operation
from templates_app.models import Template
from tests.unit.compute_app.cloud import existing, shown
from tests.unit.templates_app.fleet import Fleet, alarms, in_transaction


@pytest.fixture
def vm(fleet: Fleet, template: Template, pool: StoragePool, host: Agent) -> VM:
    return existing(fleet, template, pool, host)


def fact(vm: VM, power_state: str = "running", **more: Any) -> VmFact:
    return VmFact.model_validate({"vm_id": str(vm.pk), "power_state": power_state, **more})


def ends(fleet: Fleet, operation: Any) -> None:
    fleet.works(operation)


class TestOnItsHost:
    def test_what_is_seen_is_shown(self, fleet: Fleet, host: Agent, vm: VM) -> None:
        fleet.pings(host, vms=[fact(vm, "paused", reason="I/O error", guest_agent="silent")])
        assert shown(vm) == ("running", "paused", "host1")
        assert (vm.power_reason, vm.guest_agent) == ("I/O error", "silent")
        fleet.pings(host, vms=[fact(vm, guest_agent="answering")])
        assert shown(vm) == ("running", "running", "host1")
        assert (vm.power_reason, vm.guest_agent) == ("", "answering")

    def test_one_that_is_paused_is_an_alarm_once_and_its_end_is_told(self, fleet: Fleet, host: Agent, vm: VM) -> None:
        for _ in range(2):
            fleet.pings(host, vms=[fact(vm, "paused", reason="I/O error")])
        assert alarms() == ["vm.paused"]
        assert "I/O error" in Event.objects.get(kind="vm.paused").message
        assert Event.objects.get(kind="vm.paused").account_id == vm.account_id
        fleet.pings(host, vms=[fact(vm)])
        assert Event.objects.filter(kind="vm.resumed", target_id=str(vm.pk)).count() == 1
        fleet.pings(host, vms=[fact(vm, "paused")])
        assert alarms() == ["vm.paused"] * 2

    def test_what_its_agent_says_of_its_addresses_is_shown_while_it_runs(
        self, fleet: Fleet, host: Agent, vm: VM
    ) -> None:
        fleet.pings(host, vms=[fact(vm, guest_agent="answering", addresses=["192.0.2.7"])])
        vm.refresh_from_db()
        assert vm.addresses == ["192.0.2.7"]
        fleet.works(in_transaction(vm_stop, vm, force=True))
        vm.refresh_from_db()
        assert vm.addresses == []

    @pytest.mark.parametrize("seen", ["listed as off", "not listed"])
    def test_one_that_went_off_is_stopped(self, fleet: Fleet, host: Agent, vm: VM, seen: str) -> None:
        facts = [fact(vm, "off", reason="shutdown by the guest")] if seen == "listed as off" else []
        fleet.pings(host, vms=facts)
        assert shown(vm) == ("stopped", "off", None)
        assert vm.power_reason == ("shutdown by the guest" if facts else "the domain is gone")
        event = Event.objects.get(kind="vm.went_off")
        assert (event.level, event.target_id) == ("warning", str(vm.pk))

    def test_it_can_be_started_again(self, fleet: Fleet, host: Agent, vm: VM) -> None:
        fleet.pings(host, vms=[])
        fleet.works(in_transaction(vm_start, vm))
        assert shown(vm) == ("running", "running", "host1")

    def test_a_look_that_could_not_be_made_says_nothing(self, fleet: Fleet, host: Agent, vm: VM) -> None:
        fleet.pings(host, vms=None, vms_reason="libvirtd is gone")
        assert shown(vm) == ("running", "running", "host1")

    def test_nothing_new_writes_nothing(
        self, fleet: Fleet, host: Agent, vm: VM, django_assert_max_num_queries: Any
    ) -> None:
        from agents.protocol.messages import Ping

        fleet.pings(host, vms=[fact(vm)])
        ping = Ping(
            agent_id=str(host.pk), epoch=1, number=1, entries=(), highest_seq=0, vms=(fact(vm),), facts_number=99
        )
        with django_assert_max_num_queries(1):
            sights.take_ping(host, ping)


class TestOldLooks:
    """A ping is made of a look that began some time ago; what was done since then it cannot have seen."""

    def test_one_from_before_the_start_does_not_stop_it(self, fleet: Fleet, host: Agent, vm: VM) -> None:
        fleet.works(in_transaction(vm_stop, vm, force=True))
        fleet.looks = 10
        fleet.works(in_transaction(vm_start, vm))
        fleet.pings(host, vms=[], facts_number=10)
        assert shown(vm)[0] == "running"
        fleet.pings(host, vms=[], facts_number=11)
        assert shown(vm)[0] == "stopped"

    @pytest.mark.parametrize("deed", ["stop", "destroy"])
    def test_one_from_before_the_end_is_no_stranger(self, fleet: Fleet, host: Agent, vm: VM, deed: str) -> None:
        fleet.looks = 10
        ends(
            fleet,
            in_transaction(vm_stop, vm, force=True) if deed == "stop" else in_transaction(vm_destroy, vm, expunge=True),
        )
        fleet.pings(host, vms=[fact(vm)], facts_number=10)
        assert alarms() == []
        fleet.pings(host, vms=[fact(vm)], facts_number=11)
        assert alarms() == ["vm.runs_unexpectedly"]

    def test_one_from_before_a_start_failed_is_no_stranger(self, fleet: Fleet, host: Agent, vm: VM) -> None:
        fleet.works(in_transaction(vm_stop, vm, force=True))
        operation = in_transaction(vm_start, vm)
        fleet.looks = 10
        fleet.fails(fleet.the_open(operation))
        fleet.pings(host, vms=[fact(vm)], facts_number=10)
        assert alarms() == []
        fleet.pings(host, vms=[fact(vm)], facts_number=11)
        assert alarms() == ["vm.runs_unexpectedly"]

    def test_an_overtaken_ping_from_before_it_went_off_is_no_stranger(self, fleet: Fleet, host: Agent, vm: VM) -> None:
        fleet.pings(host, vms=[], facts_number=12)
        fleet.pings(host, vms=[fact(vm)], facts_number=11)
        assert (shown(vm)[0], alarms()) == ("stopped", [])

    def test_numbers_begin_again_with_the_agents_next_life(self, fleet: Fleet, host: Agent, vm: VM) -> None:
        fleet.looks = 500
        fleet.works(in_transaction(vm_stop, vm, force=True))
        fleet.works(in_transaction(vm_start, vm))
        fleet.comes_up(host)
        fleet.looks = 0
        fleet.pings(host, vms=[], facts_number=1)
        assert shown(vm)[0] == "stopped"


class TestBusy:
    """A VM with an open exclusive operation is that operation's matter."""

    def test_no_sight_counts_while_it_is_open(self, fleet: Fleet, host: Agent, vm: VM) -> None:
        operation = in_transaction(vm_stop, vm, force=False)
        fleet.pings(host, vms=[])
        fleet.pings(host, vms=[fact(vm, "paused", guest_agent="silent")])
        assert shown(vm) == ("stopping", "running", "host1")
        assert (vm.guest_agent, alarms()) == ("unknown", [])
        fleet.works(operation)
        assert shown(vm)[0] == "stopped"

    def test_not_even_for_a_running_one(self, fleet: Fleet, host: Agent, vm: VM) -> None:
        operation = in_transaction(
            submit, "vm.stop", vm, exclusive=[("vm", vm.pk)], data={"host": str(host.pk), "force": 1}
        )
        assert shown(vm)[0] == "running"
        fleet.pings(host, vms=[])
        fleet.pings(host, vms=[fact(vm, "paused")])
        assert shown(vm) == ("running", "running", "host1")
        fleet.works(operation)
        assert shown(vm)[0] == "stopped"


class TestStrangers:
    def test_one_that_runs_on_another_host_too(self, fleet: Fleet, vm: VM) -> None:
        other = fleet.host("other")
        fleet.pings(other, vms=[fact(vm)])
        fleet.pings(other, vms=[fact(vm)])
        assert shown(vm) == ("running", "running", "host1")
        alarm = Event.objects.get(kind="vm.runs_unexpectedly")
        assert alarm.message == "other runs vm, which is running here; nothing was touched"

    def test_what_is_off_elsewhere_is_nothing(self, fleet: Fleet, vm: VM) -> None:
        fleet.pings(fleet.host("other"), vms=[fact(vm, "off")])
        assert (shown(vm), alarms()) == (("running", "running", "host1"), [])

    def test_one_that_should_be_off(self, fleet: Fleet, host: Agent, vm: VM) -> None:
        fleet.works(in_transaction(vm_stop, vm, force=True))
        fleet.pings(host, vms=[fact(vm)])
        assert (shown(vm), alarms()) == (("stopped", "off", None), ["vm.runs_unexpectedly"])

    def test_one_that_nobody_knows(self, fleet: Fleet, host: Agent) -> None:
        unknown = "11111111-1111-1111-1111-111111111111"
        fleet.pings(host, vms=[VmFact(vm_id=unknown, power_state="running")])
        fleet.pings(host, vms=[VmFact(vm_id=unknown, power_state="running")])
        alarm = Event.objects.get(level="alarm")
        assert (alarm.kind, alarm.target_id) == ("vm.unknown", str(host.pk))
        assert unknown in alarm.message


def test_a_host_that_rebooted_runs_nothing(fleet: Fleet, template: Template, host: Agent, pool: StoragePool) -> None:
    vms = [existing(fleet, template, pool, host) for _ in range(3)]
    fleet.comes_up(host)
    fleet.pings(host, vms=[])
    assert [shown(vm) for vm in vms] == [("stopped", "off", None)] * 3


class TestAfterABootOfItsHost:
    """A VM that its host took down with it is started again there, if it is to be."""

    @pytest.fixture
    def wanted(self, fleet: Fleet, host: Agent, vm: VM) -> VM:
        VM.objects.update(restart_after_boot=True)
        fleet.pings(host, vms=[fact(vm)])
        return vm

    def boots(self, fleet: Fleet, host: Agent) -> None:
        fleet.comes_up(host)
        fleet.pings(host, vms=[], facts_number=1)

    def test_it_is_started_again(self, fleet: Fleet, host: Agent, wanted: VM) -> None:
        self.boots(fleet, host)
        assert shown(wanted) == ("starting", "off", "host1")
        operation = Operation.objects.get(kind="vm.start")
        fleet.works(operation)
        assert shown(wanted) == ("running", "running", "host1")
        assert Event.objects.get(kind="vm.went_off").message == "host1 was booted anew"
        fleet.sweeps()
        assert Operation.objects.filter(kind="vm.start").count() == 1

    def test_one_that_is_not_to_be_stays_stopped(self, fleet: Fleet, host: Agent, wanted: VM) -> None:
        VM.objects.update(restart_after_boot=False)
        self.boots(fleet, host)
        fleet.sweeps()
        assert shown(wanted) == ("stopped", "off", None)

    def test_one_that_powered_off_by_itself_stays_off(self, fleet: Fleet, host: Agent, wanted: VM) -> None:
        fleet.pings(host, vms=[])
        self.boots(fleet, host)
        fleet.sweeps()
        assert shown(wanted) == ("stopped", "off", None)

    def test_an_agents_own_restart_is_no_boot(self, fleet: Fleet, host: Agent, wanted: VM) -> None:
        fleet.comes_up(host, boot_id=host.boot_id)
        fleet.pings(host, vms=[], facts_number=1)
        fleet.sweeps()
        assert shown(wanted) == ("stopped", "off", None)

    def test_one_that_was_started_and_never_seen_counts_too(self, fleet: Fleet, host: Agent, vm: VM) -> None:
        VM.objects.update(restart_after_boot=True)
        fleet.works(in_transaction(vm_stop, vm, force=True))
        fleet.works(in_transaction(vm_start, vm))
        self.boots(fleet, host)
        assert shown(vm)[0] == "starting"

    def test_where_it_has_no_room_any_more_it_is_an_alarm(self, fleet: Fleet, host: Agent, wanted: VM) -> None:
        fleet.host("other")
        Host.objects.filter(pk=host.pk).update(memory_bytes=1)
        fleet.comes_up(host, facts=HostFacts(cpus=1, memory_bytes=1))
        fleet.pings(host, vms=[], facts_number=1)
        assert (shown(wanted), alarms()) == (("stopped", "off", None), ["vm.not_restarted"])
        fleet.sweeps()
        assert alarms() == ["vm.not_restarted"]

    def test_a_restart_that_was_noted_and_not_begun_is_found(self, fleet: Fleet, host: Agent, wanted: VM) -> None:
        fleet.pings(host, vms=[])
        VM.objects.update(restart_due=True)
        fleet.sweeps()
        assert shown(wanted) == ("starting", "off", "host1")

    def test_nobody_restarts_what_was_destroyed_meanwhile(self, fleet: Fleet, host: Agent, wanted: VM) -> None:
        fleet.pings(host, vms=[])
        VM.objects.update(restart_due=True)
        in_transaction(vm_destroy, wanted, expunge=False)
        fleet.sweeps()
        assert shown(wanted)[0] == "destroyed"
