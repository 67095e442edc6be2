"""Volumes: create, attach, detach, resize and delete; what is sent, what is promised, and that each ends."""

from functools import partial
from typing import Any

import pytest

from accounts_app import limits
from accounts_app.actions import account_create
from compute_app.actions import (
    NewVolume,
    volume_attach,
    volume_create,
    volume_delete,
    volume_detach,
    volume_resize,
)
from compute_app.models import DATA_DISKS_MAX, VM, Volume
from core_app.errors import Busy, InvalidInput, LimitExceeded, NoRoom, WrongState
from core_app.models import Event
from infra_app.models import Agent, PoolReach, StoragePool, Zone
from operations_app.models import Operation
from templates_app.models import Template
from tests.unit.accounts_app.test_limits import used
from tests.unit.compute_app.cloud import MIB, at_once, existing, nothing_held, volume_states
from tests.unit.compute_app.test_power import destroy, start, stop
from tests.unit.templates_app.fleet import GIB, Fleet, alarms, error_of, in_transaction, state_of


@pytest.fixture
def running(fleet: Fleet, template: Template, pool: StoragePool, host: Agent) -> VM:
    return existing(fleet, template, pool, host)


@pytest.fixture
def stopped(fleet: Fleet, template: Template, pool: StoragePool) -> VM:
    return existing(fleet, template, pool, None, name="off")


@pytest.fixture
def volume(fleet: Fleet, pool: StoragePool) -> Volume:
    return created(fleet)


def create(fleet: Fleet, **changes: Any) -> tuple[Volume, Operation]:
    wanted = {"name": "data", "account": fleet.account, "zone": fleet.zone, "size_bytes": MIB, **changes}
    return in_transaction(volume_create, NewVolume(**wanted))


def created(fleet: Fleet, **changes: Any) -> Volume:
    volume, operation = create(fleet, **changes)
    assert fleet.works(operation).state == "succeeded", operation.error
    volume.refresh_from_db()
    return volume


def attach(volume: Volume, vm: VM) -> Operation:
    return in_transaction(volume_attach, volume, vm)


def attached(fleet: Fleet, volume: Volume, vm: VM) -> Volume:
    assert fleet.works(attach(volume, vm)).state == "succeeded"
    volume.refresh_from_db()
    return volume


def detach(volume: Volume) -> Operation:
    return in_transaction(volume_detach, volume)


def resize(volume: Volume, size_bytes: int) -> Operation:
    return in_transaction(volume_resize, volume, size_bytes)


def delete(volume: Volume) -> Operation:
    return in_transaction(volume_delete, volume)


def place_of(volume: Volume) -> tuple[str | None, int, bool]:
    """Name of its VM, device index, whether it outlives the VM."""
    volume.refresh_from_db()
    return volume.vm.name if volume.vm else None, volume.device_index, volume.outlives_vm


def sizes_of(volume: Volume) -> tuple[int, int]:
    """What is promised, and what a guest sees."""
    volume.refresh_from_db()
    assert volume.top is not None
    return volume.size_bytes, volume.top.virtual_size_bytes


class TestCreate:
    def test_it_is_ready_when_its_file_is_there(self, fleet: Fleet, pool: StoragePool) -> None:
        volume, operation = create(fleet)
        assert (state_of(volume), volume.vm) == ("creating", None)
        command = fleet.the_open(operation)
        assert (command.kind, command.payload["virtual_size_bytes"]) == ("volume.create", MIB)
        assert (command.payload["pool_path"], command.payload["backing"]) == (pool.path, None)
        fleet.says(command, "COMPLETED")
        assert (state_of(volume), state_of(operation), nothing_held()) == ("ready", "succeeded", True)
        assert used(fleet.account) == {"volumes": 1, "primary_storage_bytes": MIB}

    def test_the_pool_that_was_asked_for(self, fleet: Fleet, pool: StoragePool, host: Agent) -> None:
        other = fleet.pool("other", host, capacity_bytes=GIB)
        assert create(fleet, pool=other)[0].pool == other
        assert create(fleet)[0].pool == pool

    @pytest.mark.parametrize("way", ["fails", "is cancelled"])
    def test_one_that_is_not_made_leaves_nothing(self, fleet: Fleet, pool: StoragePool, way: str) -> None:
        volume, operation = create(fleet)
        command = fleet.the_open(operation)
        if way == "fails":
            fleet.fails(command, "pool_full")
            undo = fleet.the_open(operation)
            assert (undo.kind, undo.payload["keep_final"], state_of(volume)) == ("volume.remove", True, "creating")
            fleet.says(undo, "COMPLETED")
        else:
            fleet.cancels(operation)
            fleet.says(command, "CANCELLED")
        assert (state_of(volume), nothing_held()) == ("removed", True)
        assert state_of(operation) == ("failed" if way == "fails" else "cancelled")
        assert used(fleet.account) == {}

    def test_without_room_each_reason_is_named(self, fleet: Fleet, pool: StoragePool) -> None:
        with pytest.raises(NoRoom, match=r"pool shared: \d+ bytes are free"):
            create(fleet, size_bytes=200 * GIB)
        PoolReach.objects.update(reachable=False)
        with pytest.raises(NoRoom, match="reaches none of the pools"):
            create(fleet)
        assert not Volume.objects.exists()

    def test_a_limit_is_a_limit(self, fleet: Fleet, pool: StoragePool) -> None:
        limits.put(fleet.account, {"volumes": 1})
        create(fleet)
        with pytest.raises(LimitExceeded, match="1 volumes"):
            create(fleet)

    def test_what_cannot_be_is_refused_by_field(self, fleet: Fleet, pool: StoragePool) -> None:
        south = Zone.objects.create(name="south")
        closed = Zone.objects.create(name="closed", enabled=False)
        for changes, fields in (
            ({"size_bytes": MIB + 1}, ["size_bytes"]),
            ({"zone": south, "pool": pool}, ["pool"]),
            ({"zone": closed}, ["zone"]),
        ):
            with pytest.raises(InvalidInput) as refusal:
                create(fleet, **changes)
            assert list(refusal.value.errors) == fields
        assert not Volume.objects.exists()


class TestAttach:
    def test_to_a_running_vm(self, fleet: Fleet, running: VM, volume: Volume, host: Agent) -> None:
        operation = attach(volume, running)
        command = fleet.the_open(operation)
        assert (command.kind, command.agent, command.lane) == ("volume.attach", host, f"vm:{running.pk}")
        disk = command.payload["disk"]
        assert (disk["volume_id"], disk["target"]) == (str(volume.pk), "vdc")
        assert disk["chain"] == [{"path": f"/pools/shared/volume-{volume.pk}.qcow2", "format": "qcow2"}]
        assert place_of(volume) == (None, 0, True)
        fleet.says(command, "COMPLETED")
        assert (place_of(volume), nothing_held()) == (("vm", 2, True), True)

    def test_to_a_stopped_one_nobody_has_to_do_anything(self, fleet: Fleet, stopped: VM, volume: Volume) -> None:
        operation = attach(volume, stopped)
        assert (state_of(operation), place_of(volume)) == ("succeeded", ("off", 2, True))
        disks = fleet.the_open(start(stopped)).payload["disks"]
        assert [disk["target"] for disk in disks] == ["vda", "vdb", "vdc"]

    def test_a_failed_one_is_not_attached(self, fleet: Fleet, running: VM, volume: Volume) -> None:
        operation = attach(volume, running)
        fleet.fails(fleet.the_open(operation), "volume_not_attached")
        assert (state_of(operation), place_of(volume), nothing_held()) == ("failed", (None, 0, True), True)
        assert error_of(operation)["code"] == "volume_not_attached"

    @pytest.mark.parametrize(
        ("seen", "ends"),
        [
            ({"power_state": "running", "attached": True}, "succeeded"),
            ({"power_state": "off"}, "succeeded"),
            ({"power_state": "running"}, "again"),
            ({"power_state": "running", "attached": True, "mismatch": "as vdx"}, "cannot tell"),
        ],
    )
    def test_in_doubt_the_live_document_decides(
        self, fleet: Fleet, running: VM, volume: Volume, seen: dict[str, Any], ends: str
    ) -> None:
        operation = attach(volume, running)
        command = fleet.the_open(operation)
        fleet.says(command, "STARTED")
        fleet.says(command, "INTERRUPTED")
        fleet.answers(command, **seen)
        assert command.attempt == (2 if ends == "again" else 1)
        assert state_of(operation) == ("succeeded" if ends == "succeeded" else "running")
        assert (place_of(volume)[0] is not None) == (ends == "succeeded")

    def test_one_that_was_given_up_in_doubt_is_made_sure_of(self, fleet: Fleet, running: VM, volume: Volume) -> None:
        operation = attach(volume, running)
        command = fleet.the_open(operation)
        fleet.cancels(operation)
        fleet.says(command, "INTERRUPTED")
        fleet.answers(command, power_state="running")
        assert fleet.the_open(operation).kind == "volume.detach"
        fleet.works(operation)
        assert (state_of(operation), place_of(volume)) == ("cancelled", (None, 0, True))

    def test_a_gap_is_filled_and_the_24th_is_refused(self, fleet: Fleet, stopped: VM, pool: StoragePool) -> None:
        for index in range(2, DATA_DISKS_MAX + 1):
            Volume.objects.create(
                account=stopped.account,
                name="d",
                vm=stopped,
                device_index=index,
                pool=pool,
                size_bytes=1,
                state="ready",
            )
        volume = created(fleet)
        with pytest.raises(NoRoom, match="23 data disks"):
            attach(volume, stopped)
        Volume.objects.filter(vm=stopped, device_index=7).update(state="removed")
        assert place_of(attached(fleet, volume, stopped)) == ("off", 7, True)

    def test_its_pool_must_be_reached(self, fleet: Fleet, running: VM, stopped: VM) -> None:
        other = fleet.host("other")
        volume = created(fleet, pool=fleet.pool("local", other, local=True))
        with pytest.raises(WrongState, match="host1 does not reach pool local") as refusal:
            attach(volume, running)
        assert refusal.value.code == "pool_not_reached"
        with pytest.raises(WrongState, match="No host reaches all pools of off"):
            attach(volume, stopped)
        fleet.pings(other, pools=[fleet.room(StoragePool.objects.get(name="shared"))])
        attached(fleet, volume, stopped)
        assert fleet.the_open(start(stopped)).agent == other

    def test_anothers_and_another_zones_are_refused(self, fleet: Fleet, running: VM, volume: Volume) -> None:
        Volume.objects.filter(pk=volume.pk).update(account=account_create(name="others"))
        with pytest.raises(InvalidInput, match="different accounts"):
            attach(volume, running)
        Volume.objects.filter(pk=volume.pk).update(account=running.account)
        VM.objects.filter(pk=running.pk).update(zone=Zone.objects.create(name="south"))
        running.refresh_from_db()
        with pytest.raises(InvalidInput, match="in zone south"):
            attach(volume, running)
        assert nothing_held()

    def test_twice_is_refused(self, fleet: Fleet, running: VM, stopped: VM, volume: Volume) -> None:
        first = attach(volume, running)
        with pytest.raises(Busy) as busy:
            attach(volume, stopped)
        assert busy.value.operation == str(first.pk)
        fleet.works(first)
        with pytest.raises(WrongState, match="data is vdc of vm"):
            attach(volume, stopped)

    def test_what_is_done_to_its_vm_waits_for_it(self, fleet: Fleet, running: VM, volume: Volume) -> None:
        first = attach(volume, running)
        with pytest.raises(Busy) as busy:
            stop(running)
        assert busy.value.operation == str(first.pk)


class TestDetach:
    def test_from_a_running_vm(self, fleet: Fleet, running: VM, host: Agent) -> None:
        """Also a disk that was deployed with it; from then on it is no longer the VM's own."""
        disk = running.volumes.get(device_index=1)
        operation = detach(disk)
        command = fleet.the_open(operation)
        assert (command.kind, command.agent) == ("volume.detach", host)
        assert (command.payload["volume_id"], place_of(disk)) == (str(disk.pk), ("vm", 1, False))
        fleet.says(command, "COMPLETED")
        assert (place_of(disk), nothing_held()) == ((None, 0, True), True)

    def test_a_guest_that_keeps_it_keeps_it(self, fleet: Fleet, running: VM) -> None:
        disk = running.volumes.get(device_index=1)
        operation = detach(disk)
        fleet.fails(fleet.the_open(operation), "guest_keeps_disk", elsewhere=False)
        assert (state_of(operation), place_of(disk)) == ("failed", ("vm", 1, False))

    def test_from_a_stopped_or_destroyed_one_at_once(self, fleet: Fleet, stopped: VM, volume: Volume) -> None:
        attached(fleet, volume, stopped)
        destroy(stopped)
        for disk in (volume, stopped.volumes.get(device_index=1)):
            assert (state_of(detach(disk)), place_of(disk)) == ("succeeded", (None, 0, True))

    def test_in_doubt_the_live_document_decides(self, fleet: Fleet, running: VM) -> None:
        disk = running.volumes.get(device_index=1)
        operation = detach(disk)
        command = fleet.the_open(operation)
        fleet.says(command, "STARTED")
        fleet.says(command, "INTERRUPTED")
        fleet.answers(command, power_state="running", attached=False)
        assert (state_of(operation), place_of(disk)[0]) == ("succeeded", None)

    def test_the_root_disk_and_what_is_no_vms_are_refused(self, fleet: Fleet, running: VM, volume: Volume) -> None:
        with pytest.raises(WrongState, match="is the root disk of vm"):
            detach(running.volumes.get(device_index=0))
        with pytest.raises(WrongState, match="is no VM's disk"):
            detach(volume)
        assert nothing_held()


class TestResize:
    @pytest.mark.parametrize("index", [0, 1])
    def test_of_a_running_vm(self, fleet: Fleet, running: VM, host: Agent, index: int) -> None:
        disk = running.volumes.get(device_index=index)
        was = disk.size_bytes
        operation = resize(disk, was + MIB)
        assert sizes_of(disk) == (was + MIB, was)
        command = fleet.the_open(operation)
        assert (command.kind, command.agent, command.lane) == ("volume.resize", host, f"vm:{running.pk}")
        assert (command.payload["vm_id"], command.payload["virtual_size_bytes"]) == (str(running.pk), was + MIB)
        fleet.says(command, "COMPLETED")
        assert (sizes_of(disk), nothing_held()) == ((was + MIB, was + MIB), True)
        event = Event.objects.get(kind="volume.resized")
        assert event.details == {"was_bytes": was, "size_bytes": was + MIB}

    def test_of_a_stopped_vm_or_of_none(self, fleet: Fleet, stopped: VM, volume: Volume, host: Agent) -> None:
        for disk, lane in ((stopped.volumes.get(device_index=1), f"vm:{stopped.pk}"), (volume, f"volume:{volume.pk}")):
            operation = resize(disk, 2 * MIB)
            command = fleet.the_open(operation)
            assert (command.agent, command.lane) == (host, lane)
            fleet.says(command, "COMPLETED")
            assert sizes_of(disk) == (2 * MIB, 2 * MIB)

    def test_the_room_is_promised_at_once_and_given_back(self, fleet: Fleet, host: Agent, pool: StoragePool) -> None:
        small = fleet.pool("small", host, capacity_bytes=4 * MIB)
        volume = created(fleet, pool=small)
        before = used(fleet.account)
        operation = resize(volume, 3 * MIB)
        assert used(fleet.account)["primary_storage_bytes"] == 3 * MIB
        with pytest.raises(NoRoom, match="pool small: 1048576 bytes are free, 2097152 are needed"):
            create(fleet, pool=small, size_bytes=2 * MIB)
        fleet.fails(fleet.the_open(operation), "qemu_img_failed")
        assert (sizes_of(volume), used(fleet.account), nothing_held()) == ((MIB, MIB), before, True)
        with pytest.raises(NoRoom):
            resize(volume, 5 * MIB)
        limits.put(fleet.account, {"primary_storage_bytes": 2 * MIB})
        with pytest.raises(LimitExceeded):
            resize(volume, 3 * MIB)
        assert (sizes_of(volume), nothing_held()) == ((MIB, MIB), True)
        limits.check()
        assert not Event.objects.filter(kind="account.usage_mended").exclude(message__startswith="templates").exists()

    @pytest.mark.parametrize(("size", "ends"), [(2 * MIB, "succeeded"), (MIB, "again"), (3 * MIB, "again")])
    def test_in_doubt_its_size_decides(self, fleet: Fleet, volume: Volume, size: int, ends: str) -> None:
        operation = resize(volume, 2 * MIB)
        command = fleet.the_open(operation)
        fleet.says(command, "STARTED")
        fleet.says(command, "INTERRUPTED")
        fleet.answers(command, virtual_size_bytes=size)
        assert (command.attempt, state_of(operation)) == ((2, "running") if ends == "again" else (1, "succeeded"))

    @pytest.mark.parametrize("size", [MIB, MIB - 512, 512, 2 * MIB + 1])
    def test_smaller_equal_and_odd_sizes_are_refused(self, fleet: Fleet, volume: Volume, size: int) -> None:
        with pytest.raises(InvalidInput) as refusal:
            resize(volume, size)
        assert list(refusal.value.errors) == ["size_bytes"]
        assert (sizes_of(volume), nothing_held()) == ((MIB, MIB), True)


class TestDelete:
    def test_its_files_go_and_nothing_counts_any_more(self, fleet: Fleet, volume: Volume, host: Agent) -> None:
        operation = delete(volume)
        command = fleet.the_open(operation)
        assert (command.kind, command.payload["file_names"]) == ("volume.remove", [f"volume-{volume.pk}.qcow2"])
        assert state_of(volume) == "ready"
        fleet.says(command, "COMPLETED")
        assert (state_of(volume), state_of(operation), nothing_held()) == ("removed", "succeeded", True)
        assert used(fleet.account) == {}
        with pytest.raises(WrongState, match="is removed"):
            delete(volume)

    def test_an_attached_one_is_refused(self, fleet: Fleet, running: VM) -> None:
        for disk in running.volumes.all():
            with pytest.raises(WrongState, match="of vm"):
                delete(disk)
        assert nothing_held()

    def test_a_removal_that_fails_is_tried_until_it_is_done(self, fleet: Fleet, volume: Volume, running: VM) -> None:
        operation = delete(volume)
        fleet.fails(fleet.the_open(operation), "image_in_use", elsewhere=False)
        assert (state_of(operation), alarms()) == ("needs_attention", ["operation.needs_attention"])
        with pytest.raises(Busy):
            attach(volume, running)
        fleet.sweeps()
        fleet.works(operation)
        assert (state_of(operation), state_of(volume)) == ("succeeded", "removed")


class TestExpunge:
    def test_what_was_attached_later_is_detached_and_kept(self, fleet: Fleet, running: VM, volume: Volume) -> None:
        attached(fleet, volume, running)
        operation = destroy(running, expunge=True)
        fleet.works(operation)
        assert (state_of(operation), state_of(running)) == ("succeeded", "expunged")
        assert place_of(volume) == (None, 0, True)
        assert (state_of(volume), volume_states(running)) == ("ready", ["removed", "removed"])

    def test_what_was_deployed_with_it_and_detached_once_is_kept_too(self, fleet: Fleet, stopped: VM) -> None:
        disk = stopped.volumes.get(device_index=1)
        detach(disk)
        attached(fleet, disk, stopped)
        fleet.works(destroy(stopped, expunge=True))
        assert (place_of(disk), state_of(disk)) == ((None, 0, True), "ready")

    def test_destroyed_without_expunge_it_keeps_all(self, fleet: Fleet, stopped: VM, volume: Volume) -> None:
        attached(fleet, volume, stopped)
        destroy(stopped)
        assert place_of(volume) == ("off", 2, True)


@pytest.mark.django_db(transaction=True)
def test_five_at_once_attach_one_volume_once(fleet: Fleet, template: Template, pool: StoragePool) -> None:
    vms = [existing(fleet, template, pool, None, name=f"vm{number}") for number in range(5)]
    volume = created(fleet)
    answers = at_once(*[partial(volume_attach, volume, vm) for vm in vms])
    assert [type(answer).__name__ for answer in answers].count("Operation") == 1
    assert {type(answer) for answer in answers if not isinstance(answer, Operation)} <= {WrongState, Busy}
    volume.refresh_from_db()
    assert volume.vm in vms


@pytest.mark.parametrize("state", [*VM.State.values])
def test_each_deed_is_refused_in_every_other_state_of_its_vm(
    fleet: Fleet, stopped: VM, volume: Volume, state: str
) -> None:
    VM.objects.filter(pk=stopped.pk).update(state=state)
    disk = stopped.volumes.get(device_index=1)
    deeds: list[tuple[Any, set[str]]] = [
        (lambda: attach(volume, stopped), {"running", "stopped"}),
        (lambda: detach(disk), {"running", "stopped", "destroyed"}),
        (lambda: resize(disk, 2 * MIB), {"running", "stopped"}),
    ]
    for deed, allowed in deeds:
        if state not in allowed:
            with pytest.raises(WrongState, match=f"is {state}"):
                deed()
    assert nothing_held()
