"""Fixtures of the tests that have a fleet."""

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu import pools
from redis import Redis

from accounts_app.models import Account
from cloudctl.celery import app
from infra_app.models import Agent, StoragePool, Zone
from templates_app.models import Template
from tests.lab.waiting import poll
from tests.unit.templates_app.fleet import Fleet


@pytest.fixture(scope="session")
def redis_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("redis")
    socket = folder / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        poll(socket.exists, 20, "redis listens")
        yield socket
    finally:
        server.kill()
        server.wait()


@pytest.fixture(autouse=True)
def broker(redis_socket: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    """The real broker that the project publishes to, empty."""
    monkeypatch.setitem(app.conf, "broker_url", f"redis+socket://{redis_socket}")
    _forget_connections()
    with Redis(unix_socket_path=str(redis_socket)) as client:
        client.flushall()
        yield client
    _forget_connections()


def _forget_connections() -> None:
    pools.reset()
    app.__dict__.pop("amqp", None)  # holds the pool of producers


@pytest.fixture(autouse=True)
def no_hidden_trouble(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The code that takes reports and sweeps logs the trouble of one row and goes on; here it fails the test."""
    yield
    troubles = [record for record in caplog.get_records("call") if record.exc_info and record.levelno >= logging.ERROR]
    assert not troubles, caplog.text


@pytest.fixture
def fleet(zone: Zone, acme: Account) -> Fleet:
    return Fleet(zone, acme)


@pytest.fixture
def host(fleet: Fleet) -> Agent:
    return fleet.host("host1")


@pytest.fixture
def pool(fleet: Fleet, host: Agent) -> StoragePool:
    """Reached by the host."""
    return fleet.pool("shared", host)


@pytest.fixture
def template(fleet: Fleet, host: Agent) -> Template:
    return fleet.template()
