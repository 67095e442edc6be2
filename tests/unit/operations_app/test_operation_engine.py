"""How operations go on: forward, back, elsewhere, waiting, and in spite of everything."""

import pytest

from agents.protocol.states import CommandState
from core_app.errors import WrongState
from infra_app.models import Zone
from operations_app import actions, sweep
from operations_app.actions import cancel
from operations_app.models import Operation, Reservation, Waiter
from operations_app.rules import OperationState
from operations_app.workflow import advance
from tests.unit.operations_app.toys import (
    HostVoice,
    ago,
    begin,
    error_of,
    happened,
    open_commands,
    problem,
    progress,
    the_command,
)


def test_it_goes_forward_step_by_step_to_its_end(host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.deploy", zone, host, exclusive=[("zone", zone.pk)])
    assert (operation.state, operation.position) == ("pending", 0)
    for state in ("QUEUED", "STARTED", "PROCESSING"):
        host.says(the_command(operation), state)
    operation.refresh_from_db()
    assert operation.state == "running"
    assert operation.started_at is not None
    for _ in range(3):
        host.says(the_command(operation), "COMPLETED")
    operation.refresh_from_db()
    assert operation.state == "succeeded"
    assert operation.finished_at is not None
    kinds = operation.commands.order_by("created_at").values_list("kind", flat=True)
    assert list(kinds) == ["template.check", "template.download", "vm.start"]
    assert happened(operation, "toy.ended") == ["succeeded"]
    assert not Reservation.objects.exists()


def test_a_step_waits_for_all_of_its_commands(host: HostVoice, other: HostVoice, zone: Zone) -> None:
    operation = begin("toy.deploy", zone, host, other)
    host.says(the_command(operation), "COMPLETED")
    first, second = open_commands(operation)
    other.says(second, "COMPLETED")
    operation.refresh_from_db()
    assert (operation.position, happened(operation, "toy.fetched")) == (1, [])
    host.says(first, "COMPLETED")
    operation.refresh_from_db()
    assert operation.position == 2
    assert sorted(happened(operation, "toy.fetched")) == ["f0", "f1"]


def test_a_failure_is_undone_in_reverse_order_and_the_first_cause_stays(host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.deploy", zone, host)
    host.says(the_command(operation), "COMPLETED")
    host.says(the_command(operation), "COMPLETED")
    host.says(the_command(operation), "FAILED", problem=problem("no accelerator"))
    operation.refresh_from_db()
    assert operation.undoing
    assert the_command(operation).kind == "vm.stop"
    host.says(the_command(operation), "COMPLETED")
    assert the_command(operation).kind == "template.remove"
    host.says(the_command(operation), "FAILED", problem=problem("the pool is away"))
    operation.refresh_from_db()
    assert operation.state == "needs_attention"
    sweep.sweep()
    host.says(the_command(operation), "COMPLETED")
    operation.refresh_from_db()
    assert (operation.state, error_of(operation)["cause"]) == ("failed", "no accelerator")
    assert happened(operation, "toy.ended") == ["failed"]


def test_what_failed_on_one_host_is_tried_on_another_and_what_succeeded_is_kept(
    host: HostVoice, other: HostVoice, zone: Zone
) -> None:
    operation = begin("toy.shared", zone, host, host, spare=[str(other.agent.pk)])
    good, bad = open_commands(operation)
    host.says(good, "COMPLETED")
    host.says(bad, "FAILED")
    again = the_command(operation)
    assert (again.agent, again.label) == (other.agent, "f1")
    other.says(again, "COMPLETED")
    operation.refresh_from_db()
    assert (operation.state, operation.error) == ("succeeded", None)
    assert sorted(happened(operation, "toy.fetched")) == ["f0", "f1"]


def test_two_failures_of_which_one_has_no_other_host_are_not_forgotten(
    host: HostVoice, other: HostVoice, zone: Zone
) -> None:
    operation = begin("toy.shared", zone, host, host, spare=[str(other.agent.pk)])
    for command in open_commands(operation):
        host.says(command, "FAILED")
    operation.refresh_from_db()
    assert operation.undoing, "it would count as done with only one of two downloads"
    assert {command.kind for command in open_commands(operation)} == {"template.remove"}


def test_a_step_that_refuses_puts_the_earlier_ones_back(host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.deploy", zone, host, refuse=True)
    host.says(the_command(operation), "COMPLETED")
    host.says(the_command(operation), "COMPLETED")
    for kind in ("vm.stop", "template.remove"):
        assert the_command(operation).kind == kind
        host.says(the_command(operation), "COMPLETED")
    operation.refresh_from_db()
    assert (operation.state, error_of(operation)["code"]) == ("failed", "no_room")


def test_past_the_point_of_no_return_it_only_goes_forward(host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.destroy", zone, host, host)
    host.says(the_command(operation), "COMPLETED")
    good, bad = open_commands(operation)
    host.says(good, "COMPLETED")
    host.says(bad, "FAILED", problem=problem("the pool is away"))
    operation.refresh_from_db()
    assert (operation.state, error_of(operation)["cause"]) == ("needs_attention", "the pool is away")
    sweep.sweep()
    again = the_command(operation)
    assert again.label == bad.label, "what is done is not asked for again"
    operation.refresh_from_db()
    assert operation.state == "needs_attention", "until it is past the step"
    host.says(again, "COMPLETED")
    operation.refresh_from_db()
    assert (operation.state, operation.error) == ("succeeded", None)
    assert sorted(happened(operation, "toy.cleaned")) == ["f0", "f1"]
    assert len(happened(operation, "operation.needs_attention")) == 1


def test_a_person_need_not_wait_for_the_next_try(host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.destroy", zone, host)
    host.says(the_command(operation), "COMPLETED")
    bad = the_command(operation)
    host.says(bad, "FAILED", problem=problem("the pool is away"))
    actions.reconcile_now(bad.pk)
    again = the_command(operation)
    assert (again.label, again.state) == (bad.label, "SENT")
    with pytest.raises(WrongState):
        actions.reconcile_now(bad.pk)
    host.says(again, "COMPLETED")
    operation.refresh_from_db()
    assert operation.state == "succeeded"


def test_what_fails_again_and_again_is_sent_at_ever_longer_intervals(host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.destroy", zone, host)
    host.says(the_command(operation), "COMPLETED")
    for _ in range(2):
        host.says(the_command(operation), "FAILED")
        sweep.sweep()
    operation.refresh_from_db()
    assert operation.round == 3, "once at once, then not before an interval has passed"
    ago(the_command(operation), "finished_at", 61)
    sweep.sweep()
    operation.refresh_from_db()
    assert operation.round == 4


def test_advancing_what_has_nothing_to_do_changes_nothing(host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.deploy", zone, host)
    before = Operation.objects.filter(pk=operation.pk).values().get()
    for _ in range(3):
        advance(operation.pk)
    assert Operation.objects.filter(pk=operation.pk).values().get() == before
    assert operation.commands.count() == 1


def test_an_operation_without_an_open_command_is_taken_up_by_the_sweep(host: HostVoice, zone: Zone) -> None:
    """As if the process had died between the command's end and the next step."""
    operation = begin("toy.deploy", zone, host)
    operation.commands.update(state=CommandState.COMPLETED)
    sweep.sweep()
    assert the_command(operation).kind == "template.download"


def test_progress_is_of_the_round_and_begins_anew_with_the_next(host: HostVoice, other: HostVoice, zone: Zone) -> None:
    operation = begin("toy.shared", zone, host, other)
    first, second = open_commands(operation)
    host.says(first, "PROCESSING", progress=progress(5, 10))
    other.says(second, "PROCESSING", progress=progress(10, 30))
    operation.refresh_from_db()
    assert operation.progress == {"done_bytes": 15, "total_bytes": 40, "rate": 20, "message": ""}
    host.says(first, "FAILED")
    other.says(second, "COMPLETED")
    operation.refresh_from_db()
    assert (operation.undoing, operation.progress) == (True, {})


# --- waiting for shared work ---------------------------------------------------------------------------------------


def _joined(zone: Zone, host: HostVoice, kind: str = "toy.joining") -> tuple[Operation, Operation, Operation]:
    shared = begin("toy.shared", zone, host, for_waiters=True)
    waiters = [begin(kind, zone, host, awaited=str(shared.pk)) for _ in range(2)]
    return shared, waiters[0], waiters[1]


def test_all_who_wait_go_on_when_the_shared_work_succeeds(host: HostVoice, zone: Zone) -> None:
    shared, one, two = _joined(zone, host)
    assert one.state == "running"
    host.says(the_command(shared), "COMPLETED")
    assert {the_command(one).kind, the_command(two).kind} == {"vm.start"}
    assert not Waiter.objects.exists()


def test_all_who_wait_fail_with_its_reason_when_it_fails(host: HostVoice, zone: Zone) -> None:
    shared, one, two = _joined(zone, host)
    host.says(the_command(shared), "FAILED", problem=problem("404"))
    host.says(the_command(shared), "COMPLETED")
    for operation in (one, two):
        operation.refresh_from_db()
        assert (operation.state, error_of(operation)["cause"]) == ("failed", "404")
        assert happened(operation, "toy.left") == [""]


def test_all_who_wait_fail_with_a_reason_when_it_is_cancelled(host: HostVoice, zone: Zone) -> None:
    shared, one, _two = _joined(zone, host)
    cancel(shared.pk)
    host.says(the_command(shared), "CANCELLED")
    host.says(the_command(shared), "COMPLETED")
    one.refresh_from_db()
    assert (one.state, error_of(one)["code"]) == ("failed", "awaited_cancelled")


@pytest.mark.parametrize("kind", ["toy.joining", "toy.joining_last"])
def test_with_its_last_waiter_gone_the_shared_work_is_cancelled(host: HostVoice, zone: Zone, kind: str) -> None:
    shared, one, two = _joined(zone, host, kind)
    cancel(one.pk)
    one.refresh_from_db()
    assert (one.state, happened(one, "toy.left")) == ("cancelled", [""])
    shared.refresh_from_db()
    assert shared.cancel_requested_at is None
    cancel(two.pk)
    shared.refresh_from_db()
    assert shared.cancel_requested_at is not None
    host.says(the_command(shared), "CANCELLED")
    host.says(the_command(shared), "COMPLETED")
    shared.refresh_from_db()
    assert shared.state == OperationState.CANCELLED


def test_a_waiter_that_was_not_told_is_found_by_the_sweep(host: HostVoice, zone: Zone) -> None:
    shared, one, _two = _joined(zone, host)
    Operation.objects.filter(pk=shared.pk).update(state=OperationState.SUCCEEDED)
    sweep.sweep()
    assert the_command(one).kind == "vm.start"


def test_shared_work_that_lost_its_waiters_unseen_is_found_by_the_sweep(host: HostVoice, zone: Zone) -> None:
    shared, _one, _two = _joined(zone, host)
    Waiter.objects.all().delete()
    sweep.sweep()
    shared.refresh_from_db()
    assert shared.cancel_requested_at is not None
