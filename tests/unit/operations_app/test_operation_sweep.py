"""The sweeps: whom silence condemns, what one bad row stops (nothing), and what two at once do (no harm)."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from core_app import settings_rows
from core_app.models import Event
from infra_app.models import Agent, Zone
from operations_app import dispatch, schedule, sweep
from operations_app.models import Command, ControlPulse, Operation
from tests.unit.operations_app.toys import HostVoice, ago, begin, happened, open_commands, the_command

INTERVAL = 60


def _pulse(last_seconds: float, resumed_seconds: float) -> None:
    now = timezone.now()
    moments = {
        "last_at": now - timedelta(seconds=last_seconds),
        "resumed_at": now - timedelta(seconds=resumed_seconds),
    }
    ControlPulse.objects.update_or_create(pk=1, defaults=moments)


def _in_threads(count: int, work: Callable[[], object]) -> None:
    def worker() -> None:
        try:
            work()
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(worker) for _ in range(count)]:
            future.result()


# --- silence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("silent", "last", "resumed", "state"),
    [
        (200, 50, 1000, "disconnected"),
        (170, 50, 1000, "up"),
        (100_000, 50, 150, "up"),  # control has not been consumed for long enough
        (100_000, 130, 1000, "up"),  # it was not consumed just now: silence begins to count again
        (100_000, 110, 1000, "disconnected"),
    ],
)
def test_silence_counts_from_the_later_of_the_last_ping_and_the_return_of_control(
    host: HostVoice, silent: int, last: int, resumed: int, state: str
) -> None:
    ago(host.agent, "last_ping_at", silent)
    _pulse(last, resumed)
    sweep.watch()
    host.agent.refresh_from_db()
    assert host.agent.state == state


def test_the_first_look_ever_judges_nobody(host: HostVoice) -> None:
    ago(host.agent, "last_ping_at", 100_000)
    sweep.watch()
    host.agent.refresh_from_db()
    assert host.agent.state == "up"


def test_after_ten_intervals_without_control_nobody_is_judged_until_pings_could_come(host: HostVoice) -> None:
    """All management servers were off: each look moves on by an interval, as beat would call it."""
    _pulse(10 * INTERVAL, 10_000)
    ago(host.agent, "last_ping_at", 10 * INTERVAL)
    seen = []
    for _ in range(5):
        sweep.watch()
        host.agent.refresh_from_db()
        seen.append(host.agent.state)
        pulse = ControlPulse.objects.get()
        _pulse(INTERVAL, (timezone.now() - pulse.resumed_at).total_seconds() + INTERVAL)
    assert seen[:3] == ["up"] * 3
    assert seen[-1] == "disconnected"


def test_a_host_that_answers_again_is_up_and_gets_what_waited(host: HostVoice, zone: Zone) -> None:
    Agent.objects.update(state="disconnected")
    operation = begin("toy.shared", zone, host)
    sweep.sweep()
    assert host.hears() == []
    host.pings()
    assert len(host.hears()) == 1
    assert the_command(operation).state == "SENT"


# --- one bad row ---------------------------------------------------------------------------------------------------


def test_a_round_with_a_bad_row_goes_on(host: HostVoice, zone: Zone) -> None:
    """Of each part of the sweep one row that cannot be handled, and one that can."""
    bad = [begin("toy.shared", zone, host) for _ in range(3)]
    good = [begin("toy.shared", zone, host) for _ in range(3)]
    for stuck, waiting, late in (bad, good):
        Command.objects.filter(operation=stuck).update(state="COMPLETED")
        Command.objects.filter(operation=waiting).update(state="CREATED", sent_at=None)
        the_command(waiting).attempts.update(created_at="2020-01-01T00:00:00Z")
        Command.objects.filter(operation=late).update(
            state="RECONCILING", probed_at="2020-01-01T00:00:00Z", probe_id=late.pk, reconcile_attempts=99
        )
    Operation.objects.filter(pk__in=[operation.pk for operation in bad]).update(kind="of another version")
    sweep.sweep()
    for operation in good:
        operation.refresh_from_db()
    assert [good[0].state, good[2].state] == ["succeeded", "needs_attention"]
    assert good[1].undoing


def test_one_part_that_breaks_stops_no_other(host: HostVoice, zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(dispatch, "publish_waiting", broken)
    operation = begin("toy.shared", zone, host)
    Command.objects.update(state="COMPLETED")
    sweep.sweep()
    operation.refresh_from_db()
    assert operation.state == "succeeded"


# --- two at once ---------------------------------------------------------------------------------------------------


def test_two_sweeps_at_once_do_everything_once(host: HostVoice, zone: Zone) -> None:
    waiting = [begin("toy.shared", zone, host) for _ in range(4)]
    idle = [begin("toy.deploy", zone, host) for _ in range(4)]
    doubtful = [begin("toy.shared", zone, host) for _ in range(4)]
    host.hears()
    Command.objects.filter(operation__in=waiting).update(state="CREATED", sent_at=None)
    Command.objects.filter(operation__in=idle).update(state="COMPLETED")
    Command.objects.filter(operation__in=doubtful).update(state="INTERRUPTED")
    _in_threads(4, sweep.sweep)
    sent = [message["command_id"] for message in host.hears()]
    assert len(sent) == len(set(sent)) == 8
    assert all(len(open_commands(operation)) == 1 for operation in idle)
    assert all(len(happened(operation, "toy.checked")) == 1 for operation in idle)
    asked = list(Command.objects.filter(operation__in=doubtful).values_list("state", "reconcile_attempts"))
    assert asked == [("RECONCILING", 1)] * 4


def test_two_reports_of_the_same_end_at_once_have_one_effect(host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.deploy", zone, host)
    entry = host.entry(the_command(operation), "COMPLETED")
    _in_threads(6, lambda: host.reports(entry))
    operation.refresh_from_db()
    assert (operation.position, operation.commands.count()) == (1, 2)
    assert happened(operation, "toy.checked") == [""]


def test_looking_for_silence_twice_at_once_tells_it_once(host: HostVoice) -> None:
    ago(host.agent, "last_ping_at", 100_000)
    _pulse(50, 1000)
    _in_threads(4, sweep.watch)
    assert Event.objects.filter(kind="agent.disconnected").count() == 1


# --- the schedule --------------------------------------------------------------------------------------------------


def test_the_intervals_of_the_settings_are_those_of_the_schedule(transactional_db: None) -> None:
    """A row that an operator removed is no obstacle."""
    settings_rows.put("ping.interval", 0.5)
    for task in schedule.TASK_BY_SETTING.values():
        PeriodicTask.objects.get_or_create(name=task, defaults={"task": task, "interval": _minute()})
    settings_rows.put("ping.interval", 0.5)
    for seconds in (5, 86_400):
        settings_rows.put("reconcile.commands.interval", seconds)
        rows = PeriodicTask.objects.filter(name__in=schedule.TASK_BY_SETTING.values())
        every = {task.name: task.interval.schedule.run_every.total_seconds() for task in rows}
        assert every == {"operations.watch": 0.5, "operations.sweep": seconds}


def _minute() -> object:
    from django_celery_beat.models import IntervalSchedule

    return IntervalSchedule.objects.create(every=60_000_000, period="microseconds")
