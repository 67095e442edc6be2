"""A real worker of queue ``control`` on a real broker."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.waiting import poll

ROOT = Path(__file__).resolve().parents[3]
PASSWORD = "hunter2-of-the-broker"


@pytest.fixture
def worker_log(unused_port: int, tmp_path: Path) -> Iterator[Path]:
    """The log of a worker whose broker wants a password."""
    with (tmp_path / "redis.log").open("wb") as log:
        redis = subprocess.Popen(
            ["redis-server", "--port", str(unused_port), "--requirepass", PASSWORD, "--save", "", "--dir", tmp_path],
            stdout=log,
            stderr=log,
        )
    environment = os.environ | {
        "CLOUDCTL_BROKER_URL": f"redis://:{PASSWORD}@127.0.0.1:{unused_port}/0",
        "CLOUDCTL_DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
        "CLOUDCTL_SECRETS_DIR": str(tmp_path / "secrets"),
    }
    command = [sys.executable, "-m", "celery", "-A", "cloudctl", "worker", "-P", "threads", "-c", "2", "-Q", "control"]
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
    yield tmp_path / "worker.log"
    worker.terminate()
    worker.wait(30)
    redis.kill()
    redis.wait()


def test_its_log_is_json_lines_without_the_brokers_password(worker_log: Path) -> None:
    def ready() -> bool:
        return any(line["event"].endswith("ready.") for line in map(json.loads, _json_lines(worker_log)))

    poll(ready, 30, "the worker is ready")
    assert PASSWORD not in worker_log.read_text()


def _json_lines(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
