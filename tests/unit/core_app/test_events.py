"""Events: one row and one log line each, alarms without a flood, and who sees them."""

import json
import logging
import sys

import pytest
from django.db import transaction

from core_app import events
from core_app.logs import JsonFormatter
from core_app.models import Event
from infra_app.models import Agent, Zone
from tests.unit.people import Person


@pytest.mark.django_db(transaction=True)
def test_a_line_is_logged_when_the_row_is_committed(zone: Zone, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cloudctl.events")
    with transaction.atomic():
        events.record("test.happened", zone, "It did.", details={"n": 1})
        assert caplog.records == []
    (record,) = caplog.records
    line = json.loads(JsonFormatter().format(record))
    assert (line["event"], line["level"], line["target_type"], line["target_id"]) == (
        "test.happened",
        "info",
        "zone",
        str(zone.pk),
    )
    assert line["details"] == {"n": 1}


def test_an_exception_is_part_of_its_line() -> None:
    try:
        raise LookupError("gone")
    except LookupError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "lost %s", ("it",), sys.exc_info())
    line = json.loads(JsonFormatter().format(record))
    assert line["event"] == "lost it"
    assert "LookupError: gone" in line["exception"]


def test_an_alarm_is_not_repeated_within_the_hour(agent: Agent) -> None:
    assert events.alarm_once("test.alarm", agent, "Look.")
    assert events.alarm_once("test.alarm", agent, "Look.") is None
    assert events.alarm_once("test.alarm", agent, "Look here too.")
    assert Event.objects.filter(kind="test.alarm", level="alarm").count() == 2


def test_events_by_target_and_level(olga: Person, agent: Agent, zone: Zone) -> None:
    events.record("test.a", agent, level="warning")
    events.record("test.b", zone)
    events.record("test.c")
    found = olga.get(f"/api/v1/events/?target={agent.pk}&level=warning").json()["results"]
    assert [(e["kind"], e["target"]) for e in found] == [
        ("test.a", {"type": "agent", "id": str(agent.pk), "name": "host1"})
    ]
    assert olga.get("/api/v1/events/?kind=test.c").json()["results"][0]["target"] is None


def test_an_account_sees_its_own_events_only(alice: Person, charlie: Person) -> None:
    event = Event.objects.create(kind="test.mine", account_id=alice.user.account_id)
    Event.objects.create(kind="test.fleet")
    assert [e["id"] for e in alice.get("/api/v1/events/?kind=test.mine").json()["results"]] == [str(event.pk)]
    assert alice.get("/api/v1/events/?kind=test.fleet").json()["results"] == []
    assert charlie.get("/api/v1/events/?kind=test.mine").json()["results"] == []
    assert charlie.get(f"/api/v1/events/{event.pk}/").status_code == 404
