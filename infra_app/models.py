"""Zones, agents, hosts and storage pools."""

import uuid
from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils import timezone

from core_app.transitions import StateMachine


class Zone(models.Model):
    """A place whose hosts reach the same image stores."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=255, unique=True)
    enabled = models.BooleanField(default=True)
    deletions_suspended = models.BooleanField(
        default=False, help_text="An agent has seen more than this database knows: nothing is deleted until adopted"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        indexes: ClassVar = [models.Index(fields=["created_at", "id"], name="zone_by_time")]

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def visible_to_account(_account_id: uuid.UUID) -> Q:
        """Everyone deploys somewhere, so everyone sees the zones."""
        return Q()


class Agent(models.Model):
    """One agent as the server knows it.

    States: ``joined`` (has its keys, never said hello) → ``up`` (pings) ↔ ``disconnected`` (silent: outcome of its work
    unknown); ``maintenance`` (takes no new commands until a person activates it); ``down`` (a person's word that it is
    off: fenced). A fenced one that says hello comes back in ``maintenance``.
    """

    class Role(models.TextChoices):
        HOST = "host"
        IMAGE_STORE = "image-store"
        MANAGEMENT_SERVER = "management-server"

    class State(models.TextChoices):
        JOINED = "joined"
        UP = "up"
        DISCONNECTED = "disconnected"
        MAINTENANCE = "maintenance"
        DOWN = "down"

    machine = StateMachine(
        {
            State.UP: {State.JOINED, State.DISCONNECTED, State.MAINTENANCE},
            State.DISCONNECTED: {State.UP},
            State.MAINTENANCE: {State.UP, State.DISCONNECTED, State.DOWN},
            State.DOWN: {State.UP, State.DISCONNECTED, State.MAINTENANCE},
        }
    )

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    role = models.CharField(max_length=32, choices=Role)
    name = models.CharField(max_length=255)
    zone = models.ForeignKey(Zone, on_delete=models.PROTECT, related_name="agents")
    state = models.CharField(max_length=16, choices=State, default=State.JOINED, editable=False)
    public_key = models.CharField(max_length=64, help_text="Base64; secrets travel sealed to it")
    machine_id = models.CharField(max_length=64)
    boot_id = models.CharField(max_length=64, blank=True)
    host_uuid = models.CharField(max_length=64)
    agent_version = models.CharField(max_length=64, blank=True)

    epoch = models.BigIntegerField(default=0, help_text="Of its last accepted start; 0: none yet")
    last_seq = models.BigIntegerField(default=0, help_text="Highest sequence number ever issued to it")
    highest_seq_seen = models.BigIntegerField(default=0, help_text="Highest sequence number it says it has seen")
    floor = models.BigIntegerField(default=0, help_text="All commands at or below this sequence number are final")
    ahead = models.BooleanField(default=False, help_text="It has seen a sequence number that was never issued here")
    last_ping_at = models.DateTimeField(null=True, blank=True, help_text="By the database's clock")
    joined_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["role", "name"], name="agent_name_once_a_role"),
            models.UniqueConstraint(fields=["host_uuid"], name="agent_once_a_host", condition=Q(role="host")),
        ]
        indexes: ClassVar = [
            models.Index(fields=["joined_at", "id"], name="agent_by_time"),
            models.Index(fields=["state", "last_ping_at"], name="agent_by_silence"),
        ]

    def __str__(self) -> str:
        return self.name


class Host(models.Model):
    """What an agent in the host role says of its machine. Has the agent's id."""

    agent = models.OneToOneField(Agent, on_delete=models.CASCADE, primary_key=True, related_name="host")
    cpus = models.PositiveIntegerField(default=0)
    memory_bytes = models.BigIntegerField(default=0)
    libvirt_version = models.CharField(max_length=32, blank=True)
    qemu_version = models.CharField(max_length=32, blank=True)
    accelerator = models.CharField(max_length=16, blank=True)
    accelerator_reason = models.TextField(blank=True)

    def __str__(self) -> str:
        return self.name

    @property
    def id(self) -> uuid.UUID:
        return self.agent_id

    @property
    def name(self) -> str:
        return self.agent.name


class StoragePool(models.Model):
    """Primary storage: a folder for volume files, on one host or reached by all hosts of a zone."""

    class Type(models.TextChoices):
        LOCAL = "local", "local (a folder of one host)"
        SHARED = "shared", "shared (a mount point on every host of the zone)"
        NFS = "nfs", "nfs (an NFS export, mounted on every host of the zone)"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=255)
    zone = models.ForeignKey(Zone, on_delete=models.PROTECT, related_name="pools")
    type = models.CharField(max_length=16, choices=Type)
    path = models.CharField(max_length=1024)
    host = models.ForeignKey(Host, on_delete=models.PROTECT, null=True, blank=True, related_name="pools")
    capacity_bytes = models.BigIntegerField(default=0, editable=False)
    available_bytes = models.BigIntegerField(default=0, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(type="local", host__isnull=False) | (~Q(type="local") & Q(host__isnull=True)),
                name="pool_local_has_host",
            ),
            models.UniqueConstraint(fields=["zone", "name"], name="pool_name_once_a_zone"),
            models.UniqueConstraint(fields=["host", "path"], name="pool_path_once_a_host", condition=Q(type="local")),
            models.UniqueConstraint(fields=["zone", "path"], name="pool_path_once_a_zone", condition=~Q(type="local")),
        ]
        indexes: ClassVar = [models.Index(fields=["created_at", "id"], name="pool_by_time")]

    def __str__(self) -> str:
        return self.name


class PoolReach(models.Model):
    """Whether a host reaches a pool, and the room it saw there, by its last ping."""

    pool = models.ForeignKey(StoragePool, on_delete=models.CASCADE, related_name="reaches")
    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="reaches")
    reachable = models.BooleanField(default=False)
    reason = models.TextField(blank=True)
    capacity_bytes = models.BigIntegerField(default=0)
    available_bytes = models.BigIntegerField(default=0)
    reported_at = models.DateTimeField(null=True, blank=True, help_text="By the database's clock")

    class Meta:
        verbose_name_plural = "pool reaches"
        constraints: ClassVar = [models.UniqueConstraint(fields=["pool", "host"], name="reach_once_a_pool_and_host")]

    def __str__(self) -> str:
        return f"{self.pool} from {self.host}"


class JoinToken(models.Model):
    """The right to join one agent, or several if reusable, until it expires. Only the secret's SHA-256 is stored."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    zone = models.ForeignKey(Zone, on_delete=models.CASCADE, related_name="join_tokens")
    role = models.CharField(max_length=32, choices=Agent.Role, blank=True, help_text="Empty: any role")
    reusable = models.BooleanField(default=False)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True, editable=False)
    used_by = models.ForeignKey(
        Agent, on_delete=models.SET_NULL, null=True, blank=True, editable=False, related_name="+"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        indexes: ClassVar = [models.Index(fields=["created_at", "id"], name="join_token_by_time")]

    def __str__(self) -> str:
        return f"{self.role or 'any role'} in {self.zone} until {self.expires_at:%Y-%m-%d %H:%M}"
