"""Direct download: one operation a template and pool, up to three attempts, the first copy's bytes pinned."""

from collections.abc import Callable
from typing import Any

import pytest

from core_app.errors import Busy, InvalidInput, WrongState
from infra_app.actions import zone_create
from infra_app.models import Agent, PoolReach, StoragePool
from operations_app.models import Command, Operation
from templates_app.actions import template_prepare
from templates_app.models import Placement, Template
from tests.unit.templates_app.fleet import (
    GIB,
    SHA256,
    TEMPLATE_BYTES,
    Fleet,
    download_of,
    error_of,
    in_transaction,
    setting,
    state_of,
)

OTHER_BYTES = {"path": "/pools/x", "size_bytes": 1, "virtual_size_bytes": GIB, "sha256": "b" * 64}


def prepare(template: Template, pool: StoragePool) -> Operation:
    return in_transaction(template_prepare, template, pool)


def placement_on(pool: StoragePool) -> Placement:
    return Placement.objects.get(pool=pool)


class TestOne:
    def test_it_is_downloaded_and_then_there(self, fleet: Fleet, template: Template, pool: StoragePool) -> None:
        operation = prepare(template, pool)
        placement = placement_on(pool)
        assert (placement.state, placement.download_state, placement.percent) == ("downloading", "in_progress", 0)
        command = fleet.the_open(operation)
        fleet.shows(command, 25, 100)
        placement = placement_on(pool)
        assert (placement.percent, placement.progress["done_bytes"], placement.attempt) == (25, 25, 1)
        fleet.says(command, "COMPLETED")
        placement = placement_on(pool)
        assert (placement.state, placement.download_state, placement.percent) == ("ready", "downloaded", 100)
        assert placement.path == f"/pools/shared/template-{template.pk}.qcow2"
        assert (placement.size_bytes, placement.virtual_size_bytes) == (TEMPLATE_BYTES, GIB)
        assert (placement.mirror, placement.error, placement.progress) == (template.url, None, {})
        assert state_of(operation) == "succeeded"

    def test_who_comes_later_gets_the_same_operation(self, fleet: Fleet, template: Template, pool: StoragePool) -> None:
        first = prepare(template, pool)
        fleet.says(fleet.the_open(first), "STARTED")
        assert prepare(template, pool) == first
        assert Operation.objects.filter(kind="template.download").count() == 1

    def test_what_is_there_is_said_to_be_there(self, fleet: Fleet, template: Template, pool: StoragePool) -> None:
        fleet.works(prepare(template, pool))
        with pytest.raises(WrongState, match="already"):
            prepare(template, pool)

    def test_each_pool_has_its_own(self, fleet: Fleet, template: Template, host: Agent, pool: StoragePool) -> None:
        second = fleet.pool("second", host)
        operations = {prepare(template, pool), prepare(template, second)}
        assert len(operations) == 2
        for operation in operations:
            fleet.works(operation)
        assert {placement_on(each).state for each in (pool, second)} == {"ready"}

    def test_a_template_that_is_not_ready_is_refused(self, fleet: Fleet, host: Agent, pool: StoragePool) -> None:
        template, _ = fleet.registered()
        with pytest.raises(WrongState, match="allocated"):
            prepare(template, pool)
        assert not Placement.objects.exists()

    def test_a_pool_of_another_zone_is_refused(self, fleet: Fleet) -> None:
        fleet.host("here")
        template = fleet.checked(zones=[fleet.zone])
        far = fleet.pool("far", fleet.host("there", zone=zone_create("far")))
        with pytest.raises(InvalidInput) as refusal:
            prepare(template, far)
        assert list(refusal.value.errors) == ["pool"]


class TestWhoDownloads:
    @pytest.mark.parametrize("away", ["disconnected", "maintenance", "ahead", "unreachable"])
    def test_nobody_who_could(
        self, fleet: Fleet, template: Template, host: Agent, pool: StoragePool, away: str
    ) -> None:
        if away == "ahead":
            Agent.objects.filter(pk=host.pk).update(ahead=True)
        elif away == "unreachable":
            PoolReach.objects.update(reachable=False)
        else:
            Agent.objects.filter(pk=host.pk).update(state=away)
        with pytest.raises(WrongState) as refusal:
            prepare(template, pool)
        assert refusal.value.code == "no_host_reaches_pool"
        assert not Placement.objects.filter(pool=pool).exists()
        assert not Operation.objects.filter(kind="template.download").exists()

    def test_a_local_pool_asks_its_own_host_each_time(self, fleet: Fleet, template: Template, host: Agent) -> None:
        fleet.host("other")
        pool = fleet.pool("local", host, local=True)
        operation = prepare(template, pool)
        asked = fail_all(fleet, operation)
        assert asked == [host] * 3
        assert placement_on(pool).state == "failed"

    def test_a_shared_pool_asks_three_different_ones(self, fleet: Fleet) -> None:
        hosts = [fleet.host(f"h{number}") for number in range(4)]
        template, pool = fleet.template(), fleet.pool("shared", *hosts)
        asked = fail_all(fleet, prepare(template, pool))
        assert len(asked) == len(set(asked)) == 3

    def test_a_host_alone_is_asked_again(
        self, fleet: Fleet, template: Template, host: Agent, pool: StoragePool
    ) -> None:
        assert fail_all(fleet, prepare(template, pool)) == [host] * 3

    def test_the_second_attempt_may_succeed(self, fleet: Fleet, template: Template, pool: StoragePool) -> None:
        operation = prepare(template, pool)
        fleet.fails(fleet.the_open(operation), cause="A bad day.")
        assert placement_on(pool).attempt == 2
        assert placement_on(pool).progress == {"message": "A bad day. It is tried again."}
        fleet.works(operation)
        assert (placement_on(pool).state, error_of(operation)) == ("ready", {})

    def test_each_reason_is_kept(self, fleet: Fleet, template: Template, pool: StoragePool) -> None:
        operation = prepare(template, pool)
        fail_all(fleet, operation)
        error = error_of(placement_on(pool))
        assert [reason["reason"] for reason in error["hosts"]] == ["Try 1.", "Try 2.", "Try 3."]
        assert error["remedy"]
        assert state_of(operation) == "failed"

    def test_wrong_bytes_are_final(self, fleet: Fleet, template: Template, pool: StoragePool) -> None:
        operation = prepare(template, pool)
        fleet.fails(fleet.the_open(operation), "checksum_mismatch", elsewhere=False)
        assert (state_of(operation), fleet.kinds(operation)) == ("failed", ["template.download"])
        assert error_of(placement_on(pool))["code"] == "checksum_mismatch"

    def test_a_failed_one_is_downloaded_again_when_next_needed(
        self, fleet: Fleet, template: Template, pool: StoragePool
    ) -> None:
        first = prepare(template, pool)
        fail_all(fleet, first)
        second = prepare(template, pool)
        assert second != first
        assert (placement_on(pool).state, placement_on(pool).error) == ("downloading", None)
        fleet.works(second)
        assert placement_on(pool).state == "ready"


def fail_all(fleet: Fleet, operation: Operation) -> list[Agent]:
    asked: list[Agent] = []
    while commands := fleet.open(operation):
        (command,) = commands
        asked.append(command.agent)
        fleet.fails(command, cause=f"Try {len(asked)}.")
    return asked


class TestPinned:
    def test_the_first_copys_hash_goes_with_the_second_download(
        self, fleet: Fleet, template: Template, host: Agent, pool: StoragePool
    ) -> None:
        first = prepare(template, pool)
        assert fleet.the_open(first).payload["pinned_sha256"] is None
        fleet.works(first)
        template.refresh_from_db()
        assert template.sha256 == SHA256
        second = prepare(template, fleet.pool("second", host))
        assert fleet.the_open(second).payload["pinned_sha256"] == SHA256

    def test_of_two_first_copies_the_second_must_be_equal(
        self, fleet: Fleet, template: Template, host: Agent, pool: StoragePool
    ) -> None:
        second_pool = fleet.pool("second", host)
        first, second = prepare(template, pool), prepare(template, second_pool)
        late = fleet.the_open(second)
        fleet.works(first)
        fleet.says(late, "COMPLETED", answer=OTHER_BYTES)
        removal = fleet.the_open(second)
        assert (removal.kind, removal.agent, removal.direction) == ("template.remove", host, "undo")
        assert removal.payload["file_name"] == f"template-{template.pk}.qcow2"
        assert (placement_on(second_pool).state, state_of(second)) == ("downloading", "running")
        fleet.says(removal, "COMPLETED")
        assert (placement_on(second_pool).state, state_of(second)) == ("failed", "failed")
        assert error_of(placement_on(second_pool))["code"] == "content_changed"
        template.refresh_from_db()
        assert (template.sha256, template.size_bytes) == (SHA256, TEMPLATE_BYTES)
        assert placement_on(pool).state == "ready"


class TestInDoubt:
    @pytest.fixture
    def doubtful(self, fleet: Fleet, template: Template, pool: StoragePool) -> Command:
        command = fleet.the_open(prepare(template, pool))
        fleet.says(command, "STARTED")
        fleet.says(command, "INTERRUPTED")
        return command

    def test_a_verified_file_is_done(self, fleet: Fleet, pool: StoragePool, doubtful: Command) -> None:
        final = {"path": "/pools/shared/t", "size_bytes": 5, "virtual_size_bytes": 6, "sha256": SHA256}
        fleet.answers(doubtful, final=final)
        assert (doubtful.state, doubtful.outcome) == ("RECONCILED", "done")
        placement = placement_on(pool)
        assert (placement.state, placement.path, placement.size_bytes) == ("ready", "/pools/shared/t", 5)

    def test_a_part_is_gone_on_with(self, fleet: Fleet, pool: StoragePool, doubtful: Command) -> None:
        fleet.answers(doubtful, verified_offset=7, temporary_files=["part"])
        assert (doubtful.state, doubtful.attempt) == ("SENT", 2)
        fleet.works(doubtful.operation)
        assert placement_on(pool).state == "ready"

    def test_a_foreign_file_is_not_used(self, fleet: Fleet, pool: StoragePool, doubtful: Command) -> None:
        fleet.answers(doubtful, unverified_final=True)
        assert doubtful.outcome == "undone"
        removal = fleet.the_open(doubtful.operation)
        assert removal.kind == "template.remove"
        # VMs may start from it: nobody but a person removes it.
        assert removal.payload["keep_final"]
        fleet.says(removal, "COMPLETED")
        assert (placement_on(pool).state, state_of(doubtful.operation)) == ("failed", "failed")

    def test_one_that_kills_its_agent_each_time_ends(self, fleet: Fleet, pool: StoragePool, doubtful: Command) -> None:
        setting("command.redo.max", 1)
        fleet.answers(doubtful)
        fleet.says(doubtful, "STARTED")
        fleet.says(doubtful, "INTERRUPTED")
        fleet.answers(doubtful, temporary_files=["part"])
        assert fleet.the_open(doubtful.operation).kind == "template.remove"
        fleet.works(doubtful.operation)
        assert placement_on(pool).state == "failed"
        assert "interrupted" in error_of(placement_on(pool))["cause"]


class TestCancelled:
    @pytest.fixture
    def begun(self, fleet: Fleet, template: Template, pool: StoragePool) -> Command:
        command = fleet.the_open(prepare(template, pool))
        fleet.shows(command, 5, 10)
        fleet.cancels(command.operation)
        command.refresh_from_db()
        assert command.cancel_requested_at
        return command

    def test_one_that_waits_to_be_done_again_leaves_a_part_to_remove(
        self, fleet: Fleet, template: Template, pool: StoragePool
    ) -> None:
        operation = prepare(template, pool)
        command = fleet.the_open(operation)
        fleet.says(command, "STARTED")
        fleet.says(command, "INTERRUPTED")
        fleet.goes_away(command.agent)
        fleet.answers(command, verified_offset=7, temporary_files=["part"])
        assert (command.state, command.attempt) == ("CREATED", 2)
        fleet.cancels(operation)
        removal = fleet.the_open(operation)
        assert (removal.kind, removal.payload["keep_final"]) == ("template.remove", True)

    def test_on_the_agents_word_nothing_is_left(self, fleet: Fleet, pool: StoragePool, begun: Command) -> None:
        fleet.says(begun, "CANCELLED")
        assert (placement_on(pool).state, placement_on(pool).error) == ("absent", None)
        assert (state_of(begun.operation), fleet.kinds(begun.operation)) == ("cancelled", ["template.download"])

    def test_too_late_it_is_there(self, fleet: Fleet, pool: StoragePool, begun: Command) -> None:
        fleet.says(begun, "COMPLETED")
        assert (placement_on(pool).state, state_of(begun.operation)) == ("ready", "succeeded")

    def test_in_doubt_what_is_left_is_removed(self, fleet: Fleet, pool: StoragePool, begun: Command) -> None:
        fleet.says(begun, "INTERRUPTED")
        fleet.answers(begun, verified_offset=5, temporary_files=["part"])
        assert begun.outcome == "undone"
        fleet.works(begun.operation)
        assert fleet.kinds(begun.operation) == ["template.download", "template.remove"]
        assert (placement_on(pool).state, state_of(begun.operation)) == ("absent", "cancelled")

    def test_it_is_had_again_afterwards(
        self, fleet: Fleet, template: Template, pool: StoragePool, begun: Command
    ) -> None:
        fleet.says(begun, "CANCELLED")
        fleet.works(prepare(template, pool))
        assert placement_on(pool).state == "ready"

    def test_who_comes_while_it_goes_back_is_told_by_what(
        self, template: Template, pool: StoragePool, begun: Command
    ) -> None:
        """To join it would mean to be cancelled with it."""
        with pytest.raises(Busy) as refusal:
            prepare(template, pool)
        assert refusal.value.operation == str(begun.operation_id)

    def test_a_failure_on_another_host_is_not_what_a_cancelled_one_ended_of(
        self, fleet: Fleet, template: Template, pool: StoragePool
    ) -> None:
        operation = prepare(template, pool)
        fleet.fails(fleet.the_open(operation))
        fleet.cancels(operation)
        fleet.says(fleet.the_open(operation), "CANCELLED")
        assert (state_of(operation), placement_on(pool).state) == ("cancelled", "absent")


SAID_OF_REMOVALS: dict[str, Callable[[Fleet, Command], None]] = {
    "done": lambda fleet, command: fleet.says(command, "COMPLETED"),
    "found to be done": lambda fleet, command: interrupted(fleet, command, left=[]),
    "found half done": lambda fleet, command: interrupted(fleet, command, left=["part"]),
}


def interrupted(fleet: Fleet, command: Command, **evidence: Any) -> None:
    fleet.says(command, "STARTED")
    fleet.says(command, "INTERRUPTED")
    fleet.answers(command, **evidence)


@pytest.mark.parametrize("way", SAID_OF_REMOVALS)
def test_a_removal_ends_forward_however_its_end_is_known(
    fleet: Fleet, template: Template, pool: StoragePool, way: str
) -> None:
    operation = prepare(template, pool)
    interrupted(fleet, fleet.the_open(operation), unverified_final=True)
    SAID_OF_REMOVALS[way](fleet, fleet.the_open(operation))
    fleet.works(operation)
    assert (state_of(operation), download_of(template, pool)) == ("failed", operation)


def test_events_of_a_placement_are_its_templates_accounts(fleet: Fleet, template: Template, pool: StoragePool) -> None:
    operation = prepare(template, pool)
    assert (operation.account, placement_on(pool).account_id) == (fleet.account, fleet.account.pk)


def test_the_longest_names_fit_everywhere(fleet: Fleet, host: Agent) -> None:
    template = fleet.template("n" * 255)
    pool = fleet.pool("p" * 255, host)
    fleet.works(prepare(template, pool))
    assert placement_on(pool).state == "ready"
