"""Rows that belong to no single app: events and settings."""

import uuid
from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils import timezone


class Event(models.Model):
    """One thing that happened, written in the transaction that made it true. Never changed, outlives its target."""

    class Level(models.TextChoices):
        INFO = "info"
        WARNING = "warning"
        ERROR = "error"
        ALARM = "alarm", "alarm (a person must look)"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=64)
    level = models.CharField(max_length=16, choices=Level, default=Level.INFO)
    # No foreign keys: an event stays when its account or target is gone.
    account_id = models.UUIDField("account", null=True, blank=True)
    target_type = models.CharField(max_length=32, blank=True)
    target_id = models.CharField(max_length=64, blank=True)
    target_name = models.CharField(max_length=255, blank=True)
    message = models.TextField(blank=True)
    details = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering: ClassVar = ["-created_at", "-id"]
        indexes: ClassVar = [
            models.Index(fields=["created_at", "id"], name="event_by_time"),
            models.Index(fields=["kind", "created_at", "id"], name="event_by_kind"),
            models.Index(fields=["level", "created_at", "id"], name="event_by_level"),
            models.Index(fields=["account_id", "created_at", "id"], name="event_by_account"),
            models.Index(fields=["target_id", "created_at", "id"], name="event_by_target"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.target_name}".strip()

    @staticmethod
    def visible_to_account(account_id: uuid.UUID) -> Q:
        return Q(account_id=account_id)


class Setting(models.Model):
    """A setting whose value is not its default. What may be set is defined in code, see ``core_app.settings_rows``."""

    name = models.CharField(max_length=100, primary_key=True)
    value = models.JSONField()

    def __str__(self) -> str:
        return self.name


class IdempotencyKey(models.Model):
    """The first answer to a POST that carried a key; written with what it tells of, see ``core_app.idempotency``."""

    scope = models.UUIDField(help_text="The account, or the user, whose requests share keys")
    path = models.CharField(max_length=255)
    key = models.CharField(max_length=255)
    digest = models.CharField(max_length=64, help_text="SHA-256 of what was asked for")
    status = models.PositiveSmallIntegerField()
    headers = models.JSONField(default=dict)
    body = models.TextField(help_text="Encrypted with the server's key")
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["scope", "path", "key"], name="idempotency_key_once"),
        ]

    def __str__(self) -> str:
        return f"{self.key} at {self.path}"
