"""``/livez`` and ``/readyz`` against a real broker that comes, hangs and goes."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.test import Client

from agents.common.broker import ANSWER_SECONDS, CONNECT_SECONDS, transport_options
from cloudctl.celery import app
from tests.lab.waiting import poll


@pytest.fixture
def redis(unused_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A Redis of this test's own, which the project's settings name as its broker."""
    url = f"redis://127.0.0.1:{unused_port}/0"
    monkeypatch.setitem(app.conf, "broker_url", url)
    # A tenth of the time that production waits.
    options = transport_options(url) | {"socket_timeout": ANSWER_SECONDS / 10}
    monkeypatch.setitem(app.conf, "broker_transport_options", options)
    monkeypatch.setattr("cloudctl.health.CONNECT_SECONDS", CONNECT_SECONDS / 10)
    with (tmp_path / "redis.log").open("wb") as log:
        server = subprocess.Popen(
            ["redis-server", "--port", str(unused_port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)],
            stdout=log,
            stderr=log,
        )
    yield server
    server.kill()
    server.wait()


def readyz(client: Client) -> tuple[int, list[str], float]:
    began = time.monotonic()
    answer = client.get("/readyz")
    return answer.status_code, sorted(answer.json()["reasons"]), time.monotonic() - began


def test_ready_follows_the_broker(client: Client, db: None, redis: subprocess.Popen[bytes]) -> None:
    poll(lambda: readyz(client)[:2] == (200, []), 20, "ready")
    redis.send_signal(signal.SIGSTOP)
    status, missing, seconds = readyz(client)
    assert (status, missing) == (503, ["broker"])
    assert seconds < 5, "a broker that hangs does not hang the answer"
    redis.send_signal(signal.SIGCONT)
    assert readyz(client)[:2] == (200, [])
    redis.kill()
    redis.wait()
    status, missing, seconds = readyz(client)
    assert (status, missing) == (503, ["broker"])
    assert seconds < 5
    assert client.get("/livez").json() == {"status": "alive"}
