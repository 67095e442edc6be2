"""Cancels at every place of an operation's life: back as it was, or told that it is too late."""

from collections.abc import Callable

import pytest

from core_app.errors import WrongState
from infra_app.models import Zone
from operations_app import dispatch, sweep
from operations_app.actions import cancel
from operations_app.models import Command, Operation
from operations_app.workflow import may_cancel
from tests.unit.operations_app.toys import HostVoice, begin, error_of, open_commands, problem, the_command


@pytest.fixture
def away(host: HostVoice) -> HostVoice:
    """A host to which nothing is sent."""
    type(host.agent).objects.filter(pk=host.agent.pk).update(state="disconnected")
    return host


def test_what_was_never_sent_is_cancelled_at_once(away: HostVoice, zone: Zone) -> None:
    operation = cancel(begin("toy.shared", zone, away).pk)
    first = operation.commands.get(kind="template.download")
    assert (first.state, first.sent_at) == ("CANCELLED", None)
    undo = the_command(operation)
    assert undo.kind == "template.remove", "its step is put back although it did nothing"
    assert away.hears() == []


def test_what_was_sent_is_cancelled_on_its_agents_word_only(host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.shared", zone, host)
    command = the_command(operation)
    cancel(operation.pk)
    command.refresh_from_db()
    assert (command.state, command.cancel_requested_at is not None) == ("SENT", True)
    (asked,) = host.hears("cancel")
    assert (asked["command_id"], asked["attempt"], asked["seq"]) == (str(command.pk), 1, command.seq)
    host.says(command, "CANCELLED")
    host.says(the_command(operation), "COMPLETED")
    operation.refresh_from_db()
    assert (operation.state, operation.error) == ("cancelled", None)


def test_a_command_that_ends_in_spite_of_the_cancel_is_undone(host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.deploy", zone, host)
    host.says(the_command(operation), "COMPLETED")
    cancel(operation.pk)
    host.says(the_command(operation), "COMPLETED")
    operation.refresh_from_db()
    assert operation.undoing
    assert the_command(operation).kind == "template.remove", "start was never begun, so there is no stop"
    host.says(the_command(operation), "COMPLETED")
    operation.refresh_from_db()
    assert operation.state == "cancelled"


def test_a_cancel_that_comes_too_late_for_the_last_step_lets_it_succeed(host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.shared", zone, host)
    cancel(operation.pk)
    host.says(the_command(operation), "COMPLETED")
    operation.refresh_from_db()
    assert operation.state == "succeeded"


def test_a_failure_after_the_cancel_ends_as_cancelled_and_nothing_else_is_tried(
    host: HostVoice, other: HostVoice, zone: Zone
) -> None:
    operation = begin("toy.shared", zone, host, spare=[str(other.agent.pk)])
    cancel(operation.pk)
    host.says(the_command(operation), "FAILED", problem=problem("404"))
    assert the_command(operation).kind == "template.remove"
    host.says(the_command(operation), "COMPLETED")
    operation.refresh_from_db()
    assert (operation.state, operation.error) == ("cancelled", None)


def test_a_cancel_while_it_is_tried_elsewhere_forgets_the_first_failure(
    host: HostVoice, other: HostVoice, zone: Zone
) -> None:
    operation = begin("toy.shared", zone, host, spare=[str(other.agent.pk)])
    host.says(the_command(operation), "FAILED")
    cancel(operation.pk)
    other.says(the_command(operation), "CANCELLED")
    host.says(the_command(operation), "COMPLETED")
    operation.refresh_from_db()
    assert (operation.state, operation.error) == ("cancelled", None)


def _ended(operation: Operation, host: HostVoice) -> None:
    host.says(the_command(operation), "COMPLETED")


def _cancelled(operation: Operation, _host: HostVoice) -> None:
    cancel(operation.pk)


def _failed(operation: Operation, host: HostVoice) -> None:
    host.says(the_command(operation), "FAILED")


@pytest.mark.parametrize(
    ("before", "why", "instead"),
    [
        (_ended, "already succeeded", "ask for the opposite"),
        (_cancelled, "already being put back", "Wait until it has ended"),
        (_failed, "already being put back", "Wait until it has ended"),
    ],
)
def test_a_second_opinion_is_refused_with_the_reason(
    host: HostVoice, zone: Zone, before: Callable[[Operation, HostVoice], None], why: str, instead: str
) -> None:
    operation = begin("toy.shared", zone, host)
    before(operation, host)
    with pytest.raises(WrongState) as refused:
        cancel(operation.pk)
    assert why in refused.value.cause
    assert instead in refused.value.remedy
    assert refused.value.operation == str(operation.pk)


def test_past_the_point_of_no_return_a_cancel_comes_too_late(host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.destroy", zone, host)
    assert may_cancel(operation)
    host.says(the_command(operation), "COMPLETED")
    operation.refresh_from_db()
    with pytest.raises(WrongState, match="too late"):
        cancel(operation.pk)
    host.says(the_command(operation), "FAILED")
    operation.refresh_from_db()
    assert operation.state == "needs_attention"
    Operation.objects.filter(pk=operation.pk).update(sent_position=-1)  # as between two tries
    with pytest.raises(WrongState, match="too late"):
        cancel(operation.pk)


def test_a_cancel_between_the_row_and_its_message_wins_or_is_sent_after_it(host: HostVoice, zone: Zone) -> None:
    """Publishing and cancelling meet on one row: exactly one of them moves it from CREATED."""
    operation = begin("toy.shared", zone, host)
    host.hears()
    Command.objects.filter(operation=operation).update(state="CREATED", sent_at=None)
    stale = the_command(operation)
    cancel(operation.pk)
    dispatch.publish([stale.pk])
    assert [message["kind"] for message in host.hears()] == ["template.remove"]
    stale.refresh_from_db()
    assert stale.state == "CANCELLED"


def test_what_is_to_be_cancelled_and_got_lost_is_sent_again_after_its_cancel(host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.shared", zone, host)
    cancel(operation.pk)
    host.hears()
    host.hears("cancel")
    Command.objects.update(sent_at="2020-01-01T00:00:00Z", cancel_requested_at="2020-01-01T00:00:00Z")
    host.pings()
    command = the_command(operation)
    assert [message["command_id"] for message in host.hears("cancel")] == [str(command.pk)]
    assert [message["command_id"] for message in host.hears()] == [str(command.pk)]


def test_a_cancel_is_asked_again_on_each_ping_until_it_is_answered(host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.shared", zone, host)
    command = the_command(operation)
    host.says(command, "STARTED")
    cancel(operation.pk)
    host.hears("cancel")
    Command.objects.update(cancel_requested_at="2020-01-01T00:00:00Z")
    for _ in range(2):
        host.pings(host.entry(command, "PROCESSING"))
        assert len(host.hears("cancel")) == 1
    host.says(command, "CANCELLED")
    host.pings()
    assert host.hears("cancel") == []


def test_a_command_whose_outcome_is_in_doubt_is_not_begun_anew_after_a_cancel(host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.shared", zone, host)
    command = the_command(operation)
    host.says(command, "STARTED")
    host.says(command, "INTERRUPTED")
    cancel(operation.pk)
    host.answers(command)
    assert (command.state, command.outcome, command.error) == ("RECONCILED", "undone", None)
    host.says(the_command(operation), "COMPLETED")
    operation.refresh_from_db()
    assert operation.state == "cancelled"


def test_all_commands_of_the_round_are_asked_to_stop(host: HostVoice, other: HostVoice, zone: Zone) -> None:
    operation = begin("toy.shared", zone, host, other)
    done, running = open_commands(operation)
    host.says(done, "COMPLETED")
    cancel(operation.pk)
    assert (len(host.hears("cancel")), len(other.hears("cancel"))) == (0, 1)
    other.says(running, "CANCELLED")
    assert {command.kind for command in open_commands(operation)} == {"template.remove"}


def test_what_waited_too_long_is_taken_back_and_says_why(away: HostVoice, zone: Zone) -> None:
    operation = begin("toy.shared", zone, away)
    sweep.sweep()
    command = the_command(operation)
    assert command.state == "CREATED"
    command.attempts.update(created_at="2020-01-01T00:00:00Z")
    sweep.sweep()
    assert operation.commands.get(pk=command.pk).state == "CANCELLED"
    assert error_of(operation)["code"] == "not_started_in_time"
    assert operation.undoing


def test_waiting_counts_from_the_attempt_not_from_the_command(away: HostVoice, zone: Zone) -> None:
    operation = begin("toy.shared", zone, away)
    Command.objects.update(created_at="2020-01-01T00:00:00Z")
    sweep.sweep()
    assert the_command(operation).state == "CREATED"
