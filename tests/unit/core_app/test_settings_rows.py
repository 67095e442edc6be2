"""Settings: known by definition, refused out of bounds, in force at once."""

from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from rest_framework.test import APIClient

from core_app import settings_rows
from core_app.errors import InvalidInput, NotFound
from core_app.models import Event, Setting

REFUSED = [
    ("reconcile.commands.enabled", "perhaps"),
    ("reconcile.commands.enabled", 1),
    ("reconcile.commands.interval", 0),
    ("reconcile.commands.interval", True),
    ("reconcile.commands.interval", "soon"),
    ("reconcile.commands.interval", float("nan")),
    ("reconcile.commands.max.attempts", 0),
    ("reconcile.commands.max.attempts", 2.5),
    ("reconcile.commands.max.attempts", None),
    ("reconcile.commands.workers", [1]),
    ("download.address.allow", "10.0.0.1/8"),
    ("download.address.allow", "everything"),
    ("download.address.allow", 7),
    ("host.accelerator", "hvf"),
    ("host.accelerator", ["kvm"]),
]
TAKEN = [
    ("reconcile.commands.enabled", "false", False),
    ("reconcile.commands.interval", "1.5", 1.5),
    ("reconcile.commands.max.attempts", "7", 7),
    ("reconcile.commands.max.attempts", 7.0, 7),
    ("download.address.allow", " 10.0.0.0/8, fd00::/8 ", "10.0.0.0/8,fd00::/8"),
    ("host.accelerator", "tcg", "tcg"),
]


@pytest.mark.django_db
@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_value_out_of_kind_or_bounds_is_refused(name: str, value: Any) -> None:
    before = settings_rows.get(name)
    with pytest.raises(InvalidInput) as refused:
        settings_rows.put(name, value)
    assert list(refused.value.errors) == ["value"]
    assert settings_rows.get(name) == before
    assert not Setting.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(("name", "value", "stored"), TAKEN)
def test_a_value_is_in_force_at_once(name: str, value: Any, stored: Any) -> None:
    assert settings_rows.put(name, value) == stored
    assert settings_rows.get(name) == settings_rows.values()[name] == stored
    assert Event.objects.filter(kind="setting.changed", target_id=name).count() == 1


@pytest.mark.django_db
def test_without_a_row_the_default_is_in_force() -> None:
    values = settings_rows.values()
    for definition in settings_rows.definitions():
        assert settings_rows.get(definition.name) == values[definition.name] == definition.default


@pytest.mark.django_db
def test_an_unknown_name() -> None:
    with pytest.raises(NotFound):
        settings_rows.get("ping.intervall")
    with pytest.raises(NotFound):
        settings_rows.put("ping.intervall", 3)


def test_a_definition_is_made_once_and_its_default_is_valid() -> None:
    with pytest.raises(ValueError, match="twice"):
        settings_rows.define("ping.interval", "number", 1, "s", (0, 2), "")
    with pytest.raises(ValueError, match="from 0 to 2"):
        settings_rows.define("test.setting", "number", 3, "s", (0, 2), "")


@pytest.mark.django_db
def test_a_receiver_is_told_inside_the_transaction() -> None:
    told = []

    def receiver(name: str, value: Any, **_: Any) -> None:
        told.append((name, value, connection.in_atomic_block))

    settings_rows.setting_changed.connect(receiver)
    try:
        settings_rows.put("ping.interval", 5)
    finally:
        settings_rows.setting_changed.disconnect(receiver)
    assert told == [("ping.interval", 5, True)]


@pytest.mark.django_db(transaction=True)
def test_a_receiver_that_fails_takes_the_setting_with_it() -> None:
    def receiver(**_: Any) -> None:
        raise LookupError

    settings_rows.setting_changed.connect(receiver)
    try:
        with pytest.raises(LookupError):
            settings_rows.put("storage.overcommit", 5)
    finally:
        settings_rows.setting_changed.disconnect(receiver)
    assert settings_rows.get("storage.overcommit") == 1.0


def test_operators_set_by_api(olga: APIClient) -> None:
    listed = {row["name"]: row for row in olga.get("/api/v1/settings/").json()}
    assert listed["ping.interval"] == {
        "name": "ping.interval",
        "value": 60,
        "default": 60,
        "unit": "s",
        "bounds": [0.5, 3600],
        "help": "Time between two pings of an agent",
    }
    assert olga.put("/api/v1/settings/ping.interval/", {"value": 2}).json()["value"] == 2
    assert olga.get("/api/v1/settings/ping.interval/").json()["value"] == 2
    refused = olga.put("/api/v1/settings/ping.interval/", {"value": 0})
    assert (refused.status_code, list(refused.json()["errors"])) == (400, ["value"])
    assert olga.put("/api/v1/settings/ping.pong/", {"value": 0}).status_code == 404


@pytest.mark.django_db
def test_operators_set_by_command() -> None:
    call_command("set_setting", "reconcile.commands.interval", "2.5")
    assert settings_rows.get("reconcile.commands.interval") == 2.5
    with pytest.raises(CommandError, match=r"must be from 0\.5"):
        call_command("set_setting", "reconcile.commands.interval", "0.1")
