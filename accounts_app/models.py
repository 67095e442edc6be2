"""Accounts, their users and the users' tokens."""

import uuid
from typing import ClassVar

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models import Q
from django.utils import timezone
from knox.models import AbstractAuthToken


class Account(models.Model):
    """Who owns templates, volumes, VMs and snapshots; the tenant."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=255, unique=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        indexes: ClassVar = [models.Index(fields=["created_at", "id"], name="account_by_time")]

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def visible_to_account(account_id: uuid.UUID) -> Q:
        return Q(pk=account_id)


class Resource(models.TextChoices):
    """What an account's use of is counted, and can be limited."""

    TEMPLATES = "templates"
    VOLUMES = "volumes"
    VMS = "vms"
    SNAPSHOTS = "snapshots"
    PRIMARY_STORAGE_BYTES = "primary_storage_bytes"
    SECONDARY_STORAGE_BYTES = "secondary_storage_bytes"


class Limit(models.Model):
    """How much of a resource an account uses and may use; changed by ``accounts_app.limits`` only."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="limit_rows")
    resource = models.CharField(max_length=32, choices=Resource)
    maximum = models.BigIntegerField(null=True, blank=True, default=None, help_text="None: no limit")
    used = models.BigIntegerField(default=0, editable=False)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["account", "resource"], name="limit_once_a_resource"),
            models.CheckConstraint(condition=Q(used__gte=0), name="limit_used_not_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.resource} of {self.account}"


class UsageRecord(models.Model):
    """An object used this much from ``created_at`` until ``ended_at``; null while it goes on. Outlives the object."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=32, help_text="template, volume, vm.running")
    # No foreign key: a bill is written when the account may be gone.
    account_id = models.UUIDField("account")
    target_type = models.CharField(max_length=32)
    target_id = models.UUIDField()
    target_name = models.CharField(max_length=255)
    count = models.BigIntegerField(help_text="Of a running VM its CPUs, else 1")
    size_bytes = models.BigIntegerField(help_text="Of a running VM its memory; 0 where there is nothing to measure")
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, default=None)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["target_id", "kind"], name="usage_goes_on_once", condition=Q(ended_at__isnull=True)
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["created_at", "id"], name="usage_by_time"),
            models.Index(fields=["account_id", "created_at", "id"], name="usage_by_account"),
            models.Index(fields=["target_id", "created_at", "id"], name="usage_by_target"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.target_name}"

    @staticmethod
    def visible_to_account(account_id: uuid.UUID) -> Q:
        return Q(account_id=account_id)


class Role(models.TextChoices):
    """What a user may do; the order is from most to least."""

    ADMIN = "admin", "admin (everything, also other admins)"
    OPERATOR = "operator", "operator (runs the fleet)"
    READ_ONLY = "read-only", "read-only (sees, changes nothing)"
    USER = "user", "user (the own account's objects)"


class User(AbstractUser):  # type: ignore[django-manager-missing]  # the tokens' manager is untyped
    """A person or a script. Without an account, admins, operators and read-only users see the whole fleet."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, null=True, blank=True, related_name="users")
    role = models.CharField(max_length=16, choices=Role, default=Role.USER)

    class Meta(AbstractUser.Meta):
        indexes: ClassVar = [models.Index(fields=["date_joined", "id"], name="user_by_time")]

    @property
    def name(self) -> str:
        return self.username

    @property
    def operates(self) -> bool:
        """May change the fleet, and sees all of it."""
        return self.is_superuser or self.role in {Role.ADMIN, Role.OPERATOR}

    @property
    def administers(self) -> bool:
        """May also make and change admins."""
        return self.is_superuser or self.role == Role.ADMIN

    @property
    def sees_everything(self) -> bool:
        return self.operates or (self.role == Role.READ_ONLY and self.account_id is None)

    @staticmethod
    def visible_to_account(account_id: uuid.UUID) -> Q:
        return Q(account_id=account_id)


class Token(AbstractAuthToken):  # type: ignore[misc]  # untyped
    """A user's key to the API. Only its hash is stored; the secret is shown once, when it is made."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    digest = models.CharField(max_length=128, unique=True, editable=False)
    name = models.CharField(max_length=255, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        indexes: ClassVar = [models.Index(fields=["created", "id"], name="token_by_time")]

    def __str__(self) -> str:
        return self.name or f"{self.token_key[:6]}…"

    @staticmethod
    def visible_to_account(account_id: uuid.UUID) -> Q:
        return Q(user__account_id=account_id)
