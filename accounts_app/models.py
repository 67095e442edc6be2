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
    limits = models.JSONField(
        default=dict, blank=True, help_text="Largest number or bytes by resource; absent: no limit"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        indexes: ClassVar = [models.Index(fields=["created_at", "id"], name="account_by_time")]

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def visible_to_account(account_id: uuid.UUID) -> Q:
        return Q(pk=account_id)


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
