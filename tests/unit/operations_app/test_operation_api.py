"""``operations/`` and ``commands/`` as scripts and people see them."""

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts_app.models import Account
from core_app.accepted import Accepted
from infra_app.models import Agent, Zone
from operations_app.models import Command, Operation
from tests.unit.operations_app.toys import FINAL, HostVoice, begin, problem, progress, the_command
from tests.unit.people import Person

FIELDS = (
    "id kind target account state direction may_cancel cancel_requested_at step steps percent progress error result "
    "created_at started_at finished_at requested_by commands"
)
COMMAND_FIELDS = (
    "id operation agent kind state outcome agent_state attempt attempts epoch seq created_at sent_at started_at "
    "finished_at evidence error progress"
)


@pytest.fixture
def operation(host: HostVoice, zone: Zone) -> Operation:
    return begin("toy.deploy", zone, host)


def _get(person: Person, path: str) -> dict[str, Any]:
    answer = person.get(f"/api/v1/{path}")
    assert answer.status_code == 200, answer.content
    body: dict[str, Any] = answer.json()
    return body


def test_an_operation_shows_how_far_it_is(olga: Person, host: HostVoice, zone: Zone, operation: Operation) -> None:
    shown = _get(olga, f"operations/{operation.pk}/")
    assert set(shown) == set(FIELDS.split())
    assert shown["target"] == {"type": "zone", "id": str(zone.pk), "name": "zone1"}
    assert (shown["state"], shown["step"], shown["percent"]) == ("pending", "check", 0)
    assert shown["steps"] == ["check", "fetch", "start"]
    assert shown["commands"] == [str(the_command(operation).pk)]
    seen = [0]
    host.says(the_command(operation), "COMPLETED")
    command = the_command(operation)
    for done in (10, 50, 100):
        host.says(command, "PROCESSING", progress=progress(done, 100, rate=7))
        shown = _get(olga, f"operations/{operation.pk}/")
        seen.append(shown["percent"])
    assert shown["progress"] == {"done_bytes": 100, "total_bytes": 100, "rate": 7, "eta_seconds": 0, "message": ""}
    host.says(command, "COMPLETED")
    seen.append(_get(olga, f"operations/{operation.pk}/")["percent"])
    host.says(the_command(operation), "COMPLETED")
    shown = _get(olga, f"operations/{operation.pk}/")
    seen.append(shown["percent"])
    assert seen == sorted(seen)
    assert seen[-2:] == [66, 100]
    assert (shown["state"], shown["step"], shown["may_cancel"]) == ("succeeded", None, False)
    assert len(shown["commands"]) == 3


def test_a_failed_one_says_cause_consequence_and_remedy(olga: Person, host: HostVoice, operation: Operation) -> None:
    host.says(the_command(operation), "FAILED", problem=problem("404"))
    error = _get(olga, f"operations/{operation.pk}/")["error"]
    assert error == {"code": "broken", "cause": "404", "consequence": "Nothing was done.", "remedy": "Mend it."}


def test_polling_is_cheap(olga: Person, host: HostVoice, operation: Operation) -> None:
    path = f"/api/v1/operations/{operation.pk}/"
    etag = olga.get(path)["ETag"]
    assert olga.get(path, HTTP_IF_NONE_MATCH=etag).status_code == 304
    host.says(the_command(operation), "PROCESSING", progress=progress(1, 2))
    assert olga.get(path, HTTP_IF_NONE_MATCH=etag).status_code == 200


def test_a_cancel_answers_202_with_the_operation_and_a_second_409_with_the_reason(
    olga: Person, operation: Operation
) -> None:
    answer = olga.post(f"/api/v1/operations/{operation.pk}/cancel/")
    assert answer.status_code == 202
    assert answer["Location"] == f"/api/v1/operations/{operation.pk}/"
    assert (answer.json()["id"], answer.json()["may_cancel"]) == (str(operation.pk), False)
    assert answer.json()["cancel_requested_at"] is not None
    answer = olga.post(f"/api/v1/operations/{operation.pk}/cancel/")
    assert (answer.status_code, answer["Content-Type"]) == (409, "application/problem+json")
    assert answer.json()["operation"] == str(operation.pk)


def test_lists_are_filtered(olga: Person, host: HostVoice, zone: Zone, operation: Operation) -> None:
    other = begin("toy.shared", zone, host)
    host.says(the_command(other), "COMPLETED")
    for query, expected in {
        "state=succeeded": [other],
        "kind=toy.deploy": [operation],
        f"target_id={zone.pk}": [other, operation],
        "target_type=volume": [],
        f"target_type=zone&target_id={zone.pk}&state=pending": [operation],
    }.items():
        results = _get(olga, f"operations/?{query}")["results"]
        assert [row["id"] for row in results] == [str(row.pk) for row in expected], query
    assert olga.get("/api/v1/operations/?target=x").status_code == 400
    commands = _get(olga, f"commands/?operation={other.pk}&state=COMPLETED&agent={host.agent.pk}")["results"]
    assert [row["id"] for row in commands] == [str(the_command(other).pk)]


def test_an_account_sees_and_cancels_its_own_only(
    alice: Person, charlie: Person, rita: Person, acme: Account, operation: Operation
) -> None:
    path = f"/api/v1/operations/{operation.pk}/"
    assert alice.get(path).status_code == 404
    Operation.objects.filter(pk=operation.pk).update(account=acme)
    assert alice.get(path).status_code == 200
    assert charlie.get(path).status_code == 404
    assert charlie.post(f"{path}cancel/").status_code == 404
    assert rita.post(f"{path}cancel/").status_code == 403
    command = the_command(operation)
    assert [row["id"] for row in _get(alice, "commands/")["results"]] == [str(command.pk)]
    assert _get(charlie, "commands/")["results"] == []
    assert alice.post(f"/api/v1/commands/{command.pk}/reconcile/").status_code == 403
    assert _get(alice, f"operations/?account={acme.pk}")["results"][0]["id"] == str(operation.pk)
    assert alice.post(f"{path}cancel/").status_code == 202


def test_a_command_shows_its_attempts_and_evidence_and_no_payload(olga: Person, host: HostVoice, zone: Zone) -> None:
    command = the_command(begin("toy.shared", zone, host))
    host.says(command, "STARTED")
    host.says(command, "INTERRUPTED")
    host.answers(command)
    shown = _get(olga, f"commands/{command.pk}/")
    assert set(COMMAND_FIELDS.split()) <= set(shown)
    assert not {"payload", "sealed", "answer"} & set(shown)
    assert (shown["state"], shown["attempt"], shown["epoch"], shown["seq"]) == ("SENT", 2, host.epoch, 1)
    assert [(a["number"], a["ended"], a["times_sent"]) for a in shown["attempts"]] == [
        (1, "INTERRUPTED", 1),
        (2, "", 1),
    ]
    assert shown["evidence"]["verdict"] == "redo"


def test_a_command_in_doubt_is_asked_about_at_once(olga: Person, host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.shared", zone, host)
    command = the_command(operation)
    path = f"/api/v1/commands/{command.pk}/reconcile/"
    assert olga.post(path).status_code == 409
    Command.objects.update(state="RECONCILE_FAILED")
    answer = olga.post(path)
    assert (answer.status_code, answer.json()["id"]) == (202, str(operation.pk))
    host.answers(command, evidence=FINAL)
    assert command.outcome == "done"
    Command.objects.update(state="INTERRUPTED")
    Agent.objects.update(state="disconnected")
    assert "disconnected" in olga.post(path).json()["cause"]


def test_a_list_costs_the_same_queries_however_long_it_is(olga: Person, host: HostVoice, zone: Zone) -> None:
    def queries(path: str) -> int:
        with CaptureQueriesContext(connection) as seen:
            _get(olga, path)
        return len(seen)

    begin("toy.shared", zone, host, host)
    _get(olga, "operations/")  # notes the token's use
    before = {path: queries(path) for path in ("operations/", "commands/")}
    for _ in range(5):
        begin("toy.deploy", zone, host)
    assert {path: queries(path) for path in before} == before


def test_an_operation_of_a_kind_that_is_not_known_any_more_is_still_shown(olga: Person, operation: Operation) -> None:
    Operation.objects.update(kind="of another version")
    shown = _get(olga, "operations/")["results"][0]
    assert (shown["steps"], shown["step"], shown["may_cancel"], shown["percent"]) == ([], None, False, 0)


def test_whoever_answers_202_gives_the_operation(operation: Operation) -> None:
    assert Accepted(operation).data["id"] == str(operation.pk)
