"""What agents say: in any order, twice, late, or never."""

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.protocol.messages import Acknowledge, JournalEntry
from core_app import settings_rows
from core_app.models import Event
from infra_app.models import Agent, Zone
from operations_app import registry, reports
from operations_app.models import Attempt, Command, Operation
from tests.unit.operations_app.toys import (
    FINAL,
    HostVoice,
    ago,
    begin,
    happened,
    problem,
    progress,
    the_command,
)


def _alarms(kind: str) -> int:
    return Event.objects.filter(kind=kind, level="alarm").count()


# --- duplicates and order ------------------------------------------------------------------------------------------


@settings(
    max_examples=8,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**32 - 1), ending=st.sampled_from(["COMPLETED", "FAILED", "CANCELLED"]))
def test_every_word_three_times_in_any_order_ends_the_same_with_one_effect(
    host: HostVoice, zone: Zone, seed: int, ending: str
) -> None:
    operation = begin("toy.shared", zone, host)
    command = the_command(operation)
    said = ["QUEUED", "STARTED", "PROCESSING", ending]
    words = [host.entry(command, state) for state in said] * 3
    chance = random.Random(seed)
    chance.shuffle(words)
    for word in words:
        chance.choice([host.reports, host.pings])(word)
    command.refresh_from_db()
    assert command.state == ending
    assert len(happened(operation, "toy.fetched")) == (ending == "COMPLETED")
    operation.refresh_from_db()
    if ending == "COMPLETED":
        assert (operation.state, operation.commands.count()) == ("succeeded", 1)
    else:
        assert (operation.undoing, operation.commands.count()) == (True, 2)
    assert _alarms("command.disagrees") == 0


@settings(max_examples=6, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_words_of_two_attempts_and_their_evidence_mixed_end_the_same(host: HostVoice, zone: Zone, seed: int) -> None:
    operation = begin("toy.shared", zone, host)
    command = the_command(operation)
    host.says(command, "STARTED")
    host.says(command, "INTERRUPTED")
    asked = str(command.probe_id)
    host.answers(command)
    assert (command.state, command.attempt) == ("SENT", 2)
    first = [host.entry(command, state, attempt=1) for state in ("QUEUED", "STARTED", "INTERRUPTED")]
    second = [host.entry(command, state) for state in ("QUEUED", "STARTED", "PROCESSING", "COMPLETED")]
    words: list[JournalEntry | None] = [*first, *second, None] * 3
    random.Random(seed).shuffle(words)
    for word in words:
        if word is None:
            host.answers(command, probe_id=asked, attempt=1)
        else:
            host.reports(word)
    command.refresh_from_db()
    assert (command.state, command.attempt, command.attempts.count()) == ("COMPLETED", 2, 2)
    assert happened(operation, "toy.fetched") == ["f0"]


def test_a_final_word_that_disagrees_is_an_alarm_and_changes_nothing(host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.shared", zone, host)
    command = the_command(operation)
    host.says(command, "COMPLETED")
    for _ in range(3):
        host.says(command, "FAILED")
    assert (command.state, _alarms("command.disagrees")) == ("COMPLETED", 1)


def test_another_hosts_word_counts_nothing(host: HostVoice, other: HostVoice, zone: Zone) -> None:
    command = the_command(begin("toy.shared", zone, host))
    other.says(command, "COMPLETED")
    assert command.state == "SENT"


def test_one_entry_that_cannot_be_applied_stops_no_other_and_is_an_alarm(host: HostVoice, zone: Zone) -> None:
    bad, good = begin("toy.shared", zone, host), begin("toy.shared", zone, host)
    Operation.objects.filter(pk=bad.pk).update(kind="of another version")
    host.pings(host.entry(the_command(bad), "COMPLETED"), host.entry(the_command(good), "COMPLETED"))
    good.refresh_from_db()
    assert (good.state, the_command(bad).state) == ("succeeded", "SENT")
    assert _alarms("command.report_failed") == 1
    Operation.objects.filter(pk=bad.pk).update(kind="toy.shared")
    host.pings(host.entry(the_command(bad), "COMPLETED"))
    bad.refresh_from_db()
    assert bad.state == "succeeded", "the journal keeps it until it is acknowledged"


def test_progress_is_kept_and_unchanged_progress_writes_nothing(host: HostVoice, zone: Zone) -> None:
    command = the_command(begin("toy.shared", zone, host))
    entry = host.entry(command, "PROCESSING", progress=progress(5, 10))
    host.reports(entry)
    command.refresh_from_db()
    seen = command.seen_at
    host.reports(entry)
    command.refresh_from_db()
    assert (command.progress["done_bytes"], command.seen_at) == (5, seen)


def test_a_deadline_runs_from_the_start_of_the_work_not_from_its_sending(host: HostVoice, zone: Zone) -> None:
    settings_rows.put("command.deadline.template.download", 50)
    command = the_command(begin("toy.shared", zone, host))
    host.says(command, "QUEUED")
    assert command.deadline_at is None
    host.says(command, "STARTED")
    assert command.started_at is not None
    assert command.deadline_at == command.started_at + timedelta(seconds=50)
    before = command.deadline_at
    host.says(command, "PROCESSING")
    assert command.deadline_at == before


# --- acknowledgements and the floor --------------------------------------------------------------------------------


def _acknowledged(host: HostVoice) -> Acknowledge:
    return Acknowledge.model_validate(host.hears("acknowledge")[-1])


def test_only_what_is_final_here_is_acknowledged(host: HostVoice, zone: Zone) -> None:
    done, running = the_command(begin("toy.shared", zone, host)), the_command(begin("toy.shared", zone, host))
    unknown = host.entry(done, "COMPLETED", command_id="0e5c1d86-2c1a-4be1-9f0a-9f6b9c0d0a11")
    host.reports(host.entry(done, "COMPLETED"), host.entry(running, "PROCESSING"), unknown)
    assert _acknowledged(host).command_ids == (str(done.pk),)


def test_the_floor_is_below_the_lowest_open_command(host: HostVoice, zone: Zone) -> None:
    commands = [the_command(begin("toy.shared", zone, host)) for _ in range(4)]
    assert [command.seq for command in commands] == [1, 2, 3, 4]
    floors = []
    for index in (1, 0, 3, 2):
        host.says(commands[index], "COMPLETED")
        floors.append(_acknowledged(host).floor)
    assert floors == [0, 2, 2, 4]
    host.agent.refresh_from_db()
    assert host.agent.floor == 4


def test_the_floor_never_falls_and_covers_nothing_that_is_issued_later(host: HostVoice, zone: Zone) -> None:
    host.says(the_command(begin("toy.shared", zone, host)), "COMPLETED")
    command = the_command(begin("toy.shared", zone, host))
    host.pings()
    assert (_acknowledged(host).floor, command.seq) == (1, 2)
    Agent.objects.update(floor=9)
    host.pings()
    assert _acknowledged(host).floor == 9


# --- what got lost -------------------------------------------------------------------------------------------------


def test_a_lost_message_is_found_by_a_later_ping_and_sent_again(host: HostVoice, zone: Zone) -> None:
    command = the_command(begin("toy.shared", zone, host))
    assert len(host.hears()) == 1
    host.pings()
    assert host.hears() == [], "a ping on its way when it was sent says nothing"
    ago(command, "sent_at", 3600)
    host.pings()
    (again,) = host.hears()
    assert (again["command_id"], again["attempt"], again["epoch"]) == (str(command.pk), 1, host.epoch)
    assert Attempt.objects.get(command=command).times_sent == 2


def test_a_lost_message_of_a_second_attempt_is_found_although_the_journal_has_the_first(
    host: HostVoice, zone: Zone
) -> None:
    command = the_command(begin("toy.shared", zone, host))
    host.says(command, "STARTED")
    host.says(command, "INTERRUPTED")
    host.answers(command)
    assert (command.state, command.attempt) == ("SENT", 2)
    host.hears()
    first = host.entry(command, "INTERRUPTED", attempt=1)
    ago(command, "sent_at", 3600)
    host.pings(first)
    assert [message["attempt"] for message in host.hears()] == [2]
    host.hello(first)
    assert [message["attempt"] for message in host.hears()] == [2]


def test_what_an_agent_never_takes_is_asked_about_in_the_end(host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.shared", zone, host)
    command = the_command(operation)
    for _ in range(reports.SENDS):
        ago(command, "sent_at", 3600)
        host.pings()
    command.refresh_from_db()
    assert (command.state, len(host.hears()), len(host.hears("probe"))) == ("RECONCILING", reports.SENDS, 1)
    host.answers(command, evidence=FINAL)
    operation.refresh_from_db()
    assert operation.state == "succeeded"


def test_a_lost_answer_is_found_by_a_ping_and_is_no_failure(host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.shared", zone, host)
    command = the_command(operation)
    host.says(command, "PROCESSING")
    host.pings(host.entry(command, "COMPLETED"))
    operation.refresh_from_db()
    assert operation.state == "succeeded"
    assert _acknowledged(host).command_ids == (str(command.pk),)


def test_a_begun_command_that_the_journal_does_not_have_is_in_doubt(host: HostVoice, zone: Zone) -> None:
    command = the_command(begin("toy.shared", zone, host))
    host.says(command, "STARTED")
    host.pings()
    command.refresh_from_db()
    assert command.state == "STARTED", "the ping may be older than the start"
    ago(command, "seen_at", 3600)
    host.pings()
    command.refresh_from_db()
    assert command.state == "RECONCILING"
    assert len(host.hears("probe")) == 1


def test_refused_as_stale_it_is_sent_again_in_the_present_epoch(host: HostVoice, zone: Zone) -> None:
    command = the_command(begin("toy.shared", zone, host))
    host.hears()
    host.reports(stale=((str(command.pk), 1),), epoch=host.epoch + 1)
    assert host.hears() == [], "of a start that is not known here"
    host.reports(stale=((str(command.pk), 1),))
    assert [message["epoch"] for message in host.hears()] == [host.epoch]


# --- hello ---------------------------------------------------------------------------------------------------------


def test_hello_settles_what_the_death_left_open(host: HostVoice, zone: Zone) -> None:
    """One of each: never arrived, interrupted, followed, ended unheard, and lost with its journal."""
    lost, interrupted, followed, ended, gone = [the_command(begin("toy.shared", zone, host)) for _ in range(5)]
    for command in (interrupted, followed, ended, gone):
        host.says(command, "STARTED")
    host.hears()
    host.hello(
        host.entry(interrupted, "INTERRUPTED"), host.entry(followed, "PROCESSING"), host.entry(ended, "COMPLETED")
    )
    assert [message["command_id"] for message in host.hears()] == [str(lost.pk)]
    for command, state in (
        (lost, "SENT"),
        (interrupted, "RECONCILING"),
        (followed, "PROCESSING"),
        (ended, "COMPLETED"),
        (gone, "RECONCILING"),
    ):
        command.refresh_from_db()
        assert command.state == state
    host.answers(interrupted)
    assert (interrupted.state, interrupted.attempt) == ("SENT", 2)


def test_hello_asks_each_question_once(host: HostVoice, zone: Zone) -> None:
    command = the_command(begin("toy.shared", zone, host))
    host.says(command, "STARTED")
    host.hello(host.entry(command, "INTERRUPTED"))
    assert len(host.hears("probe")) == 1


def test_an_open_question_is_asked_again_after_a_restart_and_old_answers_count_nothing(
    host: HostVoice, zone: Zone
) -> None:
    command = the_command(begin("toy.shared", zone, host))
    host.says(command, "STARTED")
    host.says(command, "INTERRUPTED")
    host.hears("probe")
    host.hello(host.entry(command, "INTERRUPTED"))
    (asked,) = host.hears("probe")
    assert asked["epoch"] == host.epoch
    host.answers(command, epoch=host.epoch - 1)
    assert command.state == "RECONCILING"
    host.answers(command)
    assert command.state == "SENT"


def test_reports_of_the_earlier_life_that_arrive_after_the_hello_do_no_harm(host: HostVoice, zone: Zone) -> None:
    command = the_command(begin("toy.shared", zone, host))
    host.says(command, "STARTED")
    late = host.entry(command, "PROCESSING", progress=progress(1, 2))
    host.hello(host.entry(command, "INTERRUPTED"))
    host.reports(late, epoch=host.epoch - 1)
    command.refresh_from_db()
    assert command.state == "RECONCILING"


def test_looks_of_an_earlier_life_do_not_outrank_those_of_this_one(host: HostVoice, zone: Zone) -> None:
    ours, older = (the_command(begin("toy.shared", zone, host)) for _ in range(2))
    host.hello(host.entry(ours, "QUEUED"), host.entry(older, "QUEUED"))
    host.reports(host.entry(ours, "COMPLETED"), facts_begun=4)
    host.reports(host.entry(older, "COMPLETED"), epoch=host.epoch - 1, facts_begun=7_000)
    ours.refresh_from_db()
    older.refresh_from_db()
    assert (ours.facts_begun, older.facts_begun) == (4, 0)


def test_a_hello_that_is_refused_is_told_the_floor_and_nothing_is_applied(host: HostVoice, zone: Zone) -> None:
    host.hello()
    command = the_command(begin("toy.shared", zone, host))
    host.says(command, "STARTED")
    host.hears("welcome")
    host.epoch = 0
    host.hello(host.entry(command, "INTERRUPTED"))
    (welcome,) = host.hears("welcome")
    assert (welcome["accepted"], welcome["epoch"], welcome["epoch_floor"]) == (False, 1, 2)
    command.refresh_from_db()
    assert command.state == "STARTED"


def test_an_agent_that_is_not_known_is_told_so(host: HostVoice, zone: Zone) -> None:
    host.hears("welcome")
    stranger = HostVoice(Agent(pk="0e5c1d86-2c1a-4be1-9f0a-9f6b9c0d0a11", zone=zone, role="host"), host._broker)
    with pytest.raises(Agent.DoesNotExist):
        stranger.hello()  # its row cannot be read back
    (welcome,) = stranger.hears("welcome")
    assert (welcome["accepted"], "no such agent" in welcome["reason"]) == (False, True)


# --- an answer that is none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [None, {}, {"path": ["/x"], "size_bytes": "many"}])
def test_done_without_an_answer_is_no_word_and_evidence_decides(
    host: HostVoice, zone: Zone, answer: dict[str, Any] | None
) -> None:
    operation = begin("toy.shared", zone, host)
    command = the_command(operation)
    host.says(command, "STARTED")
    for _ in range(2):
        host.pings(host.entry(command, "COMPLETED", answer=answer))
    command.refresh_from_db()
    assert (command.state, command.answer, _alarms("command.answer_malformed")) == ("RECONCILING", None, 1)
    host.answers(command, entry=host.entry(command, "COMPLETED", answer=answer), evidence=FINAL)
    assert (command.state, command.outcome) == ("RECONCILED", "done")
    assert command.answer == FINAL["final"] | {"resumed_from_bytes": 0}
    operation.refresh_from_db()
    assert operation.state == "succeeded"
    host.pings(host.entry(command, "COMPLETED", answer=answer))
    assert _alarms("command.disagrees") == 0


# --- a database older than the world -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["id", "seq", "attempt", "not even an id"])
def test_what_this_database_never_issued_makes_the_agent_ahead(host: HostVoice, zone: Zone, kind: str) -> None:
    command = the_command(begin("toy.shared", zone, host))
    host.says(command, "STARTED")
    entries: dict[str, dict[str, Any]] = {
        "id": {"command_id": "0e5c1d86-2c1a-4be1-9f0a-9f6b9c0d0a11"},
        "seq": {},
        "attempt": {"attempt": 2},
        "not even an id": {"command_id": "garbage"},
    }
    entry = host.entry(command, "STARTED", **entries[kind])
    for _ in range(2):
        host.pings(entry, host.entry(command, "STARTED"), highest_seq=99 if kind == "seq" else 1)
    zone.refresh_from_db()
    assert (host.agent.ahead, zone.deletions_suspended, _alarms("agent.ahead")) == (True, True, 1)
    assert _acknowledged(host).command_ids == ()
    host.hears()
    later = the_command(begin("toy.shared", zone, host))
    host.hello(host.entry(command, "STARTED"))
    later.refresh_from_db()
    assert (later.state, host.hears()) == ("CREATED", []), "no command goes to an agent that is ahead"


def test_where_deleting_is_suspended_nothing_is_deleted_by_itself(host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.shared", zone, host)
    command = the_command(operation)
    Zone.objects.update(deletions_suspended=True)
    host.hears()
    host.says(command, "FAILED")
    undo = the_command(operation)
    assert (undo.kind, undo.state, host.hears()) == ("template.remove", "CREATED", [])
    Zone.objects.update(deletions_suspended=False)
    host.pings()
    assert [message["kind"] for message in host.hears()] == ["template.remove"]


# --- the rest of a ping --------------------------------------------------------------------------------------------


def test_a_corrupt_journal_is_an_alarm_once(host: HostVoice) -> None:
    for _ in range(2):
        host.pings(corrupt_journals=("x.json.corrupt",))
    assert _alarms("agent.journal_corrupt") == 1


def test_a_name_that_cannot_be_written_down_stops_nothing_of_a_ping(host: HostVoice, zone: Zone) -> None:
    command = the_command(begin("toy.shared", zone, host))
    host.pings(host.entry(command, "COMPLETED"), corrupt_journals=("\udcff.json.corrupt",))
    assert _acknowledged(host).command_ids == (str(command.pk),)


def test_one_consumer_of_pings_that_breaks_stops_nobody(
    host: HostVoice, zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = []

    def broken(agent: Agent, ping: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(registry, "ping_consumers", [broken, lambda agent, ping: heard.append(agent)])
    command = the_command(begin("toy.shared", zone, host))
    host.pings(host.entry(command, "COMPLETED"))
    assert heard == [host.agent]
    assert _acknowledged(host).command_ids == (str(command.pk),)


def test_a_ping_of_an_earlier_start_is_not_taken(host: HostVoice, zone: Zone) -> None:
    command = the_command(begin("toy.shared", zone, host))
    host.pings(host.entry(command, "STARTED"), epoch=host.epoch - 1)
    command.refresh_from_db()
    assert command.state == "SENT"


def test_a_command_that_failed_keeps_its_agents_words(host: HostVoice, zone: Zone) -> None:
    command = the_command(begin("toy.shared", zone, host))
    host.says(command, "FAILED", problem=problem("the mirror said 404"))
    assert command.error is not None
    assert command.error["cause"] == "the mirror said 404"
    assert command.finished_at is not None
    assert Command.objects.get(pk=command.pk).agent_state == "FAILED"
