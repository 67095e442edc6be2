"""What must stay fast: a ping of a busy host, and sweeps over many rows. Counted in statements, timed with room."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from agents.protocol.messages import JournalEntry
from infra_app.models import Zone
from operations_app import sweep
from operations_app.models import Attempt, Command, Operation
from tests.unit.operations_app.toys import HostVoice, begin, progress, the_command

MANY = 500


@pytest.fixture
def busy(host: HostVoice, zone: Zone) -> list[Command]:
    """A host with 500 open commands that run."""
    first = the_command(begin("toy.shared", zone, host))
    operations = Operation.objects.bulk_create(
        Operation(kind="toy.shared", target_type="zone", target_id=zone.pk, data={"hosts": []}, round=1,
                  sent_position=0, state="running", progress=progress(1, 2).model_dump())
        for _ in range(MANY - 1)
    )  # fmt: skip
    now = timezone.now()
    commands = Command.objects.bulk_create(
        Command(operation=operation, position=0, direction="do", round=1, agent=host.agent, kind=first.kind,
                lane=first.lane, payload=first.payload, state="PROCESSING", seq=2 + number, sent_at=now, seen_at=now,
                progress=progress(1, 2).model_dump())
        for number, operation in enumerate(operations)
    )  # fmt: skip
    Attempt.objects.bulk_create(Attempt(command=command, number=1) for command in commands)
    type(host.agent).objects.filter(pk=host.agent.pk).update(last_seq=MANY)
    host.says(first, "PROCESSING", progress=progress(1, 2))
    return [first, *commands]


@contextmanager
def _measured(what: str, limit: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    print(f"{what}: {took:.3f} s")
    assert took < limit, f"{what}: {took:.3f} s"


def _entries(host: HostVoice, commands: list[Command]) -> list[JournalEntry]:
    return [host.entry(command, "PROCESSING", progress=progress(1, 2)) for command in commands]


def test_a_ping_of_500_commands_that_changes_nothing_costs_a_few_statements(
    host: HostVoice, busy: list[Command]
) -> None:
    entries = _entries(host, busy)
    with CaptureQueriesContext(connection) as seen, _measured("ping of 500 unchanged", 2):
        host.pings(*entries)
    assert len(seen) < 30, [query["sql"][:100] for query in seen]


def test_a_ping_of_500_commands_of_which_some_moved_pays_for_those_only(host: HostVoice, busy: list[Command]) -> None:
    entries = _entries(host, busy[10:]) + [
        host.entry(command, "PROCESSING", progress=progress(2, 2)) for command in busy[:10]
    ]
    with CaptureQueriesContext(connection) as seen, _measured("ping of 500, 10 with progress", 3):
        host.pings(*entries)
    assert len(seen) < 250


def test_a_hello_of_500_commands_asks_once_about_each_that_was_interrupted(
    host: HostVoice, busy: list[Command]
) -> None:
    interrupted, running = busy[:50], busy[50:]
    entries = [host.entry(command, "INTERRUPTED") for command in interrupted] + _entries(host, running)
    with _measured("hello of 500, 50 interrupted", 10):
        host.hello(*entries)
    assert len(host.hears("probe")) == len(interrupted)


@pytest.mark.parametrize(
    ("state", "limit"), [("PROCESSING", 2), ("RECONCILE_FAILED", 5)], ids=["running", "asked in vain"]
)
def test_a_sweep_over_many_rows_is_short(host: HostVoice, busy: list[Command], state: str, limit: float) -> None:
    Command.objects.update(state=state)
    with _measured(f"sweep over 500 {state}", limit):
        sweep.sweep()
