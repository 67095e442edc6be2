"""Start, stop, destroy and expunge: states, what is sent, and that each ends, whatever happens on the way."""

from typing import Any

import pytest
from django.utils import timezone

from compute_app.actions import (
    vm_console,
    vm_destroy,
    vm_expunge_overdue,
    vm_reboot,
    vm_recover,
    vm_resume,
    vm_start,
    vm_stop,
)
from compute_app.models import VM, Volume
from core_app.errors import Busy, NoRoom, WrongState
from infra_app.models import Agent, PoolReach, StoragePool
from operations_app.models import Operation
from operations_app.workflow import may_cancel
from templates_app.models import Template
from tests.unit.compute_app.cloud import deploy, deployed, existing, nothing_held, shown, volume_states
from tests.unit.templates_app.fleet import GIB, Fleet, alarms, error_of, in_transaction, setting, state_of


@pytest.fixture
def running(fleet: Fleet, template: Template, pool: StoragePool, host: Agent) -> VM:
    return existing(fleet, template, pool, host)


@pytest.fixture
def stopped(fleet: Fleet, template: Template, pool: StoragePool) -> VM:
    return existing(fleet, template, pool, None)


def start(vm: VM) -> Operation:
    return in_transaction(vm_start, vm)


def stop(vm: VM, *, force: bool = False) -> Operation:
    return in_transaction(vm_stop, vm, force=force)


def destroy(vm: VM, *, expunge: bool = False) -> Operation:
    return in_transaction(vm_destroy, vm, expunge=expunge)


class TestStart:
    def test_it_runs_where_there_is_room(self, fleet: Fleet, stopped: VM, pool: StoragePool) -> None:
        roomy = fleet.host("roomy", memory_bytes=64 * GIB)
        fleet.pings(roomy, pools=[fleet.room(pool)])
        operation = start(stopped)
        assert shown(stopped) == ("starting", "off", "roomy")
        command = fleet.the_open(operation)
        assert (command.kind, command.agent, len(command.payload["disks"])) == ("vm.start", roomy, 2)
        fleet.says(command, "COMPLETED")
        assert shown(stopped) == ("running", "running", "roomy")
        assert (state_of(operation), nothing_held()) == ("succeeded", True)

    def test_a_failed_one_says_why(self, fleet: Fleet, stopped: VM) -> None:
        operation = start(stopped)
        fleet.fails(fleet.the_open(operation), "no_memory")
        assert (shown(stopped), state_of(operation)) == (("stopped", "off", None), "failed")
        assert error_of(stopped)["code"] == "no_memory"
        assert volume_states(stopped) == ["ready"] * 2
        fleet.works(start(stopped))
        assert (shown(stopped)[0], error_of(stopped)) == ("running", {})

    def test_one_that_found_it_running_otherwise_leaves_it_alone(self, fleet: Fleet, stopped: VM) -> None:
        operation = start(stopped)
        fleet.fails(fleet.the_open(operation), "vm_runs_differently", elsewhere=False)
        assert (fleet.kinds(operation), shown(stopped)[0]) == (["vm.start"], "stopped")

    @pytest.mark.parametrize("in_doubt", [False, True])
    def test_a_cancelled_one_is_off(self, fleet: Fleet, stopped: VM, in_doubt: bool) -> None:
        operation = start(stopped)
        command = fleet.the_open(operation)
        fleet.cancels(operation)
        if in_doubt:
            fleet.says(command, "INTERRUPTED")
            fleet.answers(command, power_state="off")
            assert shown(stopped) == ("starting", "off", "host1")
            fleet.works(operation)
        else:
            fleet.says(command, "CANCELLED")
        assert (shown(stopped), error_of(stopped)) == (("stopped", "off", None), {})
        assert fleet.kinds(operation) == ["vm.start"] + ["vm.stop"] * in_doubt
        assert state_of(operation) == "cancelled"

    def test_only_a_host_that_reaches_all_its_pools(self, fleet: Fleet, stopped: VM, pool: StoragePool) -> None:
        fleet.host("blind", memory_bytes=64 * GIB)
        assert fleet.the_open(start(stopped)).agent.name == "host1"

    def test_without_a_host_it_stays_stopped_and_each_reason_is_named(
        self, fleet: Fleet, stopped: VM, host: Agent
    ) -> None:
        fleet.host("blind")
        PoolReach.objects.update(reachable=False)
        with pytest.raises(NoRoom, match="host host1: does not reach 1 of the VM's pools"):
            start(stopped)
        assert (shown(stopped), nothing_held()) == (("stopped", "off", None), True)


class TestStop:
    @pytest.mark.parametrize(("force", "mode"), [(True, "force"), (False, "graceful")])
    def test_it_is_off(self, fleet: Fleet, running: VM, force: bool, mode: str) -> None:
        operation = stop(running, force=force)
        assert shown(running) == ("stopping", "running", "host1")
        command = fleet.the_open(operation)
        assert (command.kind, command.payload["mode"]) == ("vm.stop", mode)
        fleet.says(command, "COMPLETED")
        assert shown(running) == ("stopped", "off", None)
        assert running.last_host is not None

    def test_a_guest_that_does_not_stop_runs_on(self, fleet: Fleet, running: VM) -> None:
        operation = stop(running)
        fleet.fails(fleet.the_open(operation), "guest_did_not_stop", elsewhere=False)
        assert shown(running) == ("running", "running", "host1")
        assert (error_of(running)["code"], state_of(operation)) == ("guest_did_not_stop", "failed")
        fleet.works(stop(running, force=True))
        assert (shown(running)[0], error_of(running)) == ("stopped", {})

    def test_a_cancelled_one_runs_on(self, fleet: Fleet, running: VM) -> None:
        operation = stop(running)
        command = fleet.the_open(operation)
        fleet.cancels(operation)
        fleet.says(command, "CANCELLED")
        assert (shown(running), state_of(operation)) == (("running", "running", "host1"), "cancelled")

    def test_its_memory_is_free_for_others_afterwards(self, fleet: Fleet, template: Template, running: VM) -> None:
        with pytest.raises(NoRoom):
            deploy(fleet, template, memory_bytes=8 * GIB)
        fleet.works(stop(running))
        deployed(fleet, template, memory_bytes=8 * GIB)


class TestDestroy:
    @pytest.mark.parametrize("expunge", [False, True])
    def test_a_running_one(self, fleet: Fleet, running: VM, expunge: bool) -> None:
        operation = destroy(running, expunge=expunge)
        assert shown(running) == ("destroying", "running", "host1")
        off = fleet.the_open(operation)
        assert (off.kind, off.payload["mode"]) == ("vm.stop", "force")
        fleet.works(operation)
        assert shown(running) == ("expunged" if expunge else "destroyed", "off", None)
        assert volume_states(running) == (["removed"] * 2 if expunge else ["ready"] * 2)
        assert (state_of(operation), nothing_held()) == ("succeeded", True)

    def test_a_stopped_one_at_once(self, fleet: Fleet, stopped: VM) -> None:
        """No agent has anything to do, so the operation ends where it begins."""
        operation = destroy(stopped)
        assert (state_of(operation), shown(stopped)[0]) == ("succeeded", "destroyed")

    def test_what_was_destroyed_can_be_expunged_but_not_destroyed_again(self, fleet: Fleet, stopped: VM) -> None:
        destroy(stopped)
        with pytest.raises(WrongState, match="is destroyed"):
            destroy(stopped)
        fleet.works(destroy(stopped, expunge=True))
        assert (shown(stopped)[0], volume_states(stopped)) == ("expunged", ["removed"] * 2)
        with pytest.raises(WrongState, match="is expunged"):
            destroy(stopped, expunge=True)

    def test_one_in_error(self, fleet: Fleet, template: Template, pool: StoragePool) -> None:
        vm, operation = deploy(fleet, template)
        fleet.cancels(operation)
        assert shown(vm)[0] == "error"
        fleet.works(destroy(vm, expunge=True))
        assert shown(vm)[0] == "expunged"

    def test_a_removal_that_fails_is_tried_until_it_is_done(self, fleet: Fleet, stopped: VM) -> None:
        operation = destroy(stopped, expunge=True)
        first, second = fleet.open(operation)
        fleet.says(first, "COMPLETED")
        fleet.fails(second, "image_in_use", elsewhere=False, cause="A process has it open.")
        assert (state_of(operation), shown(stopped)[0]) == ("needs_attention", "destroying")
        assert error_of(operation)["cause"] == "A process has it open."
        assert alarms() == ["operation.needs_attention"]
        fleet.sweeps()
        again = fleet.the_open(operation)
        assert (again.label, Volume.objects.get(pk=first.label).state) == (second.label, "removed")
        fleet.says(again, "COMPLETED")
        assert (shown(stopped)[0], volume_states(stopped)) == ("expunged", ["removed"] * 2)
        assert (state_of(operation), error_of(operation)) == ("succeeded", {})

    def test_half_removed_in_doubt_goes_forward(self, fleet: Fleet, stopped: VM) -> None:
        operation = destroy(stopped, expunge=True)
        first, second = fleet.open(operation)
        for command, left in ((first, []), (second, ["volume"])):
            fleet.says(command, "STARTED")
            fleet.says(command, "INTERRUPTED")
            fleet.answers(command, left=left)
        assert fleet.the_open(operation).attempt == 2
        fleet.works(operation)
        assert volume_states(stopped) == ["removed"] * 2

    def test_there_is_no_way_back(self, fleet: Fleet, running: VM) -> None:
        operation = destroy(running, expunge=True)
        assert not may_cancel(operation)
        with pytest.raises(WrongState, match="too late"):
            fleet.cancels(operation)
        fleet.fails(fleet.the_open(operation), "vm_not_stopped")
        assert state_of(operation) == "needs_attention"
        with pytest.raises(WrongState, match="too late"):
            fleet.cancels(operation)
        fleet.sweeps()
        fleet.works(operation)
        assert shown(running)[0] == "expunged"


class TestReboot:
    @pytest.mark.parametrize("force", [True, False])
    def test_it_runs_on_and_its_agent_is_heard_anew(self, fleet: Fleet, running: VM, force: bool) -> None:
        VM.objects.update(guest_agent="answering")
        operation = in_transaction(vm_reboot, running, force=force)
        assert shown(running) == ("running", "running", "host1")
        command = fleet.the_open(operation)
        assert (command.kind, command.payload["mode"]) == ("vm.reboot", "force" if force else "graceful")
        fleet.says(command, "COMPLETED")
        assert shown(running) == ("running", "running", "host1")
        assert (running.guest_agent, state_of(operation), operation.result) == (
            "unknown", "succeeded", {"forced": force},
        )  # fmt: skip
        assert nothing_held()

    def test_a_guest_that_does_not_reboot_runs_on(self, fleet: Fleet, running: VM) -> None:
        operation = in_transaction(vm_reboot, running, force=False)
        fleet.fails(fleet.the_open(operation), "guest_did_not_reboot", elsewhere=False)
        assert (shown(running)[0], state_of(operation), error_of(running)) == ("running", "failed", {})

    def test_nothing_else_happens_to_it_meanwhile(self, running: VM) -> None:
        operation = in_transaction(vm_reboot, running, force=True)
        with pytest.raises(Busy) as refusal:
            stop(running)
        assert refusal.value.operation == str(operation.pk)


@pytest.mark.parametrize(("seconds", "expected"), [(None, (60, False)), (5, (5, True))])
@pytest.mark.parametrize("deed", [vm_stop, vm_reboot])
def test_force_follows_only_where_it_was_asked_for(
    fleet: Fleet, running: VM, deed: Any, seconds: int | None, expected: tuple[int, bool]
) -> None:
    payload = fleet.the_open(in_transaction(deed, running, force=False, then_force_after=seconds)).payload
    assert (payload["mode"], payload["timeout_seconds"], payload["then_force"]) == ("graceful", *expected)


class TestResume:
    def test_a_paused_one_runs(self, fleet: Fleet, running: VM) -> None:
        VM.objects.update(power_state="paused", power_reason="I/O error")
        fleet.works(in_transaction(vm_resume, running))
        assert (shown(running), running.power_reason) == (("running", "running", "host1"), "")

    def test_one_whose_pool_is_still_full_stays_paused(self, fleet: Fleet, running: VM) -> None:
        VM.objects.update(power_state="paused", power_reason="I/O error")
        operation = in_transaction(vm_resume, running)
        fleet.fails(fleet.the_open(operation), "vm_paused_again", elsewhere=False)
        assert (shown(running), state_of(operation)) == (("running", "paused", "host1"), "failed")


class TestConsole:
    def test_it_is_read_where_the_vm_runs_whatever_else_is_done_to_it(self, fleet: Fleet, running: VM) -> None:
        stop(running)
        operation = in_transaction(vm_console, running, lines=5)
        command = fleet.the_open(operation)
        assert (command.kind, command.agent.name, command.payload["lines"]) == ("vm.console", "host1", 5)
        assert command.payload["console_name"] == f"vm-{running.pk}.log"
        fleet.says(command, "COMPLETED")
        operation.refresh_from_db()
        assert (operation.state, operation.result) == ("succeeded", {"text": "login: \n", "truncated": False})
        assert shown(running)[0] == "stopping"

    def test_of_a_stopped_one_where_it_ran_last(self, fleet: Fleet, stopped: VM) -> None:
        assert fleet.the_open(in_transaction(vm_console, stopped, lines=5)).agent.pk == stopped.last_host_id

    def test_where_nobody_can_read_it_it_is_refused(self, fleet: Fleet, stopped: VM, host: Agent) -> None:
        fleet.goes_away(host)
        with pytest.raises(WrongState, match="is not up"):
            in_transaction(vm_console, stopped, lines=5)
        VM.objects.update(last_host=None)
        stopped.refresh_from_db()
        with pytest.raises(WrongState, match="is not up"):
            in_transaction(vm_console, stopped, lines=5)


class TestRecoverAndExpunge:
    def test_a_recovered_one_is_stopped_with_all_its_volumes(self, fleet: Fleet, running: VM) -> None:
        fleet.works(destroy(running))
        assert running.destroyed_at is None
        running.refresh_from_db()
        assert running.destroyed_at is not None
        recovered = in_transaction(vm_recover, running)
        assert (recovered.state, recovered.destroyed_at) == ("stopped", None)
        assert volume_states(running) == ["ready"] * 2
        fleet.works(start(running))
        assert shown(running)[0] == "running"

    def test_one_without_a_root_disk_cannot_be_recovered(self, fleet: Fleet, stopped: VM) -> None:
        destroy(stopped)
        Volume.objects.filter(device_index=0).update(state="removed")
        with pytest.raises(WrongState, match="no root disk"):
            in_transaction(vm_recover, stopped)

    def test_it_is_expunged_by_itself_when_its_time_has_come(self, fleet: Fleet, stopped: VM) -> None:
        destroy(stopped)
        fleet.sweeps()
        assert shown(stopped)[0] == "destroyed"
        setting("expunge.delay", 0)
        fleet.sweeps()
        fleet.sweeps()
        operation = Operation.objects.get(kind="vm.destroy", state="pending")
        assert operation.requested_by is None
        fleet.works(operation)
        assert shown(stopped)[0] == "expunged"

    def test_never_where_deletions_are_suspended(self, fleet: Fleet, stopped: VM) -> None:
        destroy(stopped)
        setting("expunge.delay", 0)
        stopped.refresh_from_db()
        fleet.zone.deletions_suspended = True
        fleet.zone.save()
        fleet.sweeps()
        assert in_transaction(vm_expunge_overdue, stopped, timezone.now()) is None
        assert shown(stopped)[0] == "destroyed"

    def test_one_that_was_recovered_and_destroyed_again_waits_anew(self, fleet: Fleet, stopped: VM) -> None:
        destroy(stopped)
        stopped.refresh_from_db()
        limit = timezone.now()
        in_transaction(vm_recover, stopped)
        with pytest.raises(WrongState, match="is stopped"):
            in_transaction(vm_expunge_overdue, stopped, limit)
        destroy(stopped)
        assert in_transaction(vm_expunge_overdue, stopped, limit) is None
        assert (shown(stopped)[0], volume_states(stopped)) == ("destroyed", ["ready"] * 2)


class TestAHostThatIsGone:
    def test_a_running_vms_end_waits_for_it(self, fleet: Fleet, running: VM, host: Agent, pool: StoragePool) -> None:
        fleet.pings(fleet.host("other"), pools=[fleet.room(pool)])
        fleet.goes_away(host)
        operation = destroy(running, expunge=True)
        fleet.sweeps()
        waiting = fleet.the_open(operation)
        assert (waiting.kind, waiting.agent, waiting.state) == ("vm.stop", host, "CREATED")
        assert shown(running) == ("destroying", "running", "host1")
        fleet.comes_up(host)
        fleet.works(operation)
        assert shown(running)[0] == "expunged"

    def test_files_on_a_shared_pool_are_removed_by_another(
        self, fleet: Fleet, stopped: VM, host: Agent, pool: StoragePool
    ) -> None:
        other = fleet.host("other")
        fleet.pings(other, pools=[fleet.room(pool)])
        fleet.goes_away(host)
        operation = destroy(stopped, expunge=True)
        assert {command.agent for command in fleet.open(operation)} == {other}
        fleet.works(operation)
        assert shown(stopped)[0] == "expunged"

    def test_files_on_a_local_pool_wait_for_their_host(self, fleet: Fleet, template: Template, host: Agent) -> None:
        vm = existing(fleet, template, fleet.pool("local", host, local=True), None)
        fleet.host("other")
        fleet.goes_away(host)
        operation = destroy(vm, expunge=True)
        fleet.sweeps()
        assert {(command.agent, command.state) for command in fleet.open(operation)} == {(host, "CREATED")}
        assert shown(vm)[0] == "destroying"
        fleet.comes_up(host)
        fleet.works(operation)
        assert shown(vm)[0] == "expunged"

    def test_where_nobody_ever_reached_the_pool_it_needs_attention(
        self, fleet: Fleet, stopped: VM, host: Agent, pool: StoragePool
    ) -> None:
        VM.objects.update(last_host=None)
        PoolReach.objects.all().delete()
        operation = destroy(stopped, expunge=True)
        assert (state_of(operation), error_of(operation)["code"]) == ("needs_attention", "no_host_reaches_pool")
        assert shown(stopped)[0] == "destroying"
        fleet.pings(host, pools=[fleet.room(pool)])
        fleet.sweeps()
        fleet.works(operation)
        assert shown(stopped)[0] == "expunged"


STATES_AND_DEEDS: list[tuple[str, Any, set[str]]] = [
    ("start", start, {"stopped"}),
    ("stop", stop, {"running"}),
    ("reboot", lambda vm: in_transaction(vm_reboot, vm, force=True), {"running"}),
    ("resume", lambda vm: in_transaction(vm_resume, vm), {"running"}),
    ("recover", lambda vm: in_transaction(vm_recover, vm), {"destroyed"}),
    ("destroy", destroy, {"stopped", "running", "error"}),
    ("expunge", lambda vm: destroy(vm, expunge=True), {"stopped", "running", "error", "destroyed"}),
]


@pytest.mark.parametrize(("name", "deed", "allowed"), STATES_AND_DEEDS)
def test_each_deed_is_refused_in_every_other_state(stopped: VM, name: str, deed: Any, allowed: set[str]) -> None:
    for state in set(VM.State.values) - allowed:
        VM.objects.filter(pk=stopped.pk).update(state=state)
        with pytest.raises(WrongState, match=f"is {state}"):
            deed(stopped)
        assert shown(stopped)[0] == state
    assert nothing_held()


def test_a_refusal_names_the_operation_that_is_in_the_way(fleet: Fleet, running: VM) -> None:
    operation = stop(running)
    for deed in (start, stop, destroy):
        with pytest.raises(WrongState) as refusal:
            deed(running)
        assert refusal.value.operation == str(operation.pk)
