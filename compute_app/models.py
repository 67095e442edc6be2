"""VMs, volumes and volume files."""

import uuid
from typing import Any, ClassVar

from django.db import models
from django.db.models import Q
from django.utils import timezone

from core_app.transitions import StateMachine
from infra_app.models import Host, StoragePool, Zone
from templates_app.models import Placement, Template


class Network(models.Model):
    """What network cards are plugged into: a bridge or a libvirt network that each host of the zone has by this name.

    cloudctl makes neither; a host that lacks it refuses to start a VM that needs it.
    """

    class Kind(models.TextChoices):
        BRIDGE = "bridge"
        LIBVIRT = "libvirt"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=255)
    zone = models.ForeignKey(Zone, on_delete=models.PROTECT, related_name="networks")
    kind = models.CharField(max_length=16, choices=Kind)
    source = models.CharField(max_length=64, help_text="The bridge's or libvirt network's name on the hosts")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["zone", "name"], name="network_name_once_a_zone")]
        indexes: ClassVar = [
            models.Index(fields=["created_at", "id"], name="network_by_time"),
            models.Index(fields=["name", "id"], name="network_by_name"),
        ]

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def visible_to_account(_account_id: uuid.UUID) -> Q:
        """Everyone may plug a VM into any of them, as everyone may use any zone."""
        return Q()


class VM(models.Model):
    """A virtual machine.

    States: ``creating`` → ``running`` | ``stopped`` | ``error``; ``stopped`` → ``starting`` → ``running`` →
    ``stopping`` → ``stopped``; any → ``destroying`` → ``destroyed`` (its volumes kept) → ``stopped`` (recovered), or
    ``destroying`` → ``expunged``.
    ``host`` is set while it may run there; ``last_host`` remembers.
    """

    class State(models.TextChoices):
        CREATING = "creating"
        STOPPED = "stopped"
        STARTING = "starting"
        RUNNING = "running"
        STOPPING = "stopping"
        ERROR = "error"
        DESTROYING = "destroying"
        DESTROYED = "destroyed"
        EXPUNGED = "expunged"

    class GuestAgent(models.TextChoices):
        ANSWERING = "answering"
        SILENT = "silent"
        UNKNOWN = "unknown"

    machine: ClassVar[StateMachine] = StateMachine(
        {
            State.STOPPED: {State.CREATING, State.STARTING, State.STOPPING, State.RUNNING, State.DESTROYED},
            State.STARTING: {State.STOPPED},
            State.RUNNING: {State.CREATING, State.STARTING, State.STOPPING},
            State.STOPPING: {State.RUNNING},
            State.ERROR: {State.CREATING},
            State.DESTROYING: {State.STOPPED, State.RUNNING, State.ERROR, State.DESTROYED},
            State.DESTROYED: {State.DESTROYING},
            State.EXPUNGED: {State.DESTROYING},
        }
    )

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    account = models.ForeignKey("accounts_app.Account", on_delete=models.PROTECT, related_name="vms")
    name = models.CharField(max_length=255)
    zone = models.ForeignKey(Zone, on_delete=models.PROTECT, related_name="vms")
    template = models.ForeignKey(Template, on_delete=models.PROTECT, related_name="vms")
    cpus = models.PositiveSmallIntegerField()
    memory_bytes = models.BigIntegerField()
    state = models.CharField(max_length=16, choices=State, default=State.CREATING, editable=False)
    host = models.ForeignKey(Host, on_delete=models.PROTECT, null=True, related_name="vms", editable=False)
    last_host = models.ForeignKey(Host, on_delete=models.SET_NULL, null=True, related_name="+", editable=False)
    restart_after_boot = models.BooleanField(
        default=False, help_text="Started again when its host has booted anew while it ran there"
    )
    host_boot_id = models.CharField(max_length=64, blank=True, editable=False)
    """In which boot of its host it was last known to run."""
    restart_due = models.BooleanField(default=False, editable=False)
    """Its host has booted anew: it is to be started there again."""
    seed = models.TextField(blank=True, editable=False)
    """User data and SSH keys as JSON, encrypted with the server's key; empty: the VM has no seed."""
    power_state = models.CharField(max_length=16, default="off", editable=False)
    power_reason = models.CharField(max_length=255, blank=True, editable=False)
    guest_agent = models.CharField(max_length=16, choices=GuestAgent, default=GuestAgent.UNKNOWN, editable=False)
    addresses = models.JSONField(default=list, editable=False)
    """By the guest's agent."""
    facts_epoch = models.BigIntegerField(default=0, editable=False)
    facts_number = models.BigIntegerField(default=0, editable=False)
    """Looks of ``last_host`` at libvirt up to this one (in that epoch of its agent) began before what is recorded here
    was known, so they say nothing against it."""
    error = models.JSONField(null=True, default=None, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    destroyed_at = models.DateTimeField(null=True, default=None, editable=False)
    """Since when it waits to be recovered or expunged."""

    class Meta:
        verbose_name = "vm"
        indexes: ClassVar = [
            models.Index(fields=["created_at", "id"], name="vm_by_time"),
            models.Index(fields=["account", "created_at", "id"], name="vm_by_account"),
            models.Index(fields=["name", "id"], name="vm_by_name"),
            models.Index(fields=["state", "created_at", "id"], name="vm_by_state"),
            models.Index(fields=["host", "state"], name="vm_by_host"),
            models.Index(fields=["restart_due"], name="vm_restart_due", condition=Q(restart_due=True)),
        ]

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def visible_to_account(account_id: uuid.UUID) -> Q:
        return Q(account_id=account_id)


class Nic(models.Model):
    """A VM's network card; its address stays the same for the VM's life."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vm = models.ForeignKey(VM, on_delete=models.CASCADE, related_name="nics")
    network = models.ForeignKey(Network, on_delete=models.PROTECT, related_name="nics")
    index = models.PositiveSmallIntegerField()
    mac = models.CharField(max_length=17, unique=True)

    class Meta:
        ordering: ClassVar = ["index"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["vm", "index"], name="nic_once_an_index")]

    def __str__(self) -> str:
        return self.mac


OFF: dict[str, Any] = {"host": None, "power_state": "off", "guest_agent": VM.GuestAgent.UNKNOWN, "addresses": []}
"""Fields of a VM that runs nowhere."""
TAKES_MEMORY = (VM.State.CREATING, VM.State.STARTING, VM.State.RUNNING, VM.State.STOPPING, VM.State.DESTROYING)
"""States in which a VM's memory is promised to it on its host."""


DATA_DISKS_MAX = 23
"""Of a VM, ``vdb`` to ``vdx``."""


class Volume(models.Model):
    """A disk, of a VM or of none. States: ``creating`` → ``ready`` → ``removed``.

    What is being done to it is said by its reservation, not by a state: attached or not, it stays ``ready`` until its
    files are removed. Takes ``size_bytes`` on its pool until then; while it is resized that is its new size already,
    and the size that a guest sees is its ``top``'s.
    """

    class State(models.TextChoices):
        CREATING = "creating"
        READY = "ready"
        REMOVED = "removed"

    machine: ClassVar[StateMachine] = StateMachine(
        {
            State.READY: {State.CREATING},
            State.REMOVED: {State.CREATING, State.READY},
        }
    )

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    account = models.ForeignKey("accounts_app.Account", on_delete=models.PROTECT, related_name="volumes")
    name = models.CharField(max_length=255)
    vm = models.ForeignKey(VM, on_delete=models.PROTECT, null=True, related_name="volumes")
    device_index = models.PositiveSmallIntegerField(default=0, help_text="In its VM; 0: the root disk, vda")
    outlives_vm = models.BooleanField(
        default=False,
        help_text="Expunging its VM detaches it: it was made by itself, or detached once. Else it is removed with it.",
    )
    pool = models.ForeignKey(StoragePool, on_delete=models.PROTECT, related_name="volumes")
    size_bytes = models.BigIntegerField()
    state = models.CharField(max_length=16, choices=State, default=State.CREATING, editable=False)
    top = models.OneToOneField("VolumeFile", on_delete=models.PROTECT, null=True, related_name="top_of", editable=False)
    """The file that the guest writes to."""
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["vm", "device_index"], name="volume_once_a_device", condition=~Q(state="removed")
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["created_at", "id"], name="volume_by_time"),
            models.Index(fields=["account", "created_at", "id"], name="volume_by_account"),
            models.Index(fields=["name", "id"], name="volume_by_name"),
            models.Index(fields=["state", "created_at", "id"], name="volume_by_state"),
            models.Index(fields=["pool", "state"], name="volume_by_pool"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def device(self) -> str:
        """Its place among its VM's disks. A guest names disks as it finds them, and knows each by its serial."""
        return device_name(self.device_index)

    @staticmethod
    def visible_to_account(account_id: uuid.UUID) -> Q:
        return Q(account_id=account_id)


def device_name(index: int) -> str:
    return f"vd{chr(ord('a') + index)}"


class VolumeFile(models.Model):
    """One file of a volume's chain. Backed by another file of the volume, by a template's placement, or by nothing."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    volume = models.ForeignKey(Volume, on_delete=models.CASCADE, related_name="files")
    file_name = models.CharField(max_length=255, unique=True)
    format = models.CharField(max_length=8, default="qcow2")
    virtual_size_bytes = models.BigIntegerField()
    backing = models.ForeignKey("self", on_delete=models.PROTECT, null=True, related_name="overlays")
    backing_placement = models.ForeignKey(Placement, on_delete=models.PROTECT, null=True, related_name="overlays")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(backing__isnull=True) | Q(backing_placement__isnull=True), name="file_one_backing"
            ),
        ]

    def __str__(self) -> str:
        return self.file_name

    @property
    def path(self) -> str:
        return f"{self.volume.pool.path}/{self.file_name}"
