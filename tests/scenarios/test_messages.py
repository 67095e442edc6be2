"""A message may be lost. Nothing may depend on its not being."""

import contextlib
import signal

import psutil
import redis

from tests.lab.waiting import poll
from tests.scenarios.cloud import Cloud


def broker(cloud: Cloud) -> redis.Redis:
    return redis.Redis.from_url(cloud.lab.broker.url)


def test_a_lost_answer_is_completed_by_the_next_ping(cloud: Cloud) -> None:
    template, pool = cloud.template(), cloud.pool("host1-local")
    journal = cloud.lab.hosts[0].journal
    cloud.lab.supervisor.stop("control")
    try:
        operation = cloud.prepare(template, pool)

        def answered() -> bool:
            return any('"COMPLETED"' in path.read_text() for path in journal.glob("*.json"))

        poll(answered, 20, "the agent has done it")
        with broker(cloud) as client:
            # Every report so far, the answer among them.
            reports = [line for line in client.lrange("control", 0, -1) if b"operations.reports" in line]
            poll(lambda: _all_reports_lost(client), 5, "the reports are lost")
        assert reports
    finally:
        cloud.lab.supervisor.release("control")
    settled = cloud.settled(operation, 20)
    (command,) = cloud.commands(settled)
    assert (command["state"], command["attempt"]) == ("COMPLETED", 1)
    assert len(cloud.downloads(template)) == 1


def _all_reports_lost(client: redis.Redis) -> bool:
    """Takes the reports out of the server's queue; true when the agent has had its say and none is left."""
    lines = client.lrange("control", 0, -1)
    reports = [line for line in lines if b"operations.reports" in line]
    for line in reports:
        client.lrem("control", 0, line)  # type: ignore[arg-type]  # the stubs know text only
    # A ping that follows the answer carries it; it is what shall arrive.
    return not reports and any(b"operations.ping" in line for line in lines[:1])


def test_a_lost_message_is_sent_again(cloud: Cloud) -> None:
    template, pool, host = cloud.template(), cloud.pool("host1-local"), cloud.lab.hosts[0]
    queue = f"agent.{host.id}"
    agent = cloud.lab.supervisor.pids()[host.part]
    assert agent is not None
    with broker(cloud) as client:
        cloud.lab.supervisor.kill(host.part, signal.SIGSTOP)
        try:
            # A stopped agent still has its request for the next message with Redis; without it, messages stay there.
            _disconnect(client, agent)
            operation = cloud.prepare(template, pool)
            poll(lambda: client.llen(queue), 5, "the message is on its way")
            client.delete(queue)
        finally:
            cloud.lab.supervisor.kill(host.part, signal.SIGCONT)
    settled = cloud.settled(operation, 20)
    (command,) = cloud.commands(settled)
    assert [attempt["times_sent"] for attempt in command["attempts"]] == [2]
    assert len(cloud.downloads(template)) == 1


def _disconnect(client: redis.Redis, pid: int) -> None:
    ports = {connection.laddr.port for connection in psutil.Process(pid).net_connections("tcp")}
    for row in client.client_list():
        if int(row["addr"].rsplit(":", 1)[1]) in ports:
            with contextlib.suppress(redis.ResponseError):
                client.client_kill_filter(_id=row["id"])
