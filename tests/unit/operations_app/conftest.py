"""A private Redis that the project publishes to, and hosts whose words the tests speak."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kombu import pools
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from cloudctl.celery import app
from infra_app.models import Zone
from tests.lab.waiting import poll
from tests.unit.operations_app.toys import HostVoice
from tests.unit.people import joined


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


@pytest.fixture
def host(transactional_db: None, zone: Zone, broker: Redis) -> HostVoice:
    """A host that has said hello and is up."""
    return _up(zone, "host1", broker)


@pytest.fixture
def other(host: HostVoice, zone: Zone, broker: Redis) -> HostVoice:
    """A second host that is up."""
    return _up(zone, "host2", broker)


def _up(zone: Zone, name: str, broker: Redis) -> HostVoice:
    voice = HostVoice(joined(zone, name), broker)
    voice.hello()
    return voice
