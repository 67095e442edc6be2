"""What has to run with Django on a lab's database: `python -m benchmarks.inside fill|sweep NUMBER`."""

import json
import sys
import time
import uuid
from typing import Any

import django
from django.db import connection, models

from benchmarks.measuring import Sizes, interleave, timed

OPEN_SHARE = 100
"""One in so many is open: the newest ones."""
_SPACING_SECONDS = 0.01


def fill(rows: int) -> None:
    """So many operations, each with a command and its attempt; copies of one of each, made by the database itself."""
    from infra_app.models import Agent
    from operations_app.models import Attempt, Command, Operation

    agent = Agent.objects.earliest("pk")
    about = {"kind": "template.register", "target_type": "template", "target_name": "benchmark"}
    operation = Operation.objects.create(**about, target_id=uuid.uuid4(), state="succeeded")
    fixed = {"position": 0, "direction": "do", "round": 1, "kind": "template.check", "lane": "benchmark"}
    command = Command.objects.create(**fixed, operation=operation, agent=agent, payload={}, seq=1 << 40)
    attempt = Attempt.objects.create(command=command, number=1)
    say = _Dialect(rows)
    for setting in say.hurry:
        _execute(setting)
    moments = {"created_at": say.moment, "finished_at": say.if_open("NULL", say.moment)}
    _copy(operation, rows, {"id": say.id, "state": say.if_open("'running'", "'succeeded'"), **moments})
    states = "CASE WHEN i %% 4 = 0 THEN 'SENT' ELSE 'PROCESSING' END"
    changes = {"state": say.if_open(states, "'COMPLETED'"), "seq": f"{1 << 41} + i", "deadline_at": say.far_away}
    _copy(command, rows, {"id": say.id, "operation_id": say.id, **changes, **moments, "sent_at": say.moment})
    _copy(attempt, rows, {"command_id": say.id, "created_at": say.moment}, without="id")
    for seed in (attempt, command, operation):
        seed.delete()
    if connection.vendor == "postgresql":
        # What autovacuum does by itself within a minute.
        _execute("VACUUM ANALYZE")


class _Dialect:
    """Expressions over the running number i, as each database writes them."""

    def __init__(self, rows: int) -> None:
        self._open_from = rows - rows // OPEN_SHARE
        # Spread over the index like random ids, and yet known from i.
        spread = "(i * 2654435761) %% 4294967296"
        began = time.time() - rows * _SPACING_SECONDS
        if connection.vendor == "postgresql":
            self.id = f"(lpad(to_hex({spread}), 8, '0') || lpad(to_hex(i), 24, '0'))::uuid"
            self.moment = f"to_timestamp({began} + i * {_SPACING_SECONDS})"
            self.far_away = "now() + interval '1 day'"
            # Without the triggers of foreign keys: the rows are right.
            self.hurry = ["SET session_replication_role = replica"]
        else:
            self.id = f"printf('%%08x', {spread}) || printf('%%024x', i)"
            self.moment = _sqlite_moment(f"{began} + i * {_SPACING_SECONDS}")
            self.far_away = _sqlite_moment(f"{began + 2 * 86_400}")
            self.hurry = ["PRAGMA synchronous = OFF", "PRAGMA cache_size = -500000"]

    def if_open(self, yes: str, no: str) -> str:
        return f"CASE WHEN i > {self._open_from} THEN {yes} ELSE {no} END"


def _sqlite_moment(seconds: str) -> str:
    """Text with six digits of a second, as Django compares it."""
    return f"strftime('%%Y-%%m-%%d %%H:%%M:%%f', {seconds}, 'unixepoch') || '000'"


def _copy(seed: models.Model, rows: int, changes: dict[str, str], without: str = "") -> None:
    columns = [str(field.column) for field in seed._meta.concrete_fields if field.column != without]
    table = seed._meta.db_table
    values = ", ".join(changes.get(column, f"seed.{column}") for column in columns)
    insert = f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM numbers, {table} seed WHERE seed.id = %s"
    numbers = f"SELECT 1 AS i UNION ALL SELECT i + 1 FROM numbers WHERE i < {rows}"
    if connection.vendor == "postgresql":
        numbers = f"SELECT generate_series(1::bigint, {rows}) AS i"
    pk = seed._meta.pk.get_db_prep_value(seed.pk, connection)
    # An index is made of all rows at once in a fraction of the time that they take one by one.
    with connection.schema_editor() as editor:
        for index in seed._meta.indexes:
            editor.remove_index(type(seed), index)
        editor.execute(f"WITH RECURSIVE numbers AS ({numbers}) {insert}", [pk])
        for index in seed._meta.indexes:
            editor.add_index(type(seed), index)


def _execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


RAW_QUESTIONS = (
    "SELECT id FROM operations_app_command WHERE state IN ('STARTED', 'PROCESSING') AND deadline_at < {now}",
    "SELECT c.id FROM operations_app_command c JOIN operations_app_attempt a ON a.command_id = c.id AND a.number ="
    " c.attempt WHERE c.state IN ('CREATED', 'SENT', 'QUEUED') AND c.cancel_requested_at IS NULL"
    " AND a.created_at < {yesterday}",
    "SELECT id FROM operations_app_command WHERE state = 'CREATED' ORDER BY seq LIMIT 1000",
    "SELECT w.operation_id FROM operations_app_waiter w JOIN operations_app_operation o ON o.id = w.awaited_id"
    " WHERE o.state NOT IN ('pending', 'running', 'needs_attention') LIMIT 1000",
    "SELECT id FROM operations_app_command WHERE state = 'RECONCILING' AND probed_at < {now}",
    "SELECT id FROM operations_app_command"
    " WHERE state IN ('INTERRUPTED', 'TIMED_OUT', 'RECONCILE_RETRY', 'RECONCILE_FAILED') LIMIT 100",
    "SELECT id FROM operations_app_operation WHERE state = 'needs_attention' LIMIT 1000",
    "SELECT o.id FROM operations_app_operation o WHERE o.state IN ('pending', 'running')"
    " AND NOT EXISTS (SELECT 1 FROM operations_app_waiter w WHERE w.operation_id = o.id)"
    " AND NOT EXISTS (SELECT 1 FROM operations_app_command c WHERE c.operation_id = o.id"
    " AND c.state NOT IN ('COMPLETED', 'FAILED', 'CANCELLED', 'RECONCILED')) LIMIT 1000",
)
"""What a sweep has to find out, as one would ask it by hand; all but what nobody waits for any more."""


def sweep(rounds: int) -> dict[str, list[float]]:
    """Seconds of a sweep that finds all in order, and of the questions alone."""
    from operations_app import sweep as sweeping

    sweeping.sweep()
    sizes = Sizes(rounds=rounds)
    return dict(interleave({"sweep": timed(sweeping.sweep), "raw SQL": timed(_ask)}, sizes).values)


def _ask() -> None:
    now, yesterday = "CURRENT_TIMESTAMP", "CURRENT_TIMESTAMP - interval '1 day'"
    if connection.vendor == "sqlite":
        yesterday = "datetime('now', '-1 day')"
    with connection.cursor() as cursor:
        for question in RAW_QUESTIONS:
            cursor.execute(question.format(now=now, yesterday=yesterday))
            cursor.fetchall()


if __name__ == "__main__":
    django.setup()
    done: Any = {"fill": fill, "sweep": sweep}[sys.argv[1]](int(sys.argv[2]))
    print(json.dumps(done))
