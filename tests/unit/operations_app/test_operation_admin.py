"""The admin's pages of operations: two lanes, evidence, journal, and the buttons."""

import pytest
from django.db.models import Model
from django.test import Client
from django.urls import reverse

from accounts_app.models import Role, User
from infra_app.models import Zone
from operations_app.models import Command, Operation
from tests.unit.operations_app.toys import FINAL, HostVoice, begin, problem, the_command
from tests.unit.people import Person


@pytest.fixture
def desk(client: Client, host: HostVoice) -> Client:
    """The admin, with Ada at it."""
    client.force_login(User.objects.create_superuser("ada", password=None, role=Role.ADMIN))
    return client


@pytest.fixture
def operation(host: HostVoice, zone: Zone) -> Operation:
    return begin("toy.shared", zone, host, exclusive=[("idea", zone.pk)])


def _page(desk: Client, path: str) -> str:
    answer = desk.get(path)
    assert answer.status_code == 200, path
    return answer.content.decode()


def _path(row: Model, deed: str = "change") -> str:
    return reverse(f"admin:operations_app_{row._meta.model_name}_{deed}", args=[row.pk])


def _press(desk: Client, row: Model, deed: str) -> str:
    return desk.post(_path(row, deed), follow=True).content.decode()


def test_an_operations_page_shows_its_commands_its_evidence_and_its_timeline(
    desk: Client, host: HostVoice, operation: Operation
) -> None:
    command = the_command(operation)
    host.says(command, "STARTED")
    host.says(command, "INTERRUPTED", problem=problem("the agent died"))
    host.answers(command, evidence=FINAL)
    page = _page(desk, _path(operation))
    for text in ("template.download", "reconciled", "the verified file is under its final name"):
        assert text in page
    lanes = page[page.index('class="lanes"') :]
    kinds = ["operation.created", "command.sent", "command.started", "command.interrupted", "command.reconciled"]
    places = [lanes.index(kind) for kind in [*kinds, "operation.succeeded"]]
    assert places == sorted(places)
    sides = [lanes[: lanes.index(kind)].rpartition("<li class=")[2].partition(" ")[0] for kind in kinds]
    assert sides == ['"by-server', '"by-server', '"by-agent', '"by-agent', '"by-server']
    page = _page(desk, _path(command))
    assert "the verified file is under its final name" in page
    assert "INTERRUPTED" in page[page.index("The agent&#x27;s journal") :]


@pytest.mark.parametrize("model", [Operation, Command])
def test_rows_of_the_machine_are_to_look_at_only(desk: Client, operation: Operation, model: type[Model]) -> None:
    row = model._default_manager.get()
    page = _page(desk, _path(row))
    assert 'name="_save"' not in page
    assert desk.post(_path(row), {"state": "failed"}).status_code == 405
    assert desk.get(_path(row).replace(f"{row.pk}/change/", "add/")).status_code == 403
    assert desk.post(_path(row, "delete"), {"post": "yes"}).status_code == 403
    assert model._default_manager.filter(pk=row.pk, state=row.state).exists()  # type: ignore[attr-defined]


def test_lists_are_filtered_by_state_and_found_by_id(desk: Client, operation: Operation) -> None:
    path = reverse("admin:operations_app_operation_changelist")
    for query in ("state=pending", "kind=toy.shared", f"q={operation.pk}", f"q={operation.target_id}", "q=ZON"):
        assert str(operation.pk) in _page(desk, f"{path}?{query}"), query
    for query in ("state=failed", "kind=toy.deploy", f"q={the_command(operation).pk}", "q=other"):
        assert str(operation.pk) not in _page(desk, f"{path}?{query}"), query
    path = reverse("admin:operations_app_command_changelist")
    for query in ("state=SENT", f"q={operation.pk}"):
        assert str(the_command(operation).pk) in _page(desk, f"{path}?{query}"), query


def test_the_cancel_button_asks_then_cancels_and_says_why_it_cannot(desk: Client, operation: Operation) -> None:
    assert _path(operation, "cancel") in _page(desk, _path(operation))
    assert "is put back, step by step" in _page(desk, _path(operation, "cancel"))
    assert "Cancel: accepted" in _press(desk, operation, "cancel")
    operation.refresh_from_db()
    assert operation.cancel_requested_at is not None
    assert _path(operation, "cancel") not in _page(desk, _path(operation))
    page = _press(desk, operation, "cancel")
    for text in ("already being put back", "Nothing was changed", "<b>Remedy</b>", "In the way"):
        assert text in page


def test_the_reconcile_button_asks_and_says_why_it_cannot(desk: Client, host: HostVoice, operation: Operation) -> None:
    command = the_command(operation)
    assert _path(operation, "reconcile") not in _page(desk, _path(operation))
    assert "None of its commands is in doubt" in _press(desk, operation, "reconcile")
    assert "There is nothing to reconcile" in _press(desk, command, "reconcile")
    for row in (operation, command):
        Command.objects.update(state="INTERRUPTED")
        assert _path(row, "reconcile") in _page(desk, _path(row))
        assert "Reconcile now: accepted" in _press(desk, row, "reconcile")
    assert len(host.hears("probe")) == 2


def test_who_only_reads_sees_no_buttons_and_presses_none(desk: Client, rita: Person, operation: Operation) -> None:
    desk.force_login(rita.user)
    page = _page(desk, _path(operation))
    assert "toy.shared" in page
    assert "formaction" not in page
    assert _path(operation, "cancel") not in page
    assert desk.post(_path(operation, "cancel")).status_code == 403
    operation.refresh_from_db()
    assert operation.cancel_requested_at is None


def test_what_changes_is_fetched_alone_and_only_when_it_changed(
    desk: Client, host: HostVoice, operation: Operation
) -> None:
    first = desk.get(_path(operation), headers={"X-Live": "1"})
    assert b"<html" not in first.content
    assert b"csrfmiddlewaretoken" not in first.content
    again = desk.get(_path(operation), headers={"X-Live": "1", "If-None-Match": first["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    host.says(the_command(operation), "STARTED")
    changed = desk.get(_path(operation), headers={"X-Live": "1", "If-None-Match": first["ETag"]})
    assert changed.status_code == 200
    assert b"command.started" in changed.content


def test_what_nobody_could_find_out_is_settled_by_a_person_who_saw_what_it_would_do(
    desk: Client, host: HostVoice, zone: Zone
) -> None:
    operation = begin("toy.shared", zone, host)
    assert _path(operation, "settle") not in _page(desk, _path(operation))
    Command.objects.update(state="RECONCILE_FAILED")
    Operation.objects.update(state="needs_attention")
    assert _path(operation, "settle") in _page(desk, _path(operation))
    word = {"verdict": "undone", "note": "the file is gone"}
    page = desk.post(_path(operation, "settle"), word | {"preview": "1"}).content.decode()
    assert "&quot;direction&quot;: &quot;undo&quot;" in page
    operation.refresh_from_db()
    assert (operation.state, operation.direction) == ("needs_attention", "do")
    assert "This field is required" in desk.post(_path(operation, "settle"), {"verdict": "done"}).content.decode()
    assert desk.post(_path(operation, "settle"), word)["Location"] == _path(operation)
    assert "ada settled" in _page(desk, _path(operation))
    assert "Only an operation that needs attention" in desk.post(_path(operation, "settle"), word).content.decode()
