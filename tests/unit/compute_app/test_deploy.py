"""Deployment: each step, its failure and its cancel; many that wait for one download."""

from collections.abc import Iterator
from typing import Any

import pytest

from agents.protocol.kinds import Disk, ImageFile
from compute_app.models import VM, Volume, VolumeFile
from core_app.errors import Busy, InvalidInput, NoRoom, WrongState
from infra_app.actions import zone_create
from infra_app.models import Agent, StoragePool, Zone
from operations_app.models import Command, Operation, Waiter
from templates_app.actions import template_prepare
from templates_app.models import Placement, Template
from tests.unit.compute_app.cloud import MIB, deploy, deployed, nothing_held, shown, volume_states
from tests.unit.people import Person
from tests.unit.templates_app.fleet import GIB, Fleet, alarms, download_of, error_of, in_transaction, setting, state_of


class TestTheWay:
    def test_download_volumes_start(self, fleet: Fleet, template: Template, host: Agent, pool: StoragePool) -> None:
        vm, operation = deploy(fleet, template, cpus=2, data_disk_sizes=[MIB, 2 * MIB])
        assert shown(vm) == ("creating", "off", "host1")
        assert volume_states(vm) == ["creating"] * 3

        download = fleet.the_open(operation)
        assert (download.kind, download.operation_id) == ("template.download", download_of(template, pool).pk)
        fleet.says(download, "COMPLETED")
        creations = {command.label: command for command in fleet.open(operation)}
        assert {command.kind for command in creations.values()} == {"volume.create"}
        root, first, second = Volume.objects.filter(vm=vm).order_by("device_index")
        base = {"path": f"/pools/shared/template-{template.pk}.qcow2", "format": "qcow2"}
        assert creations[str(root.pk)].payload == {
            "volume_id": str(root.pk),
            "pool_path": "/pools/shared",
            "file_name": f"volume-{root.pk}.qcow2",
            "virtual_size_bytes": GIB,
            "backing": base,
        }
        assert creations[str(second.pk)].payload["backing"] is None
        assert creations[str(second.pk)].payload["virtual_size_bytes"] == 2 * MIB
        assert {command.lane for command in creations.values()} == {f"volume:{v.pk}" for v in (root, first, second)}
        for command in creations.values():
            assert not [command for command in fleet.open(operation) if command.kind == "vm.start"]
            fleet.says(command, "COMPLETED")
        assert volume_states(vm) == ["ready"] * 3

        start = fleet.the_open(operation)
        assert (start.kind, start.lane, start.payload["cpus"]) == ("vm.start", f"vm:{vm.pk}", 2)
        disks = [Disk.model_validate(disk) for disk in start.payload["disks"]]
        assert [disk.target for disk in disks] == ["vda", "vdb", "vdc"]
        assert disks[0].chain == (
            ImageFile(path=f"/pools/shared/volume-{root.pk}.qcow2", format="qcow2"),
            ImageFile(**base),
        )
        assert disks[1].chain == (ImageFile(path=f"/pools/shared/volume-{first.pk}.qcow2", format="qcow2"),)
        fleet.says(start, "COMPLETED")
        assert shown(vm) == ("running", "running", "host1")
        operation.refresh_from_db()
        assert (operation.state, operation.result) == ("succeeded", {"host": "host1", "accelerator": "tcg"})
        assert nothing_held()

    def test_a_template_that_is_there_is_used_at_once(
        self, fleet: Fleet, template: Template, pool: StoragePool
    ) -> None:
        fleet.on_pool(template, pool)
        _, operation = deploy(fleet, template)
        assert fleet.the_open(operation).kind == "volume.create"

    def test_without_a_start_it_is_stopped_and_takes_no_memory(
        self, fleet: Fleet, template: Template, pool: StoragePool
    ) -> None:
        vm = deployed(fleet, template, start=False, memory_bytes=1024 * GIB)
        assert shown(vm) == ("stopped", "off", None)
        assert "vm.start" not in fleet.kinds(Operation.objects.get(kind="vm.deploy"))

    def test_a_raw_template_is_the_base_as_raw(self, fleet: Fleet, host: Agent, pool: StoragePool) -> None:
        _, operation = deploy(fleet, fleet.template(format="raw"))
        fleet.works(operation, until="volume.create")
        assert fleet.the_open(operation).payload["backing"]["format"] == "raw"

    def test_the_root_disk_is_as_large_as_asked(self, fleet: Fleet, template: Template, pool: StoragePool) -> None:
        vm = deployed(fleet, template, root_size_bytes=5 * GIB)
        assert Volume.objects.get(vm=vm).size_bytes == 5 * GIB
        assert VolumeFile.objects.get(volume__vm=vm).virtual_size_bytes == 5 * GIB


class TestRefused:
    def test_an_iso(self, fleet: Fleet, host: Agent, pool: StoragePool) -> None:
        with pytest.raises(InvalidInput, match="ISO"):
            deploy(fleet, fleet.template(format="iso"))

    def test_a_root_disk_smaller_than_the_template(self, fleet: Fleet, template: Template, pool: StoragePool) -> None:
        with pytest.raises(InvalidInput) as refusal:
            deploy(fleet, template, root_size_bytes=GIB - 1)
        assert refusal.value.errors == {"root_size_bytes": [f"At least {GIB}."]}

    def test_a_template_that_is_not_ready(self, fleet: Fleet, host: Agent, pool: StoragePool) -> None:
        template, _ = fleet.registered()
        with pytest.raises(WrongState, match="allocated"):
            deploy(fleet, template)

    @pytest.fixture
    def far(self, fleet: Fleet) -> Zone:
        return zone_create("far")

    def test_places_of_another_zone_by_field(
        self, fleet: Fleet, template: Template, pool: StoragePool, far: Zone
    ) -> None:
        there = fleet.host("there", zone=far)
        with pytest.raises(InvalidInput) as refusal:
            deploy(fleet, template, host=there.host, pool=fleet.pool("there", there))
        assert list(refusal.value.errors) == ["pool", "host"]
        with pytest.raises(InvalidInput) as refusal:
            deploy(fleet, template, zone=far)
        assert list(refusal.value.errors) == ["zone"]

    def test_a_disabled_zone(self, fleet: Fleet, template: Template, pool: StoragePool) -> None:
        Zone.objects.update(enabled=False)
        fleet.zone.refresh_from_db()
        with pytest.raises(InvalidInput, match="disabled"):
            deploy(fleet, template)

    def test_a_host_that_is_not_up(self, fleet: Fleet, template: Template, host: Agent, pool: StoragePool) -> None:
        fleet.host("other")
        fleet.goes_away(host)
        with pytest.raises(WrongState, match="disconnected"):
            deploy(fleet, template, host=Agent.objects.get(pk=host.pk).host)

    def test_a_host_that_does_not_reach_the_pool(self, fleet: Fleet, template: Template, host: Agent) -> None:
        other = fleet.host("other")
        local = fleet.pool("local", host, local=True)
        with pytest.raises(NoRoom, match="host other: reaches none of the pools"):
            deploy(fleet, template, host=other.host, pool=local)

    @pytest.fixture(autouse=True)
    def nothing_is_left(self, db: None) -> Iterator[None]:
        yield
        assert not VM.objects.exists()
        assert not Volume.objects.exists()
        assert not Operation.objects.exclude(kind="template.register").exists()


class TestFailures:
    """What a step did is put back in reverse; rows say so only when the agents have."""

    def test_the_download(self, fleet: Fleet, template: Template, pool: StoragePool) -> None:
        vm, operation = deploy(fleet, template)
        fleet.fails(fleet.the_open(operation), "checksum_mismatch", elsewhere=False)
        assert (shown(vm), volume_states(vm)) == (("error", "off", None), ["removed"])
        assert error_of(vm)["code"] == error_of(operation)["code"] == "checksum_mismatch"
        assert (fleet.kinds(operation), state_of(operation)) == ([], "failed")
        assert nothing_held()

    def test_a_volume(self, fleet: Fleet, template: Template, pool: StoragePool) -> None:
        vm, operation = deploy(fleet, template, data_disk_sizes=[MIB])
        fleet.works(operation, until="volume.create")
        good, bad = fleet.open(operation)
        fleet.says(good, "COMPLETED")
        fleet.fails(bad, "pool_full", elsewhere=False)
        removals = fleet.open(operation)
        assert [command.kind for command in removals] == ["volume.remove"] * 2
        kept = {command.label: command.payload["keep_final"] for command in removals}
        # A file that the agent says it did not make is somebody's.
        assert kept == {good.label: False, bad.label: True}
        assert {command.label for command in removals} == {good.label, bad.label}
        assert volume_states(vm) == ["creating"] * 2
        fleet.says(removals[0], "COMPLETED")
        assert (shown(vm)[0], volume_states(vm)) == ("creating", ["creating"] * 2)
        fleet.says(removals[1], "COMPLETED")
        assert (shown(vm), volume_states(vm)) == (("error", "off", None), ["removed"] * 2)
        assert error_of(vm)["code"] == "pool_full"
        assert nothing_held()

    def test_the_start(self, fleet: Fleet, template: Template, pool: StoragePool) -> None:
        vm, operation = deploy(fleet, template)
        fleet.works(operation, until="vm.start")
        fleet.fails(fleet.the_open(operation), "vm_start_failed")
        removal = fleet.the_open(operation)
        assert (removal.kind, removal.direction) == ("volume.remove", "undo")
        assert removal.payload["file_names"] == [VolumeFile.objects.get(volume__vm=vm).file_name]
        assert (shown(vm)[0], volume_states(vm)) == ("creating", ["ready"])
        fleet.says(removal, "COMPLETED")
        assert (shown(vm), volume_states(vm)) == (("error", "off", None), ["removed"])
        assert fleet.kinds(operation) == ["volume.create", "vm.start", "volume.remove"]
        assert Placement.objects.get(pool=pool).state == "ready"

    def test_the_start_on_a_host_that_then_died(
        self, fleet: Fleet, template: Template, host: Agent, pool: StoragePool
    ) -> None:
        """Nobody knows whether it runs: nothing is removed and its memory stays promised until the host is back."""
        setting("command.redo.max", 0)
        vm, operation = deploy(fleet, template)
        fleet.works(operation, until="vm.start")
        start = fleet.the_open(operation)
        fleet.says(start, "STARTED")
        fleet.says(start, "INTERRUPTED")
        fleet.answers(start, power_state="off")
        fleet.goes_away(host)
        fleet.sweeps()
        stop = fleet.the_open(operation)
        assert (stop.kind, stop.payload["mode"], stop.direction) == ("vm.stop", "force", "undo")
        assert (shown(vm), volume_states(vm)) == (("creating", "off", "host1"), ["ready"])
        fleet.comes_up(host)
        fleet.works(operation)
        assert (shown(vm), volume_states(vm)) == (("error", "off", None), ["removed"])
        assert fleet.kinds(operation) == ["volume.create", "vm.start", "vm.stop", "volume.remove"]

    def test_a_removal_that_fails_is_shown_and_asked_for_again(
        self, fleet: Fleet, template: Template, pool: StoragePool
    ) -> None:
        vm, operation = deploy(fleet, template)
        fleet.works(operation, until="volume.create")
        fleet.fails(fleet.the_open(operation), "qemu_img_failed", cause="The first cause.")
        fleet.fails(fleet.the_open(operation), "image_in_use", cause="A later one.")
        assert (state_of(operation), error_of(operation)["cause"]) == ("needs_attention", "The first cause.")
        assert (shown(vm)[0], volume_states(vm)) == ("creating", ["creating"])
        assert alarms() == ["operation.needs_attention"]
        fleet.sweeps()
        fleet.works(operation)
        assert (state_of(operation), volume_states(vm)) == ("failed", ["removed"])
        assert error_of(vm)["cause"] == "The first cause."

    def test_a_template_that_is_gone_from_its_pool_is_had_again(
        self, fleet: Fleet, template: Template, pool: StoragePool
    ) -> None:
        placement = fleet.on_pool(template, pool)
        vm, operation = deploy(fleet, template)
        fleet.fails(fleet.the_open(operation), "backing_refused", elsewhere=False, cause="There is no such file.")
        fleet.works(operation)
        assert error_of(vm)["code"] == "backing_refused"
        assert (state_of(placement), error_of(placement)["cause"]) == ("failed", "There is no such file.")
        assert alarms() == ["placement.damaged"]
        _, second = deploy(fleet, template)
        assert fleet.the_open(second).kind == "template.download"
        assert fleet.the_open(second).payload["pinned_sha256"] == template_sha256(template)
        assert fleet.works(second).state == "succeeded"
        assert state_of(placement) == "ready"

    def test_in_doubt_it_goes_on_with_what_is_true(
        self, fleet: Fleet, template: Template, host: Agent, pool: StoragePool
    ) -> None:
        vm, operation = deploy(fleet, template)
        fleet.works(operation, until="vm.start")
        start = fleet.the_open(operation)
        fleet.says(start, "STARTED")
        fleet.comes_up(host)
        start.refresh_from_db()
        assert start.state == "RECONCILING"
        fleet.answers(start, power_state="running", accelerator="kvm")
        assert shown(vm) == ("running", "running", "host1")
        operation.refresh_from_db()
        assert operation.result == {"host": "host1", "accelerator": "kvm"}

    def test_one_that_kills_its_agent_each_time_is_put_back(
        self, fleet: Fleet, template: Template, pool: StoragePool
    ) -> None:
        setting("command.redo.max", 0)
        vm, operation = deploy(fleet, template)
        fleet.works(operation, until="vm.start")
        start = fleet.the_open(operation)
        fleet.says(start, "STARTED")
        fleet.says(start, "INTERRUPTED")
        fleet.answers(start, power_state="off")
        assert fleet.the_open(operation).kind == "vm.stop"
        fleet.works(operation)
        assert (shown(vm)[0], volume_states(vm)) == ("error", ["removed"])


def template_sha256(template: Template) -> str:
    template.refresh_from_db()
    assert template.sha256
    return template.sha256


CANCELLED_AT = {
    # moment: the commands that are out then
    "while it waits": "template.download",
    "volumes are to be made": "volume.create",
    "the VM is to be started": "vm.start",
}


class TestCancelled:
    @pytest.mark.parametrize("moment", CANCELLED_AT)
    @pytest.mark.parametrize("in_time", [True, False])
    def test_at_each_step_all_is_put_back(
        self, fleet: Fleet, template: Template, pool: StoragePool, moment: str, in_time: bool
    ) -> None:
        """Also when the agent was done before the cancel came: then it undoes what it has done."""
        vm, operation = deploy(fleet, template)
        fleet.works(operation, until=CANCELLED_AT[moment])
        sent = fleet.open(operation)
        fleet.cancels(operation)
        for command in sent:
            fleet.says(command, "CANCELLED" if in_time else "COMPLETED")
        while commands := fleet.open(operation):
            for command in commands:
                assert command.direction == "undo"
                fleet.says(command, "COMPLETED")
        finished_first = moment == "the VM is to be started" and not in_time
        if finished_first:
            assert (shown(vm), state_of(operation)) == (("running", "running", "host1"), "succeeded")
        else:
            assert (shown(vm), volume_states(vm)) == (("error", "off", None), ["removed"])
            assert state_of(operation) == "cancelled"
            assert error_of(vm)["code"] == "cancelled"
        assert nothing_held()

    def test_only_what_was_begun_is_removed(
        self, fleet: Fleet, template: Template, host: Agent, pool: StoragePool
    ) -> None:
        vm, operation = deploy(fleet, template, data_disk_sizes=[MIB, MIB, MIB])
        fleet.works(operation, until="volume.create")
        made, broken, in_doubt, waiting = fleet.open(operation)
        fleet.says(in_doubt, "STARTED")
        fleet.cancels(operation)
        fleet.says(made, "COMPLETED")
        fleet.fails(broken, "qemu_img_failed")
        fleet.says(in_doubt, "INTERRUPTED")
        fleet.answers(in_doubt)
        fleet.says(waiting, "CANCELLED")
        assert {command.label for command in fleet.open(operation)} == {made.label, broken.label, in_doubt.label}
        fleet.works(operation)
        assert (shown(vm), volume_states(vm)) == (("error", "off", None), ["removed"] * 4)

    def test_a_second_attempt_that_is_cancelled_leaves_what_the_first_made(
        self, fleet: Fleet, template: Template, host: Agent, pool: StoragePool
    ) -> None:
        fleet.on_pool(template, pool)
        _, operation = deploy(fleet, template)
        creation = fleet.the_open(operation)
        fleet.says(creation, "STARTED")
        fleet.says(creation, "INTERRUPTED")
        fleet.goes_away(host)
        Agent.objects.filter(pk=host.pk).update(state="maintenance")  # it answers, and is sent nothing
        fleet.sweeps()
        fleet.answers(creation)
        creation.refresh_from_db()
        assert (creation.state, creation.attempt, creation.sent_at) == ("CREATED", 2, None)
        fleet.cancels(operation)
        assert fleet.the_open(operation).kind == "volume.remove"

    def test_what_was_never_sent_is_not_removed(
        self, fleet: Fleet, template: Template, host: Agent, pool: StoragePool
    ) -> None:
        vm, operation = deploy(fleet, template, data_disk_sizes=[MIB])
        download = fleet.the_open(operation)
        fleet.goes_away(host)
        fleet.says(download, "COMPLETED")
        assert {command.state for command in fleet.open(operation)} == {"CREATED"}
        assert fleet.cancels(operation).state == "cancelled"
        assert (fleet.kinds(operation), volume_states(vm)) == (["volume.create"] * 2, ["removed"] * 2)

    def test_in_mid_start_in_doubt_it_is_stopped_by_force(
        self, fleet: Fleet, template: Template, pool: StoragePool
    ) -> None:
        vm, operation = deploy(fleet, template)
        fleet.works(operation, until="vm.start")
        start = fleet.the_open(operation)
        fleet.says(start, "STARTED")
        fleet.cancels(operation)
        fleet.says(start, "INTERRUPTED")
        fleet.answers(start, power_state="off")
        assert start.outcome == "undone"
        assert fleet.the_open(operation).kind == "vm.stop"
        fleet.works(operation)
        assert (shown(vm)[0], volume_states(vm)) == ("error", ["removed"])

    def test_what_was_never_sent_never_starts(
        self, fleet: Fleet, template: Template, host: Agent, pool: StoragePool
    ) -> None:
        fleet.on_pool(template, pool)
        vm, operation = deploy(fleet, template)
        creation = fleet.the_open(operation)
        fleet.goes_away(host)
        fleet.says(creation, "COMPLETED")
        start = fleet.the_open(operation)
        assert (start.kind, start.state) == ("vm.start", "CREATED")
        fleet.cancels(operation)
        start.refresh_from_db()
        assert (start.state, start.sent_at) == ("CANCELLED", None)
        fleet.comes_up(host)
        fleet.works(operation)
        assert (shown(vm)[0], state_of(operation)) == ("error", "cancelled")


class TestWaiting:
    def test_it_shows_what_the_download_shows(
        self, fleet: Fleet, template: Template, pool: StoragePool, alice: Person
    ) -> None:
        def progress() -> dict[str, Any]:
            answer = alice.get(f"/api/v1/operations/{operation.pk}/").json()
            return {name: answer["progress"][name] for name in ("done_bytes", "message")} | {"step": answer["step"]}

        _, operation = deploy(fleet, template)
        download = fleet.the_open(operation)
        fleet.fails(download, "pool_unavailable", cause="The pool's folder is gone.")
        step = "template on the pool"
        again = "The pool's folder is gone. It is tried again."
        assert progress() == {"done_bytes": 0, "message": again, "step": step}
        fleet.shows(fleet.the_open(operation), 5, 10, "from mirror")
        assert progress() == {"done_bytes": 5, "message": "from mirror", "step": step}

    @pytest.fixture
    def three(self, fleet: Fleet, template: Template, pool: StoragePool) -> list[tuple[VM, Operation]]:
        return [deploy(fleet, template, name=f"vm{number}") for number in range(3)]

    def test_all_wait_for_one_download(
        self, fleet: Fleet, template: Template, pool: StoragePool, three: list[tuple[VM, Operation]]
    ) -> None:
        assert Operation.objects.filter(kind="template.download").count() == 1
        assert Command.objects.filter(kind="template.download").count() == 1
        assert Waiter.objects.filter(awaited=download_of(template, pool)).count() == 3
        for _, operation in three:
            fleet.works(operation)
        assert [shown(vm)[0] for vm, _ in three] == ["running"] * 3
        assert nothing_held()

    def test_all_fail_with_its_reason(self, fleet: Fleet, three: list[tuple[VM, Operation]]) -> None:
        fleet.fails(fleet.the_open(three[0][1]), "checksum_mismatch", elsewhere=False)
        for vm, operation in three:
            assert (shown(vm)[0], state_of(operation)) == ("error", "failed")
            assert error_of(vm)["code"] == "checksum_mismatch"
        assert nothing_held()

    def test_the_last_that_goes_cancels_it(
        self, fleet: Fleet, template: Template, pool: StoragePool, three: list[tuple[VM, Operation]]
    ) -> None:
        download = download_of(template, pool)
        command = fleet.the_open(download)
        for number, (vm, operation) in enumerate(three):
            download.refresh_from_db()
            assert download.cancel_requested_at is None, f"{number} of 3 are gone"
            assert fleet.cancels(operation).state == "cancelled"
            assert shown(vm)[0] == "error"
        download.refresh_from_db()
        assert download.cancel_requested_at
        fleet.says(command, "CANCELLED")
        assert Placement.objects.get(pool=pool).state == "absent"
        assert nothing_held()

    def test_a_download_that_somebody_prepared_goes_on_without_waiters(
        self, fleet: Fleet, template: Template, pool: StoragePool, three: list[tuple[VM, Operation]]
    ) -> None:
        download = in_transaction(template_prepare, template, pool)
        assert download == download_of(template, pool)
        for _, operation in three:
            fleet.cancels(operation)
        fleet.sweeps()
        download.refresh_from_db()
        assert download.cancel_requested_at is None
        fleet.works(download)
        assert (state_of(download), Placement.objects.get(pool=pool).state) == ("succeeded", "ready")

    def test_when_a_person_cancels_it_the_deployments_say_so(
        self, fleet: Fleet, template: Template, pool: StoragePool, three: list[tuple[VM, Operation]]
    ) -> None:
        download = download_of(template, pool)
        fleet.cancels(download)
        fleet.says(fleet.the_open(download), "CANCELLED")
        for vm, operation in three:
            assert (shown(vm)[0], state_of(operation)) == ("error", "failed")
            assert "template.download" in error_of(vm)["cause"]

    def test_who_comes_while_it_is_cancelled_is_told_to_come_again(
        self, fleet: Fleet, template: Template, pool: StoragePool, three: list[tuple[VM, Operation]]
    ) -> None:
        download = download_of(template, pool)
        for _, operation in three:
            fleet.cancels(operation)
        with pytest.raises(Busy) as refusal:
            deploy(fleet, template)
        assert refusal.value.operation == str(download.pk)
        fleet.says(fleet.the_open(download), "CANCELLED")
        assert deployed(fleet, template).state == "running"

    def test_cancelled_when_the_template_has_just_come(
        self, fleet: Fleet, template: Template, pool: StoragePool, three: list[tuple[VM, Operation]]
    ) -> None:
        """The download is over, and the worker died before it could tell: the cancel wins, the rest go on."""
        download = download_of(template, pool)
        Operation.objects.filter(pk=download.pk).update(state="succeeded")
        Placement.objects.filter(pool=pool).update(state="ready", path="/pools/shared/t")
        Command.objects.filter(operation=download).update(state="COMPLETED")
        vm, operation = three[0]
        assert fleet.cancels(operation).state == "cancelled"
        assert (shown(vm)[0], fleet.kinds(operation)) == ("error", [])
        fleet.sweeps()
        assert [fleet.the_open(other).kind for _, other in three[1:]] == ["volume.create"] * 2

    def test_a_lost_bell_is_rung_again_by_the_sweep(
        self, fleet: Fleet, template: Template, pool: StoragePool, three: list[tuple[VM, Operation]]
    ) -> None:
        download = download_of(template, pool)
        Operation.objects.filter(pk=download.pk).update(state="failed", error={"code": "x", "cause": "It failed."})
        fleet.sweeps()
        assert {error_of(vm)["cause"] for vm, _ in three} == {"It failed."}
