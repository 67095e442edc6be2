"""Registration: refused by field, looked at by up to three hosts, ready or failed with every host's reason."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from agents.common.checksums import ALGORITHMS
from core_app.errors import InvalidInput
from infra_app.actions import zone_create
from infra_app.models import Agent, Zone
from operations_app.models import Attempt, Operation
from operations_app.rules import OperationState
from templates_app.models import Placement, Template
from tests.unit.templates_app.fleet import GIB, TEMPLATE_BYTES, Fleet, error_of, setting, state_of

REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    # name: what is given, the field that is blamed, a word of the reason
    "no scheme": ({"url": "mirror.example.org/x"}, "url", "scheme"),
    "ftp": ({"url": "ftp://mirror.example.org/x"}, "url", "scheme"),
    "file": ({"url": "file:///etc/passwd"}, "url", "scheme"),
    "no host": ({"url": "http:///x"}, "url", "host"),
    "password": ({"url": "http://me:secret@mirror.example.org/x"}, "url", "password"),
    "user": ({"url": "http://me@mirror.example.org/x"}, "url", "user name"),
    "loopback": ({"url": "http://127.0.0.1/x"}, "url", "loopback"),
    "private": ({"url": "http://10.1.2.3/x"}, "url", "private"),
    "link-local": ({"url": "http://169.254.169.254/x"}, "url", "link-local"),
    "mapped": ({"url": "http://[::ffff:10.0.0.1]/x"}, "url", "private"),
    "number": ({"url": "http://2130706433/x"}, "url", "number"),
    "port": ({"url": "http://mirror.example.org:6379/x"}, "url", "Redis"),
    "line break": ({"url": "http://mirror.example.org/x\r\ny"}, "url", "character"),
    "no algorithm": ({"checksum": "ab" * 32}, "checksum", "algorithm"),
    "other algorithm": ({"checksum": "{CRC32}12345678"}, "checksum", "CRC32"),
    "short": ({"checksum": "{SHA-256}abcd"}, "checksum", "4 digits"),
    "no digits": ({"checksum": "{MD5}"}, "checksum", "no digits"),
    "no hex": ({"checksum": "{MD5}" + "x" * 32}, "checksum", "hexadecimal"),
    "header line break": ({"headers": {"X-A": "b\r\nX-C: d"}}, "headers", "line break"),
    "header name line break": ({"headers": {"X-A\r\nX-B": "c"}}, "headers", "not a header's name"),
    "secret line break": ({"secret_headers": {"X-A": "b\n"}}, "secret_headers", "line break"),
    "own header": ({"headers": {"Range": "bytes=0-"}}, "headers", "Range"),
    "own header secretly": ({"secret_headers": {"host": "other"}}, "secret_headers", "host"),
    "both openly and secretly": ({"headers": {"X-A": "1"}, "secret_headers": {"x-a": "2"}}, "secret_headers", "x-a"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_by_field(fleet: Fleet, case: str) -> None:
    given, field, word = REFUSED[case]
    with pytest.raises(InvalidInput) as refusal:
        fleet.registered(**given)
    assert list(refusal.value.errors) == [field]
    assert word in refusal.value.errors[field][0]
    assert refusal.value.remedy
    assert "secret@" not in str(refusal.value)
    assert not Template.objects.exists()
    assert not Operation.objects.exists()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_checksum_in_any_case_is_taken_as_given(fleet: Fleet, host: Agent, algorithm: str) -> None:
    given = f"{{{algorithm.lower()}}}" + "aB" * (ALGORITHMS[algorithm] // 2)
    template, operation = fleet.registered(checksum=given)
    assert template.checksum == given
    assert fleet.the_open(operation).payload["source"]["checksum"] == given


def test_an_address_of_an_allowed_network_is_taken(fleet: Fleet, host: Agent) -> None:
    setting("download.address.allow", "10.0.0.0/8")
    _, operation = fleet.registered(url="http://10.1.2.3/x")
    assert fleet.the_open(operation).payload["limits"]["allowed_networks"] == ["10.0.0.0/8"]


class TestZones:
    def test_none_named_is_all_that_are_enabled(self, fleet: Fleet, zone: Zone) -> None:
        second, off = zone_create("zone2"), zone_create("zone3")
        Zone.objects.filter(pk=off.pk).update(enabled=False)
        template, _ = fleet.registered()
        assert set(template.zones.all()) == {zone, second}

    def test_every_zone_gets_it_though_only_one_has_a_host(self, fleet: Fleet, zone: Zone, host: Agent) -> None:
        second = zone_create("zone2")
        template = fleet.checked(zones=[zone, second])
        stores = Placement.objects.filter(template=template, kind="store")
        assert {placement.zone for placement in stores} == {zone, second}

    def test_a_disabled_one_is_named(self, fleet: Fleet, zone: Zone) -> None:
        off = zone_create("attic")
        Zone.objects.filter(pk=off.pk).update(enabled=False)
        off.refresh_from_db()
        with pytest.raises(InvalidInput) as refusal:
            fleet.registered(zones=[zone, off])
        assert refusal.value.errors == {"zones": ["Disabled: attic."]}

    def test_none_enabled_is_refused(self, fleet: Fleet) -> None:
        Zone.objects.update(enabled=False)
        with pytest.raises(InvalidInput, match="no enabled zone"):
            fleet.registered()


class TestTheCheck:
    def test_a_good_one_makes_it_ready_with_a_row_a_zone(self, fleet: Fleet, host: Agent) -> None:
        template, operation = fleet.registered()
        assert (template.state, operation.state) == ("allocated", "pending")
        command = fleet.the_open(operation)
        assert (command.kind, command.agent, command.state) == ("template.check", host, "SENT")
        assert not Placement.objects.exists()
        fleet.says(command, "COMPLETED")
        template.refresh_from_db()
        operation.refresh_from_db()
        assert (template.state, operation.state) == ("ready", "succeeded")
        assert (template.size_bytes, template.virtual_size_bytes) == (TEMPLATE_BYTES, GIB)
        placement = Placement.objects.get()
        shown = (placement.kind, placement.pool, placement.state, placement.download_state)
        assert shown == ("store", None, "ready", "bypassed")
        assert operation.result == {"size_bytes": TEMPLATE_BYTES, "checked_by": "host1"}

    def test_three_different_hosts_are_asked_and_each_reason_is_kept(self, fleet: Fleet) -> None:
        for number in range(4):
            fleet.host(f"h{number}")
        template, operation = fleet.registered()
        asked = []
        while commands := fleet.open(operation):
            (command,) = commands
            asked.append(command.agent)
            fleet.fails(command, cause=f"{command.agent} cannot reach it.")
        assert len(asked) == len(set(asked)) == 3
        assert state_of(template) == "failed"
        assert error_of(template)["hosts"] == [
            {"host": each.name, "reason": f"{each} cannot reach it."} for each in asked
        ]
        assert not Placement.objects.exists()

    def test_the_second_host_may_succeed(self, fleet: Fleet) -> None:
        fleet.host("h1")
        fleet.host("h2")
        template, operation = fleet.registered()
        fleet.fails(fleet.the_open(operation))
        fleet.works(operation)
        assert (state_of(template), error_of(template), error_of(operation)) == ("ready", {}, {})
        assert len(operation.data["reasons"]) == 1

    def test_a_body_of_another_format_is_final_at_once(self, fleet: Fleet) -> None:
        fleet.host("h1")
        fleet.host("h2")
        template, operation = fleet.registered()
        fleet.fails(fleet.the_open(operation), "image_refused", elsewhere=False, cause="It is HTML.")
        assert state_of(template) == "failed"
        assert error_of(template)["code"] == "image_refused"
        assert fleet.kinds(operation) == ["template.check"]

    def test_hosts_of_other_zones_are_not_asked(self, fleet: Fleet) -> None:
        far = zone_create("far")
        near = fleet.host("near")
        for number in range(5):
            fleet.host(f"far{number}", zone=far)
        _, operation = fleet.registered(zones=[fleet.zone])
        assert fleet.the_open(operation).agent == near

    def test_zones_without_a_host_fail_it_at_once(self, fleet: Fleet) -> None:
        template, operation = fleet.registered()
        assert (state_of(template), operation.state) == ("failed", "failed")
        assert error_of(template)["code"] == "no_host"

    def test_cancelled_before_the_answer(self, fleet: Fleet, host: Agent) -> None:
        template, operation = fleet.registered()
        command = fleet.the_open(operation)
        fleet.cancels(operation)
        fleet.says(command, "CANCELLED")
        assert (state_of(template), state_of(operation)) == ("failed", "cancelled")
        assert error_of(template)["code"] == "cancelled"


class TestNobodyUp:
    """Allocated until somebody comes up or the deadline passes; the operation says why meanwhile."""

    @pytest.mark.parametrize("why", ["joined", "disconnected", "maintenance", "down", "ahead"])
    def test_it_waits_and_says_so(self, fleet: Fleet, why: str) -> None:
        host = fleet.host("asleep")
        Agent.objects.filter(pk=host.pk).update(**({"ahead": True} if why == "ahead" else {"state": why}))
        template, operation = fleet.registered()
        assert template.state == "allocated"
        assert error_of(operation)["code"] == "no_host_up"
        fleet.sweeps()
        assert fleet.the_open(operation).state == "CREATED"
        other = fleet.host("awake")
        fleet.pings(other)
        assert fleet.the_open(operation).agent == other
        fleet.works(operation)
        assert (state_of(template), error_of(operation)) == ("ready", {})

    def test_the_host_that_comes_up_is_asked(self, fleet: Fleet) -> None:
        host = fleet.host("asleep", up=False)
        template, operation = fleet.registered()
        fleet.comes_up(host)
        assert fleet.the_open(operation).state == "SENT"
        fleet.works(operation)
        assert (state_of(template), error_of(operation)) == ("ready", {})

    def test_the_first_that_comes_up_takes_over_from_the_one_that_was_chosen(self, fleet: Fleet) -> None:
        hosts = {fleet.host("a", up=False), fleet.host("b", up=False)}
        template, operation = fleet.registered()
        chosen = fleet.the_open(operation)
        (second,) = hosts - {chosen.agent}
        fleet.comes_up(second)
        fleet.pings(second)
        chosen.refresh_from_db()
        assert chosen.state == "CANCELLED"
        operation.refresh_from_db()
        assert (fleet.the_open(operation).agent, operation.error) == (second, None)
        fleet.comes_up(chosen.agent)
        assert len(fleet.open(operation)) == 1
        fleet.works(operation)
        assert state_of(template) == "ready"

    def test_a_check_that_was_sent_is_not_taken_back(self, fleet: Fleet) -> None:
        first = fleet.host("a")
        _, operation = fleet.registered()
        fleet.goes_away(first)
        fleet.pings(fleet.host("b"))
        assert fleet.the_open(operation).agent == first

    def test_a_host_of_another_zone_takes_nothing_over(self, fleet: Fleet) -> None:
        asleep = fleet.host("asleep", up=False)
        _, operation = fleet.registered(zones=[fleet.zone])
        waiting = fleet.the_open(operation)
        fleet.pings(fleet.host("far", zone=zone_create("far")))
        assert (fleet.the_open(operation), waiting.agent) == (waiting, asleep)

    def test_after_the_deadline_it_fails_and_says_who_did_not_come(self, fleet: Fleet) -> None:
        fleet.host("asleep", up=False)
        template, operation = fleet.registered()
        setting("command.queue.deadline", 60)
        Attempt.objects.update(created_at=timezone.now() - timedelta(hours=1))
        fleet.sweeps()
        assert (state_of(template), state_of(operation)) == ("failed", "failed")
        (reason,) = error_of(template)["hosts"]
        assert reason["host"] == "asleep"
        assert "did not start" in reason["reason"]


class TestInterrupted:
    def test_an_interrupted_check_is_begun_again(self, fleet: Fleet, host: Agent) -> None:
        template, operation = fleet.registered()
        command = fleet.the_open(operation)
        fleet.says(command, "STARTED")
        fleet.says(command, "INTERRUPTED")
        assert command.state == "RECONCILING"
        fleet.answers(command)
        command.refresh_from_db()
        assert (command.state, command.attempt) == ("SENT", 2)
        fleet.works(operation)
        assert state_of(template) == "ready"


def test_the_operation_is_the_templates_and_the_accounts(fleet: Fleet, host: Agent) -> None:
    template, operation = fleet.registered("my 'image'")
    assert (operation.target_type, operation.target_id) == ("template", template.pk)
    assert (operation.target_name, operation.account) == ("my 'image'", fleet.account)


def test_an_end_that_is_told_twice_changes_nothing(fleet: Fleet, host: Agent) -> None:
    template, operation = fleet.registered()
    command = fleet.the_open(operation)
    fleet.says(command, "COMPLETED")
    fleet.says(command, "COMPLETED")
    assert Placement.objects.count() == 1
    assert Operation.objects.filter(state=OperationState.SUCCEEDED).count() == 1
    assert state_of(template) == "ready"
