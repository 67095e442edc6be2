"""The admin's pages of operations: everything to see, nothing to write, and two buttons."""

import pytest
from django.test import Client
from django.urls import reverse

from accounts_app.models import Role, User
from infra_app.models import Zone
from operations_app.models import Attempt, Command, Operation, Reservation, Waiter
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


def _act(desk: Client, model: type[Operation] | type[Command], action: str, pk: object) -> str:
    path = reverse(f"admin:operations_app_{model._meta.model_name}_changelist")
    return desk.post(path, {"action": action, "_selected_action": [str(pk)]}, follow=True).content.decode()


def test_an_operations_page_shows_its_commands_its_evidence_and_its_timeline(
    desk: Client, host: HostVoice, operation: Operation
) -> None:
    command = the_command(operation)
    host.says(command, "STARTED")
    host.says(command, "INTERRUPTED", problem=problem("the agent died"))
    host.answers(command, evidence=FINAL)
    page = _page(desk, reverse("admin:operations_app_operation_change", args=[operation.pk]))
    for text in ("template.download", "RECONCILED", "the verified file is under its final name"):
        assert text in page
    kinds = ["operation.created", "command.sent", "command.started", "command.interrupted", "command.reconciled"]
    places = [page.index(kind) for kind in [*kinds, "operation.succeeded"]]
    assert places == sorted(places)
    page = _page(desk, reverse("admin:operations_app_command_change", args=[command.pk]))
    assert "the verified file is under its final name" in page


@pytest.mark.parametrize("model", [Operation, Command, Attempt, Reservation, Waiter])
def test_rows_of_the_machine_are_to_look_at_only(
    desk: Client, host: HostVoice, zone: Zone, operation: Operation, model: type[Operation]
) -> None:
    begin("toy.joining", zone, host, awaited=str(operation.pk))
    name = f"admin:operations_app_{model._meta.model_name}"
    row = model.objects.first()
    assert row is not None
    assert str(row.pk) in _page(desk, reverse(f"{name}_changelist"))
    page = _page(desk, reverse(f"{name}_change", args=[row.pk]))
    assert 'name="_save"' not in page
    assert desk.post(reverse(f"{name}_change", args=[row.pk]), {"state": "failed"}).status_code == 403
    assert desk.get(reverse(f"{name}_add")).status_code == 403
    assert desk.post(reverse(f"{name}_delete", args=[row.pk]), {"post": "yes"}).status_code == 403


def test_lists_are_filtered_by_state_and_found_by_id(desk: Client, operation: Operation) -> None:
    path = reverse("admin:operations_app_operation_changelist")
    assert str(operation.pk) in _page(desk, f"{path}?state__exact=pending")
    assert str(operation.pk) not in _page(desk, f"{path}?state__exact=failed")
    assert str(operation.pk) in _page(desk, f"{path}?q={operation.pk}")
    path = reverse("admin:operations_app_command_changelist")
    assert str(the_command(operation).pk) in _page(desk, f"{path}?state__exact=SENT")


def test_the_cancel_button_cancels_and_says_why_it_cannot(desk: Client, operation: Operation) -> None:
    assert "is being cancelled" in _act(desk, Operation, "cancel", operation.pk)
    operation.refresh_from_db()
    assert operation.cancel_requested_at is not None
    assert "already being put back" in _act(desk, Operation, "cancel", operation.pk)


def test_the_reconcile_button_asks_and_says_why_it_cannot(desk: Client, host: HostVoice, operation: Operation) -> None:
    assert "No command of these is in doubt" in _act(desk, Operation, "reconcile", operation.pk)
    assert "There is nothing to reconcile" in _act(desk, Command, "reconcile", the_command(operation).pk)
    for model, pk in ((Operation, operation.pk), (Command, the_command(operation).pk)):
        Command.objects.update(state="INTERRUPTED")
        assert "is asked about" in _act(desk, model, "reconcile", pk)
    assert len(host.hears("probe")) == 2


def test_who_only_reads_has_no_buttons(desk: Client, rita: Person, operation: Operation) -> None:
    User.objects.filter(pk=rita.user.pk).update(is_staff=True)
    desk.force_login(User.objects.get(pk=rita.user.pk))
    _act(desk, Operation, "cancel", operation.pk)
    operation.refresh_from_db()
    assert operation.cancel_requested_at is None
