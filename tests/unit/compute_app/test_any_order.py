"""Deployments, deeds, cancels, deaths and words in any order: room is never promised twice, and all ends as recorded.

The agents of these tests have a world of their own, the domains that run and the files that lie on the pools. They tell
the truth about it, sometimes late, sometimes only when they are asked.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Sum
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.protocol.messages import VmFact
from agents.protocol.states import COMMAND_OPEN
from compute_app.actions import (
    Deployment,
    NewVolume,
    vm_deploy,
    vm_destroy,
    vm_start,
    vm_stop,
    volume_attach,
    volume_create,
    volume_delete,
    volume_detach,
    volume_resize,
)
from compute_app.models import TAKES_MEMORY, VM, Volume
from core_app.errors import CloudctlError
from infra_app.models import Agent, Host, StoragePool
from operations_app.actions import cancel
from operations_app.models import Command, Operation
from operations_app.rules import OPERATION_OPEN
from operations_app.workflow import retry_round
from templates_app.actions import template_prepare
from templates_app.models import Placement, Template
from tests.unit.compute_app.cloud import MIB, existing, nothing_held
from tests.unit.templates_app.fleet import GIB, Fleet, alarms, committed

RESTING = {"stopped", "running", "error", "destroyed", "expunged"}


class World:
    """What is true on the hosts."""

    def __init__(self) -> None:
        self.running: set[tuple[str, UUID]] = set()
        self.files: set[str] = set()
        self.disks: set[tuple[str, str]] = set()
        """VMs that run, with the volumes that they have open."""
        self.sizes: dict[str, int] = {}
        """Volume → what a guest sees."""

    def does(self, command: Command) -> None:
        """The effect of a command that is gone through with."""
        said = command.payload
        match command.kind:
            case "vm.start":
                self.running.add((said["vm_id"], command.agent_id))
                self.disks |= {(said["vm_id"], disk["volume_id"]) for disk in said["disks"]}
            case "vm.stop":
                self.running.discard((said["vm_id"], command.agent_id))
                self.disks = {(vm, volume) for vm, volume in self.disks if vm != said["vm_id"]}
            case "volume.attach":
                self.disks |= {(said["vm_id"], said["disk"]["volume_id"])} if self.runs(command) else set()
            case "volume.detach":
                self.disks.discard((said["vm_id"], said["volume_id"]))
            case "volume.resize":
                self.sizes[said["volume_id"]] = said["virtual_size_bytes"]
            case "volume.create" | "template.download":
                self.files.add(f"{said['pool_path']}/{said['file_name']}")
                self.sizes[said.get("volume_id", "")] = said.get("virtual_size_bytes", 0)
            case _:
                self.files -= self.named(command)

    def tells(self, command: Command) -> dict[str, Any]:
        """The evidence about a command."""
        said = command.payload
        power = "running" if self.runs(command) else "off"
        if command.kind in ("vm.start", "vm.stop"):
            return {"power_state": power, "accelerator": "tcg"}
        if command.kind in ("volume.attach", "volume.detach"):
            volume = said.get("volume_id") or said["disk"]["volume_id"]
            return {"power_state": power, "attached": (said["vm_id"], volume) in self.disks}
        if command.kind == "volume.resize":
            return {"virtual_size_bytes": self.sizes[said["volume_id"]]}
        there = sorted(self.named(command) & self.files)
        if command.kind == "volume.create" and there:
            return {"final": {"path": there[0], "virtual_size_bytes": GIB, "allocated_bytes": 0}}
        if command.kind == "template.download" and there:
            return {"final": {"path": there[0], "size_bytes": MIB, "virtual_size_bytes": GIB, "sha256": "a" * 64}}
        return {"left": there}

    def runs(self, command: Command) -> bool:
        """Whether the command's VM runs where the command goes."""
        return (command.payload.get("vm_id"), command.agent_id) in self.running

    @staticmethod
    def named(command: Command) -> set[str]:
        said = command.payload
        return {f"{said['pool_path']}/{name}" for name in said.get("file_names", [said.get("file_name")])}


class Story:
    """What may happen, each thing at any moment."""

    def __init__(self, fleet: Fleet, template: Template, data: st.DataObject) -> None:
        self.fleet = fleet
        self.template = template
        self.world = World()
        self.data = data
        self.deeds: list[Callable[[], None]] = [
            self.deploy, self.cancel, self.prepare, self.die, self.rise, self.sweep, self.look,
            *[self.deed] * 3, *[self.volume_deed] * 6, *[self.word] * 10,
        ]  # fmt: skip

    def begins_with(self, *vms: VM) -> None:
        """They are there already."""
        for vm in vms:
            self.world.files |= {volume.top.path for volume in vm.volumes.all() if volume.top}
            self.world.running |= {(str(vm.pk), vm.host_id)} if vm.host_id else set()
            self.world.disks |= {(str(vm.pk), str(volume.pk)) for volume in vm.volumes.all() if vm.host_id}
            self.world.sizes |= {str(volume.pk): volume.size_bytes for volume in vm.volumes.all()}
        self.world.files |= set(Placement.objects.exclude(path="").values_list("path", flat=True))

    def pick(self, rows: Any) -> Any:
        found = list(rows)
        return self.data.draw(st.sampled_from(found)) if found else None

    def goes_on(self) -> None:
        self.data.draw(st.sampled_from(self.deeds))()

    # --- people ----------------------------------------------------------------------------------------------------

    def deploy(self) -> None:
        size, start = self.data.draw(st.sampled_from([MIB * 16, GIB])), self.data.draw(st.booleans())
        wanted = Deployment(
            "vm", self.fleet.account, self.template, self.fleet.zone, 1, 2 * size, data_disk_sizes=[size], start=start
        )
        self.asks(partial(vm_deploy, wanted))

    def deed(self) -> None:
        deeds = [
            vm_start,
            partial(vm_stop, force=False),
            partial(vm_destroy, expunge=True),
            partial(vm_destroy, expunge=False),
        ]
        if vm := self.pick(VM.objects.order_by("created_at")):
            self.asks(partial(self.pick(deeds), vm))

    def volume_deed(self) -> None:
        """Mostly one that makes sense."""
        volumes = Volume.objects.exclude(state="removed").order_by("created_at", "pk")
        free, attached = volumes.filter(vm=None), volumes.filter(device_index__gt=0)
        vm, size = self.pick(VM.objects.order_by("created_at", "pk")), self.data.draw(st.sampled_from([MIB, GIB]))
        wanted = NewVolume("data", self.fleet.account, self.fleet.zone, MIB * 16)
        deeds: list[tuple[Any, Callable[[Volume], object]]] = [
            (volumes, lambda _: volume_create(wanted)),
            (free, lambda volume: volume_attach(volume, vm)),
            (attached, volume_detach),
            (volumes, lambda volume: volume_resize(volume, volume.size_bytes + size)),
            (free, volume_delete),
        ]
        suitable, deed = self.data.draw(st.sampled_from(deeds))
        if volume := self.pick(suitable if self.data.draw(st.integers(0, 5)) else volumes):
            self.asks(partial(deed, volume))

    def prepare(self) -> None:
        self.asks(partial(template_prepare, self.template, self.pick(StoragePool.objects.order_by("name"))))

    def cancel(self) -> None:
        if operation := self.pick(Operation.objects.filter(state__in=OPERATION_OPEN).order_by("created_at")):
            self.asks(partial(cancel, operation.pk))

    @staticmethod
    def asks(what: Callable[[], object]) -> None:
        """Refused or not, it is answered."""
        with suppress(CloudctlError), committed(), transaction.atomic():
            what()

    # --- agents ----------------------------------------------------------------------------------------------------

    def word(self) -> None:
        if command := self.pick(self.heard()):
            self.speaks(command)

    def heard(self) -> Any:
        """Commands that their agents have, or are asked about."""
        up = Command.objects.filter(state__in=COMMAND_OPEN, agent__state="up").exclude(state="CREATED")
        return up.exclude(state__in=("RECONCILE_RETRY", "RECONCILE_FAILED")).order_by("created_at", "pk")

    def speaks(self, command: Command) -> None:
        if command.state == "RECONCILING":
            self.fleet.answers(command, **self.world.tells(command))
            return
        ways = ["COMPLETED", "COMPLETED", "COMPLETED", "FAILED", "STARTED", "INTERRUPTED"]
        way = self.pick([*ways, "CANCELLED"] if command.cancel_requested_at else ways)
        if way == "COMPLETED" or (way == "INTERRUPTED" and self.data.draw(st.booleans())):
            self.world.does(command)
        if way == "FAILED":
            self.fleet.fails(command, elsewhere=self.data.draw(st.booleans()))
        else:
            self.fleet.says(command, way)

    def die(self) -> None:
        if host := self.pick(Agent.objects.filter(state="up").order_by("name")):
            self.fleet.goes_away(host)

    def rise(self) -> None:
        """With an empty journal: what had begun is in doubt."""
        if host := self.pick(Agent.objects.exclude(state="up").order_by("name")):
            self.fleet.comes_up(host)

    def look(self) -> None:
        if host := self.pick(Agent.objects.filter(state="up").order_by("name")):
            facts = [VmFact(vm_id=vm, power_state="running") for vm, on in sorted(self.world.running) if on == host.pk]
            here = Command.objects.filter(agent=host, state__in=COMMAND_OPEN).exclude(state__in=("CREATED", "SENT"))
            entries = [self.fleet.entry(command, command.agent_state) for command in here if command.agent_state]
            self.fleet.pings(host, vms=facts, entries=entries)

    def sweep(self) -> None:
        self.fleet.sweeps()

    # --- the end ---------------------------------------------------------------------------------------------------

    def ends(self) -> None:
        """All hosts are up and do what they are told."""
        for host in Agent.objects.exclude(state="up"):
            self.fleet.comes_up(host)
        for _ in range(40):
            self.fleet.sweeps()
            for command in list(self.heard()):
                command.refresh_from_db()
                if command.state in COMMAND_OPEN and command.state != "RECONCILING":
                    self.world.does(command)
                    self.fleet.says(command, "COMPLETED")
                elif command.state == "RECONCILING":
                    self.fleet.answers(command, **self.world.tells(command))
            for operation in Operation.objects.filter(state="needs_attention"):
                with committed():
                    retry_round(operation.pk)
            if not Operation.objects.filter(state__in=OPERATION_OPEN).exists():
                return
        raise AssertionError(list(Operation.objects.filter(state__in=OPERATION_OPEN).values("kind", "state", "error")))


def promises_are_kept() -> None:
    for host in Host.objects.all():
        promised = VM.objects.filter(host=host, state__in=TAKES_MEMORY).aggregate(all=Sum("memory_bytes"))["all"]
        assert (promised or 0) <= host.memory_bytes
    for pool in StoragePool.objects.all():
        disks = Volume.objects.filter(pool=pool).exclude(state="removed").aggregate(all=Sum("size_bytes"))["all"]
        assert (disks or 0) <= pool.capacity_bytes


def all_is_as_recorded(world: World) -> None:
    assert nothing_held()
    assert set(VM.objects.values_list("state", flat=True)) <= RESTING
    assert world.running == {(str(vm.pk), vm.host_id) for vm in VM.objects.filter(state="running")}
    assert not VM.objects.exclude(state="running").exclude(host=None).exists()
    volumes = Volume.objects.exclude(state="removed").select_related("top__volume__pool")
    files = [volume.top.path for volume in volumes if volume.top]
    copies = Placement.objects.filter(kind="pool", state="ready").values_list("path", flat=True)
    assert Counter(world.files) == Counter([*files, *copies])
    assert set(volumes.values_list("state", flat=True)) <= {"ready"}
    open_ones = volumes.filter(vm__state="running").values_list("vm", "pk")
    assert world.disks == {(str(vm), str(volume)) for vm, volume in open_ones}
    for volume in volumes:
        assert volume.top is not None
        assert world.sizes[str(volume.pk)] == volume.size_bytes == volume.top.virtual_size_bytes
    assert not volumes.filter(vm__state="expunged").exists()
    assert not Placement.objects.filter(state="downloading").exists()
    assert set(alarms()) <= {"operation.needs_attention"}


@contextmanager
def thrown_away() -> Iterator[None]:
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_everything_ends_as_recorded(fleet: Fleet, template: Template, data: st.DataObject) -> None:
    with thrown_away():
        hosts = [fleet.host(name, memory_bytes=4 * GIB) for name in ("a", "b")]
        both = fleet.pool("both", *hosts, capacity_bytes=8 * GIB)
        fleet.pool("local", hosts[0], local=True, capacity_bytes=6 * GIB)
        story = Story(fleet, template, data)
        story.begins_with(existing(fleet, template, both, hosts[0]), existing(fleet, template, both, None))
        for _ in range(data.draw(st.integers(4, 20))):
            story.goes_on()
            promises_are_kept()
        story.ends()
        all_is_as_recorded(story.world)
