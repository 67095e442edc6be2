"""``manage.py set_setting NAME VALUE``."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from core_app import settings_rows
from core_app.errors import CloudctlError


class Command(BaseCommand):
    help = "Set a setting, as PUT /api/v1/settings/NAME/ does"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument("value")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            value = settings_rows.put(options["name"], options["value"])
        except CloudctlError as error:
            raise CommandError(str(error))
        self.stdout.write(f"{options['name']} = {value}")
