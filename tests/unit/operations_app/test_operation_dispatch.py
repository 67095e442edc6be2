"""Publishing: after the commit, once, without secrets in sight; and what a broker that is not there costs."""

import json
import time
from collections.abc import Callable

import pytest
from django.db import transaction
from redis import Redis

from agents.protocol.messages import command_queue
from agents.protocol.sealing import new_key, unseal
from infra_app.models import Agent, Zone
from operations_app import dispatch, sweep
from operations_app.actions import cancel
from operations_app.models import Command
from operations_app.workflow import CommandSpec, Step
from tests.unit.operations_app.toys import FetchAndStart, HostVoice, ago, begin, download, the_command

NOWHERE = "redis://127.0.0.1:1/0"


def test_a_command_is_a_message_after_its_commit_only(host: HostVoice, zone: Zone) -> None:
    with transaction.atomic():
        begin("toy.shared", zone, host)
        assert host.hears() == []
    (message,) = host.hears()
    command = Command.objects.get()
    assert {name: message[name] for name in ("command_id", "attempt", "kind", "epoch", "seq", "lane", "payload")} == {
        "command_id": str(command.pk),
        "attempt": 1,
        "kind": "template.download",
        "epoch": host.epoch,
        "seq": 1,
        "lane": "placement:f0",
        "payload": command.payload,
    }


def test_what_is_rolled_back_is_never_published(host: HostVoice, zone: Zone) -> None:
    with transaction.atomic():
        begin("toy.shared", zone, host)
        transaction.set_rollback(True)
    assert (host.hears(), Command.objects.count()) == ([], 0)


def test_its_task_is_named_by_its_kind_and_shows_ids_only(host: HostVoice, zone: Zone, broker: Redis) -> None:
    begin("toy.shared", zone, host)
    (raw,) = broker.lrange(command_queue(str(host.agent.pk)), 0, -1)
    headers = json.loads(raw)["headers"]
    assert headers["task"] == "agents.template.download"
    assert headers["argsrepr"] == str(Command.objects.get().pk)
    assert headers["kwargsrepr"] == ""


def test_secrets_travel_and_are_stored_sealed_to_the_agent_alone(
    host: HostVoice, zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = new_key()
    Agent.objects.update(public_key=public)

    class Secretive(Step):
        name = "secretive"

        def send(self, operation: object) -> list[CommandSpec]:
            plain = download(str(host.agent.pk), "f0")
            return [CommandSpec(plain.kind, plain.agent_id, plain.lane, plain.payload, secrets={"key": "hunter2"})]

    monkeypatch.setattr(FetchAndStart, "steps", (Secretive(),))
    begin("toy.deploy", zone, host)
    (message,) = host.hears()
    assert unseal(private, message["sealed"]) == {"key": "hunter2"}
    assert "hunter2" not in json.dumps(list(Command.objects.values()), default=str)


def test_a_broker_that_is_not_there_costs_little_and_loses_nothing(
    host: HostVoice, zone: Zone, use_broker: Callable[[str], None], redis_socket: object
) -> None:
    use_broker(NOWHERE)
    operations = [begin("toy.shared", zone, host) for _ in range(3)]
    cancel(operations[2].pk)
    began = time.monotonic()
    assert not any(dispatch.send_cancel(the_command(operations[0])) for _ in range(10))
    assert time.monotonic() - began < 10, "left to itself, each try to connect would take two seconds"
    use_broker(f"redis+socket://{redis_socket}")
    for operation in operations:
        ago(the_command(operation), "sent_at", 3600)
    host.pings()
    assert {message["command_id"] for message in host.hears()} == {str(the_command(each).pk) for each in operations}


def test_one_that_could_not_be_published_stops_the_rest_until_the_sweep(
    host: HostVoice, zone: Zone, use_broker: Callable[[str], None], redis_socket: object
) -> None:
    Agent.objects.update(state="disconnected")
    for _ in range(3):
        begin("toy.shared", zone, host)
    Agent.objects.update(state="up")
    use_broker(NOWHERE)
    dispatch.publish_waiting()
    assert sorted(Command.objects.values_list("state", flat=True)) == ["CREATED", "CREATED", "SENT"]
    use_broker(f"redis+socket://{redis_socket}")
    sweep.sweep()
    assert [message["seq"] for message in host.hears()] == [2, 3]


@pytest.mark.parametrize("state", ["joined", "disconnected", "maintenance", "down"])
def test_nothing_is_sent_to_a_host_that_is_not_up(host: HostVoice, zone: Zone, state: str) -> None:
    Agent.objects.update(state=state)
    begin("toy.shared", zone, host)
    sweep.sweep()
    assert host.hears() == []
    assert Command.objects.get().state == "CREATED"


def test_commands_are_sent_in_the_order_of_their_numbers(host: HostVoice, zone: Zone) -> None:
    Agent.objects.update(state="disconnected")
    for _ in range(5):
        begin("toy.shared", zone, host, host)
    Agent.objects.update(state="up")
    sweep.sweep()
    assert [message["seq"] for message in host.hears()] == list(range(1, 11))
