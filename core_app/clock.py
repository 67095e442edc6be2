"""The database's clock, the only one that silence and leases are measured by. In statements, use ``Now()`` itself."""

from datetime import UTC, datetime

from django.db import connection

_SQL = {"sqlite": "SELECT STRFTIME('%Y-%m-%d %H:%M:%f', 'NOW')", "postgresql": "SELECT STATEMENT_TIMESTAMP()"}


def database_now() -> datetime:
    """Now, in UTC. The precision is SQLite's: milliseconds."""
    with connection.cursor() as cursor:
        cursor.execute(_SQL[connection.vendor])
        (now,) = cursor.fetchone()
    return datetime.fromisoformat(now).replace(tzinfo=UTC) if isinstance(now, str) else now.astimezone(UTC)
