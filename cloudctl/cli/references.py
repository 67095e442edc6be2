"""Names of objects instead of ids, both ways."""

import re
from typing import Any

from cloudctl.cli.client import Client
from cloudctl.cli.errors import CliError, RefusedError
from cloudctl.cli.table import Resource

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NAMES_LIMIT = 50
"""Objects whose names one table looks up; further ones are shown by id."""


def is_id(text: str) -> bool:
    """Whether it is written as ids are."""
    return _ID.fullmatch(text) is not None


class References:
    """Looks up what a name stands for, and what an id is called; each once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._names: dict[str, str] = {}

    def id_of(self, resource: Resource, text: str) -> str:
        """The id of the one object that is meant. Raises CliError if there is none or more than one."""
        if is_id(text):
            return text
        if not resource.named:
            raise CliError(f"{text} is no id.", "Nothing was done.", f"`cloudctl {resource.name} list` shows the ids.")
        rows = [row for row in self._called(resource, text) if row.get("state") not in resource.gone]
        if len(rows) != 1:
            raise _not_one(resource, text, rows)
        return str(rows[0]["id"])

    def name_of(self, resource: Resource, key: str) -> str:
        """The object's name; the id itself where it cannot be had."""
        if key not in self._names:
            self._names[key] = self._look_up(resource, key)
        return self._names[key]

    def _called(self, resource: Resource, name: str) -> list[dict[str, Any]]:
        if resource.filters_by_name:
            return list(self._client.rows(resource.path, name=name))
        return [row for row in self._client.rows(resource.path) if row["name"] == name]

    def _look_up(self, resource: Resource, key: str) -> str:
        if len(self._names) >= NAMES_LIMIT:
            return key
        try:
            return str(self._client.get(f"{resource.path}{key}/")["name"])
        except RefusedError:
            return key


def _not_one(resource: Resource, name: str, rows: list[dict[str, Any]]) -> CliError:
    if not rows:
        return CliError(
            f"Nothing in {resource.name} is called {name}.",
            "Nothing was done.",
            f"`cloudctl {resource.name} list` shows what there is.",
        )
    return CliError(
        f"{len(rows)} in {resource.name} are called {name}.",
        "Nothing was done.",
        "Give the id of the one that is meant.",
        details=tuple((str(row.get("state", "id")), str(row["id"])) for row in rows),
    )
