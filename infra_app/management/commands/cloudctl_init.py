"""``manage.py cloudctl_init --zone NAME --json``: what a fresh installation needs before its first request."""

import json
import secrets
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction

from accounts_app.actions import account_create, token_create, user_create
from accounts_app.models import Account, Role, User
from infra_app.actions import join_token_create, zone_create
from infra_app.models import Zone

ADMIN = "admin"
OPERATOR = "operator"


class Command(BaseCommand):
    help = (
        "Make account, admin, operator and zone where they are missing; print a new operator's token, a new password "
        "of the admin and a new reusable join token. Secrets cannot be read back, so each call makes new ones."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--zone", default="zone1", help="name of the zone")
        parser.add_argument("--join-token-hours", type=float, default=24)
        parser.add_argument("--json", action="store_true", help="print one line of JSON")

    def handle(self, *_args: Any, **options: Any) -> None:
        with transaction.atomic():
            made = _initialise(options["zone"], timedelta(hours=options["join_token_hours"]))
        if options["json"]:
            self.stdout.write(json.dumps(made))
            return
        for key, value in made.items():
            self.stdout.write(f"{key}: {value}")


def _initialise(zone_name: str, valid: timedelta) -> dict[str, str]:
    account = Account.objects.filter(name=ADMIN).first() or account_create(ADMIN)
    password = secrets.token_urlsafe(16)
    admin = _user(ADMIN, Role.ADMIN, account)
    admin.is_superuser = True
    admin.set_password(password)
    admin.save(update_fields=["is_superuser", "password"])
    _, token = token_create(_user(OPERATOR, Role.OPERATOR, account), name="cloudctl_init", by=None)
    zone = Zone.objects.filter(name=zone_name).first() or zone_create(zone_name)
    _, join_token = join_token_create(zone, valid=valid, reusable=True)
    return {
        "zone": str(zone.pk),
        "token": token,
        "admin_user": admin.name,
        "admin_password": password,
        "join_token": join_token,
    }


def _user(name: str, role: Role, account: Account) -> User:
    known = User.objects.filter(username=name).first()
    return known or user_create(name=name, role=role, account=account, password=None, by=None)
