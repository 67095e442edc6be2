"""The people of the tests, each with an API client and a real token; a fleet to begin with; a private Redis.

Alice owns account ``acme`` with Bob as a teammate; Charlie is an outsider. Ada administers, Olga operates, Rita reads.
"""

import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from math import inf
from pathlib import Path

import pytest
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.core.management.color import no_style
from django.db import connection
from django.test import TransactionTestCase
from kombu import pools
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from rest_framework.test import APIClient

from accounts_app.actions import account_create
from accounts_app.models import Account, Role
from accounts_app.throttling import TokenThrottle
from cloudctl.celery import app
from infra_app import actions
from infra_app.models import Agent, Zone
from tests.lab.waiting import poll
from tests.unit.people import Person, joined, person

_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> None:
    """SQLite's file lies in memory: it locks as on a disk does, and no commit waits for the disk."""
    test = connection.settings_dict["TEST"]
    if connection.vendor == "sqlite" and _MEMORY.is_dir():
        test["NAME"] = str(_MEMORY / Path(test["NAME"]).name)


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> Iterator[None]:
    """Django's own way to empty the database makes content types and permissions anew: ten times the work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", lambda _: _empty_database())
        yield


def _empty_database() -> None:
    connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), _tables()))


@cache
def _tables() -> list[str]:
    """All but those of the rows that Django makes after migrating, which every test finds."""
    kept = {ContentType._meta.db_table, Permission._meta.db_table}
    names = connection.introspection.django_table_names(only_existing=True, include_views=False)
    return sorted(set(names) - kept)


@pytest.fixture(autouse=True)
def the_throttle_knows_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads its setting every few seconds: never in the middle of a test that counts queries."""
    monkeypatch.setattr(TokenThrottle, "_limit_read_at", inf)


@pytest.fixture
def acme(db: None) -> Account:
    return account_create("acme")


@pytest.fixture
def alice(acme: Account) -> Person:
    return person("alice", Role.USER, acme)


@pytest.fixture
def bob(acme: Account) -> Person:
    return person("bob", Role.USER, acme)


@pytest.fixture
def charlie(db: None) -> Person:
    return person("charlie", Role.USER, account_create("other"))


@pytest.fixture
def ada(db: None) -> Person:
    return person("ada", Role.ADMIN)


@pytest.fixture
def olga(db: None) -> Person:
    return person("olga", Role.OPERATOR)


@pytest.fixture
def rita(db: None) -> Person:
    return person("rita", Role.READ_ONLY)


@pytest.fixture
def anonymous(db: None) -> APIClient:
    return APIClient(raise_request_exception=False)


@pytest.fixture
def zone(db: None) -> Zone:
    return actions.zone_create("zone1")


@pytest.fixture
def agent(zone: Zone) -> Agent:
    """A host's agent that has joined and not yet said hello."""
    return joined(zone, "host1")


# --- the broker ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def redis_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("redis")
    socket = folder / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        poll(lambda: _answers(socket), 20, "redis answers")
        yield socket
    finally:
        server.kill()
        server.wait()


def _answers(socket: Path) -> bool:
    try:
        return Redis(unix_socket_path=str(socket)).ping() is True
    except RedisConnectionError:
        return False


@pytest.fixture
def use_broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Let the project publish to the broker at a URL, as if it had been started with it."""

    def use(url: str) -> None:
        monkeypatch.setitem(app.conf, "broker_url", url)
        _forget_connections()

    yield use
    _forget_connections()


def _forget_connections() -> None:
    pools.reset()
    app.__dict__.pop("amqp", None)  # holds the pool of producers


@pytest.fixture
def broker(redis_socket: Path, use_broker: Callable[[str], None]) -> Iterator[Redis]:
    """The broker that the project uses, empty."""
    with Redis(unix_socket_path=str(redis_socket)) as client:
        client.flushall()
        use_broker(f"redis+socket://{redis_socket}")
        yield client
