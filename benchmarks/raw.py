"""A raw INSERT: the driver itself, one row of the operations' table with all its indexes, and the server's commit."""

import sqlite3
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import JsonbDumper

from tests.lab.database import Postgres, Sqlite

_TABLE = "operations_app_operation"


class RawRows:
    """Copies one row of the table again and again, settled, so that nobody takes it up."""

    def __init__(self, database: Sqlite | Postgres) -> None:
        self._is_sqlite = isinstance(database, Sqlite)
        self._connection: Any = _sqlite(database.url) if isinstance(database, Sqlite) else _postgres(database.url)
        seed: Any = self._connection.execute(f"SELECT * FROM {_TABLE} LIMIT 1")
        names = [column[0] for column in seed.description]
        self._values = dict(zip(names, seed.fetchone(), strict=True)) | {"state": "cancelled"}
        mark = "?" if self._is_sqlite else "%s"
        self._insert = f"INSERT INTO {_TABLE} ({', '.join(names)}) VALUES ({', '.join([mark] * len(names))})"

    def insert(self) -> None:
        """One row in a transaction of its own."""
        self._values["id"] = self._new_id()
        self._connection.execute("BEGIN IMMEDIATE" if self._is_sqlite else "BEGIN")
        self._connection.execute(self._insert, list(self._values.values()))
        self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()

    def _new_id(self) -> str | UUID:
        return uuid4().hex if self._is_sqlite else uuid4()


def _sqlite(url: str) -> sqlite3.Connection:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=20, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def _postgres(url: str) -> psycopg.Connection[Any]:
    connection = psycopg.connect(url, autocommit=True)
    for kind in (dict, list):
        connection.adapters.register_dumper(kind, JsonbDumper)
    return connection
