"""Templates and their placements."""

import uuid
from typing import Any, ClassVar

from django.db import models
from django.db.models import Q
from django.utils import timezone

from core_app.transitions import StateMachine
from infra_app.models import StoragePool, Zone


class Template(models.Model):
    """An image that VMs are made from.

    States: ``allocated`` (a host is looking at its URL) → ``ready`` | ``failed`` (``error`` says why); ``deleted``.
    """

    class State(models.TextChoices):
        ALLOCATED = "allocated"
        READY = "ready"
        FAILED = "failed"
        DELETED = "deleted"

    class Format(models.TextChoices):
        QCOW2 = "qcow2"
        RAW = "raw"
        ISO = "iso"

    machine: ClassVar[StateMachine] = StateMachine(
        {
            State.READY: {State.ALLOCATED},
            State.FAILED: {State.ALLOCATED},
            State.DELETED: {State.ALLOCATED, State.READY, State.FAILED},
        }
    )

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    account = models.ForeignKey("accounts_app.Account", on_delete=models.PROTECT, related_name="templates")
    name = models.CharField(max_length=255)
    url = models.CharField(max_length=2048)
    format = models.CharField(max_length=8, choices=Format)
    checksum = models.CharField(max_length=160, blank=True, help_text="{ALG}hex, as it was given")
    zones = models.ManyToManyField(Zone, related_name="templates")
    direct_download = models.BooleanField(default=True)
    public = models.BooleanField(default=False)
    headers = models.JSONField(default=dict, blank=True)
    secret_headers = models.TextField(blank=True, editable=False, help_text="Encrypted with the server's key")
    follow_redirects = models.BooleanField(default=True)
    state = models.CharField(max_length=16, choices=State, default=State.ALLOCATED, editable=False)
    error = models.JSONField(null=True, default=None, editable=False)
    size_bytes = models.BigIntegerField(null=True, default=None, editable=False)
    virtual_size_bytes = models.BigIntegerField(null=True, default=None, editable=False)
    sha256 = models.CharField(max_length=64, blank=True, editable=False, help_text="Of the first verified copy")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["created_at", "id"], name="template_by_time"),
            models.Index(fields=["account", "created_at", "id"], name="template_by_account"),
            models.Index(fields=["name", "id"], name="template_by_name"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_iso(self) -> bool:
        return self.format == self.Format.ISO

    @property
    def unique_name(self) -> str:
        """Its name on any storage: never a user's text."""
        return f"template-{self.pk}"

    @property
    def file_name(self) -> str:
        return f"{self.unique_name}.{self.format}"

    @staticmethod
    def visible_to_account(account_id: uuid.UUID) -> Q:
        return Q(account_id=account_id) | Q(public=True)


class Placement(models.Model):
    """A template on a pool (``kind`` pool), or its place in a zone without a copy (``kind`` store, bypassed).

    States: ``absent`` → ``downloading`` → ``ready`` | ``failed``; a failed one is downloaded again when next needed.
    A ready one whose file turns out to be gone or damaged becomes ``failed``.
    """

    class Kind(models.TextChoices):
        STORE = "store"
        POOL = "pool"

    class State(models.TextChoices):
        ABSENT = "absent"
        DOWNLOADING = "downloading"
        READY = "ready"
        FAILED = "failed"

    machine: ClassVar[StateMachine] = StateMachine(
        {
            State.ABSENT: {State.DOWNLOADING, State.READY, State.FAILED},
            State.DOWNLOADING: {State.ABSENT, State.FAILED},
            State.READY: {State.ABSENT, State.DOWNLOADING},
            State.FAILED: {State.DOWNLOADING, State.READY},
        }
    )

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    template = models.ForeignKey(Template, on_delete=models.CASCADE, related_name="placements")
    kind = models.CharField(max_length=8, choices=Kind)
    zone = models.ForeignKey(Zone, on_delete=models.PROTECT, related_name="+")
    pool = models.ForeignKey(StoragePool, on_delete=models.PROTECT, null=True, related_name="placements")
    state = models.CharField(max_length=16, choices=State, default=State.ABSENT, editable=False)
    operation = models.ForeignKey(
        "operations_app.Operation", on_delete=models.SET_NULL, null=True, related_name="+", editable=False
    )
    """The last download; its progress is this placement's."""
    path = models.CharField(max_length=1024, blank=True, editable=False)
    size_bytes = models.BigIntegerField(null=True, default=None, editable=False)
    virtual_size_bytes = models.BigIntegerField(null=True, default=None, editable=False)
    error = models.JSONField(null=True, default=None, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["template", "pool"], name="placement_once_a_pool", condition=Q(pool__isnull=False)
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["created_at", "id"], name="placement_by_time")]

    def __str__(self) -> str:
        return (
            f"{self.template.name[:120]} on {self.pool.name[:120]}" if self.pool else f"{self.template} in {self.zone}"
        )

    @property
    def account_id(self) -> uuid.UUID:
        """Its template's: whose events and operations are about it."""
        return self.template.account_id

    @property
    def download_state(self) -> str:
        """The word that other programs know for it."""
        if self.kind == self.Kind.STORE:
            return "bypassed"
        return _DOWNLOAD_STATES[self.state]

    @property
    def attempt(self) -> int:
        """How many hosts were asked to download it, the last time."""
        return len(self.operation.data["tried"]) if self.operation else 0

    @property
    def mirror(self) -> str | None:
        """Where the bytes come from, without the query, which may hold a secret; None where nothing is downloaded."""
        return self.template.url.partition("?")[0] if self.operation else None

    @property
    def progress(self) -> dict[str, Any]:
        """Bytes and rate of the download under way; empty when there is none."""
        if self.state != self.State.DOWNLOADING or self.operation is None:
            return {}
        return dict(self.operation.progress)

    @property
    def percent(self) -> int:
        if self.state == self.State.READY:
            return 100
        done, total = self.progress.get("done_bytes", 0), self.progress.get("total_bytes", 0)
        return min(99, 100 * done // total) if total else 0

    @staticmethod
    def visible_to_account(account_id: uuid.UUID) -> Q:
        return Q(template__account_id=account_id) | Q(template__public=True)


TAKES_ROOM = (Placement.State.DOWNLOADING, Placement.State.READY)
"""States in which a template's copy takes room on its pool, or is promised it."""

_DOWNLOAD_STATES: dict[str, str] = {
    Placement.State.ABSENT: "not_downloaded",
    Placement.State.DOWNLOADING: "in_progress",
    Placement.State.READY: "downloaded",
    Placement.State.FAILED: "error",
}
