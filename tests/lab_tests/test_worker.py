"""A real worker of queue ``control`` on a real broker."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.lab.broker import free_port
from tests.lab.supervisor import ROOT
from tests.lab.waiting import poll
from tests.unit import garbage

PASSWORD = "hunter2-of-the-broker"
SECONDS = 30


@dataclass(frozen=True)
class Worker:
    process: subprocess.Popen[bytes]
    log: Path
    broker: Redis

    def lines(self) -> list[dict[str, Any]]:
        whole = [line for line in self.log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        return [json.loads(line) for line in whole]

    def says(self, text: str) -> bool:
        return any(text in line["event"] for line in self.lines())


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker whose broker wants a password."""
    folder, port = tmp_path_factory.mktemp("worker"), free_port()
    with (folder / "redis.log").open("wb") as log:
        redis = subprocess.Popen(
            ["redis-server", "--port", str(port), "--requirepass", PASSWORD, "--save", "", "--dir", folder],
            stdout=log,
            stderr=log,
        )
    environment = os.environ | {
        "CLOUDCTL_BROKER_URL": f"redis://:{PASSWORD}@127.0.0.1:{port}/0",
        "CLOUDCTL_DATABASE_URL": f"sqlite:///{folder}/db.sqlite3",
        "CLOUDCTL_SECRETS_DIR": str(folder / "secrets"),
    }
    command = [sys.executable, "-m", "celery", "-A", "cloudctl", "worker", "-P", "threads", "-c", "2", "-Q", "control"]
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
    with Redis(port=port, password=PASSWORD) as broker:
        worker = Worker(process, folder / "worker.log", broker)
        try:
            poll(lambda: worker.says("ready."), SECONDS, "the worker is ready")
            yield worker
        finally:
            process.terminate()
            process.wait(SECONDS)
            redis.kill()
            redis.wait()


def test_its_log_is_json_lines_without_the_brokers_password(worker: Worker) -> None:
    assert worker.lines()
    assert PASSWORD not in worker.log.read_text()


def test_what_nobody_can_read_is_skipped_and_it_goes_on(worker: Worker) -> None:
    unreadable = garbage.unreadable("operations.ping")
    worker.broker.lpush("control", *unreadable.values(), *garbage.misfits("operations.ping").values())
    worker.broker.lpush("control", garbage.message("operations.hello"))
    poll(lambda: worker.process.poll() is not None or worker.says("operations.hello"), SECONDS, "the last is taken")
    assert worker.process.poll() is None, worker.log.read_text()[-3000:]
    skipped = [line for line in worker.lines() if line["event"] == "message.skipped"]
    assert [line["skipped"] for line in skipped] == list(range(1, len(unreadable) + 1))
    assert garbage.SECRET not in worker.log.read_text()
    # Nothing is kept to be tried again.
    poll(lambda: not worker.broker.exists("control", "unacked"), SECONDS, "nothing is left in the broker")
