"""``/livez`` and ``/readyz`` against a real broker that comes, hangs and goes, and databases that are not there."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.test import Client

from cloudctl.celery import app
from tests.lab.waiting import poll

ROOT = Path(__file__).resolve().parents[3]
ASK = """
import django, json
django.setup()
from django.test import Client
for path in ("/livez", "/readyz"):
    answer = Client().get(path, headers={"host": "localhost"})
    print(json.dumps([answer.status_code, answer.json()]))
"""


@pytest.fixture
def redis(unused_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A Redis of this test's own, which the project's settings name as its broker."""
    monkeypatch.setitem(app.conf, "broker_url", f"redis://127.0.0.1:{unused_port}/0")
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
    assert seconds < 15, "a broker that hangs does not hang the answer"
    redis.send_signal(signal.SIGCONT)
    assert readyz(client)[:2] == (200, [])
    redis.kill()
    redis.wait()
    status, missing, seconds = readyz(client)
    assert (status, missing) == (503, ["broker"])
    assert seconds < 5
    assert client.get("/livez").json() == {"status": "alive"}


@pytest.mark.parametrize(
    "scheme", ["sqlite:////nowhere/at-all/db.sqlite3", "postgres://me:hunter2@127.0.0.1:{port}/db"]
)
def test_without_its_database_it_lives_but_is_not_ready(scheme: str, unused_port: int, tmp_path: Path) -> None:
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "cloudctl.settings",
        "CLOUDCTL_DATABASE_URL": scheme.format(port=unused_port),
        "CLOUDCTL_BROKER_URL": f"redis://:hunter2@127.0.0.1:{unused_port}/0",
        "CLOUDCTL_SECRETS_DIR": str(tmp_path),
    }
    asked = subprocess.run(
        [sys.executable, "-c", ASK], env=environment, cwd=ROOT, capture_output=True, timeout=60, check=True
    )
    alive, ready = [json.loads(line) for line in asked.stdout.splitlines()]
    assert alive == [200, {"status": "alive"}]
    assert (ready[0], sorted(ready[1]["reasons"])) == (503, ["broker", "database"])
    assert "hunter2" not in str(ready)
