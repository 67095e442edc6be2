"""The lab's broker and database come back on the same address: Redis empty, PostgreSQL with all it had."""

from pathlib import Path

import psycopg
import redis

from tests.lab.broker import Broker
from tests.lab.database import Postgres
from tests.lab.supervisor import Supervisor


def test_redis_comes_back_on_its_port_and_empty(supervisor: Supervisor, lab_dir: Path) -> None:
    broker = Broker(lab_dir / "redis", supervisor)
    broker.start()
    with redis.Redis.from_url(broker.url) as client:
        client.set("message", "lost")
        supervisor.restarted("redis", after=supervisor.kill("redis"))
        broker.wait_answering()
        assert client.get("message") is None


def test_postgres_keeps_what_was_committed_through_a_kill(supervisor: Supervisor, lab_dir: Path) -> None:
    postgres = Postgres(lab_dir / "pg", supervisor)
    postgres.start()
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE rows AS SELECT 7 AS kept")
    supervisor.restarted("postgres", after=supervisor.kill("postgres"))
    postgres.wait_answering()
    with psycopg.connect(postgres.url) as connection:
        assert connection.execute("SELECT kept FROM rows").fetchone() == (7,)
