"""VMs, volumes and volume files."""

import uuid
from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils import timezone

from core_app.transitions import StateMachine
from infra_app.models import Host, StoragePool, Zone
from templates_app.models import Placement, Template


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
    power_state = models.CharField(max_length=16, default="off", editable=False)
    power_reason = models.CharField(max_length=255, blank=True, editable=False)
    guest_agent = models.CharField(max_length=16, choices=GuestAgent, default=GuestAgent.UNKNOWN, editable=False)
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
        ]

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def visible_to_account(account_id: uuid.UUID) -> Q:
        return Q(account_id=account_id)


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
