"""A person's word settles what nobody could find out, and the workflow goes on from it."""

from typing import Any

import pytest

from core_app.models import Event
from infra_app.models import Zone
from operations_app import registry, sweep
from operations_app.models import Command, Operation
from operations_app.rules import Judgement
from tests.unit.operations_app.toys import HostVoice, begin, happened, problem, the_command
from tests.unit.people import Person

NOTE = "I have looked at the host."


def settle(person: Person, operation: Operation, verdict: str, query: str = "", **more: Any) -> Any:
    body = {"verdict": verdict, "note": NOTE, **more}
    return person.post(f"/api/v1/operations/{operation.pk}/settle/{query}", body)


def in_doubt(operation: Operation, *commands: Command) -> None:
    """As after the last question that got no answer."""
    Command.objects.filter(pk__in=[command.pk for command in commands]).update(state="RECONCILE_FAILED")
    Operation.objects.filter(pk=operation.pk).update(state="needs_attention")


@pytest.fixture
def starting(host: HostVoice, zone: Zone) -> Operation:
    """Nobody knows whether the VM was started."""
    operation = begin("toy.deploy", zone, host)
    host.says(the_command(operation), "COMPLETED")
    host.says(the_command(operation), "COMPLETED")
    in_doubt(operation, the_command(operation))
    return operation


def test_done_is_as_if_evidence_had_said_so(olga: Person, starting: Operation) -> None:
    start = the_command(starting)
    answer = settle(olga, starting, "done")
    assert (answer.status_code, answer.json()["state"]) == (202, "succeeded")
    start.refresh_from_db()
    assert (start.state, start.outcome) == ("RECONCILED", "done")
    assert start.evidence
    assert start.evidence["by"] == "olga"
    assert happened(starting, "toy.started") == [""]
    (event,) = Event.objects.filter(kind="operation.settled")
    assert event.details == {
        "command": str(start.pk), "verdict": "done", "note": NOTE, "by": str(olga.user.pk)
    }  # fmt: skip
    assert event.message == f"olga settled {start} as done: {NOTE}"


def test_undone_puts_it_back(olga: Person, host: HostVoice, starting: Operation) -> None:
    assert settle(olga, starting, "undone").json()["direction"] == "undo"
    for kind in ("vm.stop", "template.remove"):
        assert the_command(starting).kind == kind
        host.says(the_command(starting), "COMPLETED")
    starting.refresh_from_db()
    assert starting.state == "failed"


def test_redo_sends_it_again(olga: Person, host: HostVoice, starting: Operation) -> None:
    host.hears()
    assert settle(olga, starting, "redo").status_code == 202
    start = the_command(starting)
    assert (start.state, start.attempt) == ("SENT", 2)
    assert [message["attempt"] for message in host.hears()] == [2]
    host.says(start, "COMPLETED")
    starting.refresh_from_db()
    assert starting.state == "succeeded"


@pytest.mark.parametrize(("verdict", "sent"), [("done", []), ("undone", ["vm.stop"]), ("redo", ["vm.start"])])
def test_a_preview_says_what_would_come_and_does_nothing(
    olga: Person, host: HostVoice, starting: Operation, verdict: str, sent: list[str]
) -> None:
    host.hears()
    before = [list(model._default_manager.order_by("pk").values()) for model in (Operation, Command, Event)]
    answer = settle(olga, starting, verdict, "?dry_run=true")
    assert answer.status_code == 200
    assert [command["kind"] for command in answer.json()["commands"]] == sent
    assert answer.json()["state"] == ("needs_attention" if verdict == "redo" else "running" if sent else "succeeded")
    assert [list(model._default_manager.order_by("pk").values()) for model in (Operation, Command, Event)] == before
    assert host.hears() == []


def test_what_failed_without_a_way_back_is_done_by_hand(olga: Person, host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.destroy", zone, host)
    host.says(the_command(operation), "COMPLETED")
    failed = the_command(operation)
    host.says(failed, "FAILED", problem=problem("the pool is away"))
    refused = settle(olga, operation, "undone")
    assert (refused.status_code, list(refused.json()["errors"])) == (400, ["verdict"])
    assert settle(olga, operation, "redo").status_code == 202
    assert the_command(operation).pk != failed.pk
    host.says(the_command(operation), "FAILED", problem=problem("the pool is away"))
    assert settle(olga, operation, "done").json()["state"] == "succeeded"


def test_a_kind_allows_what_its_workflow_can_go_on_from(olga: Person, host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.shared", zone, host)
    in_doubt(operation, the_command(operation))
    refused = settle(olga, operation, "done")
    assert refused.status_code == 400
    assert "redo or undone" in refused.json()["remedy"]
    assert settle(olga, operation, "redo").status_code == 202
    for kind in registry.judged_kinds():
        assert Judgement.REDO in registry.verdicts_by_person(kind)


def test_which_one_is_said_where_several_are_in_question(olga: Person, host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.shared", zone, host, host)
    first, second = operation.commands.order_by("label")
    in_doubt(operation, first, second)
    refused = settle(olga, operation, "undone")
    assert (refused.status_code, list(refused.json()["errors"])) == (400, ["command"])
    assert str(second.pk) in refused.json()["remedy"]
    assert settle(olga, operation, "undone", command=str(second.pk)).status_code == 202
    second.refresh_from_db()
    assert (second.state, second.outcome) == ("RECONCILED", "undone")
    assert settle(olga, operation, "undone", command=str(second.pk)).status_code == 400


def test_nothing_else_is_settled(olga: Person, alice: Person, host: HostVoice, zone: Zone, starting: Operation) -> None:
    running = begin("toy.shared", zone, host)
    refused = settle(olga, running, "undone")
    assert (refused.status_code, refused.json()["operation"]) == (409, str(running.pk))
    assert olga.post(f"/api/v1/operations/{starting.pk}/settle/", {"verdict": "done"}).status_code == 400
    Operation.objects.update(account=alice.user.account)
    assert settle(alice, starting, "done").status_code == 403
    sweep.sweep()
    starting.refresh_from_db()
    assert starting.state == "needs_attention"
