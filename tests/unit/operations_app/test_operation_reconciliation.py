"""Commands in doubt: asked, judged, settled; and what becomes of answers that come late, twice or never."""

from collections.abc import Callable
from typing import Any

import pytest

from core_app import settings_rows
from core_app.errors import WrongState
from core_app.models import Event
from infra_app.models import Agent, Zone
from operations_app import sweep
from operations_app.actions import reconcile_now
from operations_app.models import Command, Operation
from tests.unit.operations_app.toys import (
    FINAL,
    FOREIGN,
    HostVoice,
    ago,
    begin,
    error_of,
    happened,
    problem,
    the_command,
)


@pytest.fixture
def operation(host: HostVoice, zone: Zone) -> Operation:
    return begin("toy.shared", zone, host)


@pytest.fixture
def doubtful(host: HostVoice, operation: Operation) -> Command:
    """A command that was interrupted and is asked about."""
    command = the_command(operation)
    host.says(command, "STARTED")
    host.says(command, "INTERRUPTED")
    assert command.state == "RECONCILING"
    return command


def _attempts(count: int) -> None:
    settings_rows.put("reconcile.commands.max.attempts", count)


def _unanswered(command: Command) -> None:
    """The grace passes without an answer."""
    ago(command, "probed_at", 3600)
    sweep.sweep()
    command.refresh_from_db()


# --- evidence and verdict ------------------------------------------------------------------------------------------


def test_an_interruption_is_asked_about_at_once(host: HostVoice, doubtful: Command) -> None:
    (asked,) = host.hears("probe")
    assert asked["probe_id"] == str(doubtful.probe_id)
    assert (asked["command_id"], asked["attempt"], asked["epoch"]) == (str(doubtful.pk), 1, host.epoch)
    assert asked["payload"] == doubtful.payload


def test_done_completes_it_with_the_answer_that_was_lost(
    host: HostVoice, doubtful: Command, operation: Operation
) -> None:
    host.answers(doubtful, evidence=FINAL)
    assert (doubtful.state, doubtful.outcome) == ("RECONCILED", "done")
    assert doubtful.answer is not None
    assert doubtful.answer["path"] == FINAL["final"]["path"]
    assert doubtful.evidence is not None
    assert (doubtful.evidence["verdict"], doubtful.evidence["evidence"]["final"]) == ("done", FINAL["final"])
    operation.refresh_from_db()
    assert (operation.state, happened(operation, "toy.fetched")) == ("succeeded", ["f0"])


def test_undone_fails_it_with_the_reason(host: HostVoice, doubtful: Command, operation: Operation) -> None:
    host.answers(doubtful, evidence=FOREIGN)
    assert (doubtful.state, doubtful.outcome) == ("RECONCILED", "undone")
    assert error_of(operation)["code"] == "interrupted"
    host.says(the_command(operation), "COMPLETED")
    operation.refresh_from_db()
    assert operation.state == "failed"


def test_a_redo_is_sent_at_once_as_the_next_attempt_and_bounded(
    host: HostVoice, doubtful: Command, operation: Operation
) -> None:
    settings_rows.put("command.redo.max", 2)
    host.hears()
    for attempt in (2, 3):
        host.answers(doubtful)
        assert [message["attempt"] for message in host.hears()] == [attempt]
        host.says(doubtful, "STARTED")
        host.says(doubtful, "INTERRUPTED")
    host.answers(doubtful)
    assert (doubtful.state, doubtful.outcome, doubtful.attempt) == ("RECONCILED", "undone", 3)
    assert "all 3 attempts were interrupted" in error_of(doubtful)["cause"]
    ended = doubtful.attempts.order_by("number").values_list("number", "ended")
    assert list(ended) == [(1, "INTERRUPTED"), (2, "INTERRUPTED"), (3, "")]


def test_what_runs_is_followed_with_a_new_deadline(host: HostVoice, doubtful: Command) -> None:
    before = doubtful.deadline_at
    host.answers(doubtful, "running")
    assert (doubtful.state, doubtful.reconcile_attempts) == ("PROCESSING", 0)
    assert doubtful.deadline_at is not None
    assert before is not None
    assert doubtful.deadline_at > before
    host.says(doubtful, "COMPLETED")
    assert doubtful.state == "COMPLETED"


def test_the_journals_final_answer_goes_before_evidence(
    host: HostVoice, doubtful: Command, operation: Operation
) -> None:
    entry = host.entry(doubtful, "FAILED", problem=problem("404"))
    host.answers(doubtful, evidence=FINAL, entry=entry)
    assert (doubtful.state, error_of(operation)["cause"]) == ("FAILED", "404")


def test_a_final_report_that_comes_while_it_is_asked_about_settles_it(host: HostVoice, doubtful: Command) -> None:
    host.says(doubtful, "COMPLETED")
    host.answers(doubtful, evidence=FOREIGN)
    assert (doubtful.state, doubtful.outcome) == ("COMPLETED", "")


# --- answers late, twice, wrong ------------------------------------------------------------------------------------


def test_evidence_that_comes_twice_counts_once(host: HostVoice, doubtful: Command) -> None:
    asked = str(doubtful.probe_id)
    host.answers(doubtful)
    host.answers(doubtful, probe_id=asked, attempt=1)
    assert (doubtful.state, doubtful.attempt) == ("SENT", 2)


@pytest.mark.parametrize(
    "wrong", [{"probe_id": "0e5c1d86-2c1a-4be1-9f0a-9f6b9c0d0a11"}, {"epoch": 7}, {"attempt": 2}, {"agent_id": "other"}]
)
def test_the_answer_to_another_question_counts_nothing(
    host: HostVoice, other: HostVoice, doubtful: Command, wrong: dict[str, Any]
) -> None:
    if "agent_id" in wrong:
        wrong = {"agent_id": str(other.agent.pk)}
    host.answers(doubtful, evidence=FINAL, **wrong)
    assert doubtful.state == "RECONCILING"


def test_an_answer_that_takes_longer_than_the_grace_counts(host: HostVoice, doubtful: Command) -> None:
    """Else a slow host would be asked for ever and never heard."""
    question = doubtful.probe_id
    for _ in range(3):
        _unanswered(doubtful)
    assert doubtful.probe_id == question, "the question is repeated, not replaced"
    host.answers(doubtful, evidence=FINAL)
    assert (doubtful.state, doubtful.outcome) == ("RECONCILED", "done")


@pytest.mark.parametrize("state", ["RECONCILE_RETRY", "RECONCILE_FAILED"])
@pytest.mark.parametrize(
    ("changes", "becomes"),
    [
        ({"evidence": FINAL}, "RECONCILED"),
        ({"evidence": FOREIGN}, "RECONCILED"),
        ({}, "SENT"),
        ({"status": "running"}, "PROCESSING"),
    ],
)
def test_late_evidence_settles_whatever_was_given_up(
    host: HostVoice, doubtful: Command, state: str, changes: dict[str, Any], becomes: str
) -> None:
    Command.objects.update(state=state)
    host.answers(doubtful, **changes)
    assert doubtful.state == becomes


def test_evidence_that_cannot_be_read_is_no_verdict(host: HostVoice, doubtful: Command) -> None:
    host.answers(doubtful, evidence={"final": "what?"})
    assert doubtful.state == "RECONCILE_RETRY"
    assert doubtful.evidence is not None
    assert "cannot be read" in doubtful.evidence["reason"]


# --- asking too often ----------------------------------------------------------------------------------------------


def _cannot_tell(host: HostVoice, command: Command) -> None:
    host.answers(command, "cannot_tell", reason="libvirt is away")


def _no_answer(_host: HostVoice, command: Command) -> None:
    ago(command, "probed_at", 3600)


@pytest.mark.parametrize("reply", [_cannot_tell, _no_answer])
def test_asked_too_often_it_needs_a_person_and_still_settles_itself(
    host: HostVoice, doubtful: Command, operation: Operation, reply: Callable[[HostVoice, Command], None]
) -> None:
    _attempts(3)
    for _ in range(12):
        reply(host, doubtful)
        sweep.sweep()
        doubtful.refresh_from_db()
    operation.refresh_from_db()
    assert (doubtful.state, doubtful.reconcile_attempts) == ("RECONCILE_FAILED", 3)
    assert operation.state == "needs_attention"
    assert Event.objects.filter(kind="command.reconcile_failed").count() == 1, "not an alarm a minute"
    assert len(happened(operation, "operation.needs_attention")) == 1
    host.answers(doubtful, evidence=FINAL)
    operation.refresh_from_db()
    assert operation.state == "succeeded"


def test_a_host_that_cannot_be_asked_costs_no_attempt(host: HostVoice, doubtful: Command) -> None:
    Agent.objects.update(state="disconnected")
    for _ in range(5):
        _unanswered(doubtful)
    assert (doubtful.state, doubtful.reconcile_attempts) == ("RECONCILE_RETRY", 0)
    host.hears("probe")
    host.hello(host.entry(doubtful, "INTERRUPTED"))
    assert len(host.hears("probe")) == 1


def test_a_dead_hosts_commands_do_not_take_the_places_of_others(host: HostVoice, other: HostVoice, zone: Zone) -> None:
    settings_rows.put("reconcile.commands.workers", 2)
    commands = [the_command(begin("toy.shared", zone, voice)) for voice in (host, host, host, other)]
    Command.objects.update(state="INTERRUPTED", probed_at="2020-01-01T00:00:00Z")
    Command.objects.filter(pk=commands[-1].pk).update(probed_at=None)
    Agent.objects.filter(pk=host.agent.pk).update(state="disconnected")
    sweep.sweep()
    assert [message["command_id"] for message in other.hears("probe")] == [str(commands[-1].pk)]


def test_every_command_in_doubt_gets_its_turn(host: HostVoice, zone: Zone) -> None:
    settings_rows.put("reconcile.commands.workers", 2)
    commands = [the_command(begin("toy.shared", zone, host)) for _ in range(5)]
    Command.objects.update(state="RECONCILE_FAILED")
    asked = []
    for _ in range(3):
        sweep.sweep()
        asked += [message["command_id"] for message in host.hears("probe")]
    assert set(asked) == {str(command.pk) for command in commands}


def test_reconciliation_can_be_switched_off(host: HostVoice, zone: Zone) -> None:
    settings_rows.put("reconcile.commands.enabled", False)
    command = the_command(begin("toy.shared", zone, host))
    Command.objects.update(state="INTERRUPTED")
    sweep.sweep()
    command.refresh_from_db()
    assert (command.state, host.hears("probe")) == ("INTERRUPTED", [])


# --- deadlines -----------------------------------------------------------------------------------------------------


def test_past_its_deadline_it_is_in_doubt_and_gets_another_if_it_runs(host: HostVoice, operation: Operation) -> None:
    command = the_command(operation)
    host.says(command, "STARTED")
    ago(command, "deadline_at", 1)
    sweep.sweep()
    command.refresh_from_db()
    assert command.state == "RECONCILING"
    assert Event.objects.filter(kind="command.timed_out").count() == 1
    host.answers(command, "running")
    sweep.sweep()
    command.refresh_from_db()
    assert command.state == "PROCESSING"


def test_before_its_deadline_nothing_is_judged(host: HostVoice, operation: Operation) -> None:
    command = the_command(operation)
    host.says(command, "STARTED")
    sweep.sweep()
    command.refresh_from_db()
    assert command.state == "STARTED"


# --- a person asks -------------------------------------------------------------------------------------------------


def test_a_person_may_have_it_asked_at_once(host: HostVoice, doubtful: Command) -> None:
    _unanswered(doubtful)
    Command.objects.update(state="RECONCILE_RETRY")
    host.hears("probe")
    assert reconcile_now(doubtful.pk).state == "RECONCILING"
    assert len(host.hears("probe")) == 1


def test_a_person_is_told_why_it_cannot_be_asked(host: HostVoice, doubtful: Command) -> None:
    Command.objects.update(state="RECONCILE_RETRY")
    Agent.objects.update(state="disconnected")
    with pytest.raises(WrongState, match="host1 is disconnected"):
        reconcile_now(doubtful.pk)
    host.hello(host.entry(doubtful, "INTERRUPTED"))
    host.answers(doubtful, evidence=FINAL)
    with pytest.raises(WrongState, match="nothing to reconcile"):
        reconcile_now(doubtful.pk)
