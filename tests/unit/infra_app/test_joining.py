"""An agent joins once, says hello with a higher epoch each start, and nobody else can speak for it."""

from dataclasses import asdict
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone
from rest_framework.test import APIClient

from agents.protocol.sealing import new_key
from core_app.errors import CloudctlError, InvalidInput, NotPermitted, WrongState
from core_app.models import Event
from infra_app import actions
from infra_app.models import Agent, JoinToken, Zone
from tests.unit.people import Person, application, hello, joined


def test_from_join_token_to_host(olga: Person, anonymous: APIClient, zone: Zone) -> None:
    wish = {"zone": str(zone.pk), "role": "host"}
    token = olga.post("/api/v1/hosts/join-tokens/", wish).json()
    said = asdict(application("host1")) | {"join_token": token["join_token"]}
    answer = anonymous.post("/api/v1/agents/join/", said)
    assert answer.status_code == 201
    body = answer.json()
    assert body == {
        "id": body["id"],
        "broker_url": settings.CLOUDCTL_BROKER_URL,
        "queue_prefix": f"agent.{body['id']}",
        "epoch_floor": 0,
        "settings": {"ping.interval": 60, "host.accelerator": "auto"},
    }
    host = olga.get(f"/api/v1/hosts/{body['id']}/").json()
    assert (host["name"], host["zone"], host["state"], host["epoch"]) == ("host1", str(zone.pk), "joined", 0)
    listed = olga.get(f"/api/v1/hosts/join-tokens/{token['id']}/").json()
    assert listed["used_at"]
    assert "join_token" not in listed
    assert token["join_token"] not in str(JoinToken.objects.values())


def test_a_lost_answer_is_asked_for_again(zone: Zone) -> None:
    _, secret = actions.join_token_create(zone)
    said = application("host1")
    assert actions.join(secret, said) == actions.join(secret, said)
    assert Agent.objects.count() == Event.objects.filter(kind="agent.joined").count() == 1


def test_a_token_joins_one_agent_unless_reusable(zone: Zone) -> None:
    _, secret = actions.join_token_create(zone)
    actions.join(secret, application("host1"))
    with pytest.raises(NotPermitted, match="used already"):
        actions.join(secret, application("host2"))
    _, secret = actions.join_token_create(zone, reusable=True)
    actions.join(secret, application("host2"))
    actions.join(secret, application("host3"))
    assert Agent.objects.count() == 3


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"name": "host1"}, WrongState),
        ({"host_uuid": "uuid-of-host1"}, WrongState),
        ({"role": "image-store"}, NotPermitted),
        ({"public_key": "x"}, InvalidInput),
        ({"public_key": ""}, InvalidInput),
    ],
)
def test_who_is_not_taken_in(zone: Zone, changes: dict[str, Any], error: type[CloudctlError]) -> None:
    joined(zone, "host1")
    _, secret = actions.join_token_create(zone, role="host")
    with pytest.raises(error):
        actions.join(secret, application("host2", **changes))
    assert Agent.objects.count() == 1
    assert actions.join(secret, application("host3")), "a refusal does not use the token up"


def test_an_expired_or_unknown_token(zone: Zone) -> None:
    token, secret = actions.join_token_create(zone)
    JoinToken.objects.filter(pk=token.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    for wrong in (secret, "guess"):
        with pytest.raises(NotPermitted, match="unknown or has expired"):
            actions.join(wrong, application("host1"))


def test_a_stranger_with_the_name_of_a_host_is_another_machine(zone: Zone) -> None:
    """A reusable token in the wrong hands must not give away an agent's place: its key is not the stranger's."""
    _, secret = actions.join_token_create(zone, reusable=True)
    mine = application("host1")
    actions.join(secret, mine)
    with pytest.raises(WrongState):
        actions.join(secret, actions.Application(**asdict(mine) | {"public_key": new_key()[1]}))


def test_a_first_hello_brings_it_up(agent: Agent) -> None:
    assert actions.record_hello(hello(agent)) == actions.Greeting(accepted=True, epoch_floor=1)
    agent.refresh_from_db()
    assert (agent.state, agent.epoch, agent.boot_id, agent.agent_version) == ("up", 1, "boot-1", "0.1.0")
    assert (agent.host.cpus, agent.host.libvirt_version) == (4, "9.0.0")
    assert agent.last_ping_at


@pytest.mark.parametrize(
    ("epoch", "changes", "accepted"),
    [
        (5, {}, True),
        (5, {"boot_id": "another"}, False),
        (6, {}, True),
        (4, {}, False),
        (6, {"machine_id": "another"}, False),
        (6, {"host_uuid": "another"}, False),
        (6, {"role": "image-store"}, False),
    ],
    ids=["repeated", "copied", "restarted", "stale", "other machine", "other libvirt", "other role"],
)
def test_which_hello_counts_after_epoch_5(agent: Agent, epoch: int, changes: dict[str, Any], accepted: bool) -> None:
    actions.record_hello(hello(agent, 5))
    answer = actions.record_hello(hello(agent, epoch, **changes))
    assert (answer.accepted, answer.epoch_floor) == (accepted, epoch if accepted else 5)
    assert bool(answer.reason) is not accepted
    agent.refresh_from_db()
    assert agent.epoch == (epoch if accepted else 5)


def test_another_machine_is_an_alarm(agent: Agent) -> None:
    for _ in range(3):
        actions.record_hello(hello(agent, machine_id="another"))
    assert Event.objects.filter(kind="agent.wrong_machine", level="alarm").count() == 1


def test_an_agent_nobody_knows_is_refused(agent: Agent) -> None:
    unknown = "11111111-1111-1111-1111-111111111111"
    assert not actions.record_hello(hello(agent, agent_id=unknown)).accepted


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("joined", "up"),
        ("up", "up"),
        ("disconnected", "up"),
        ("maintenance", "maintenance"),
        ("down", "maintenance"),
    ],
)
def test_what_state_a_hello_leads_to(agent: Agent, before: str, after: str) -> None:
    Agent.objects.filter(pk=agent.pk).update(state=before)
    assert actions.record_hello(hello(agent)).accepted
    agent.refresh_from_db()
    assert agent.state == after


def test_an_agent_that_has_seen_more_than_was_issued_stops_deletions(agent: Agent) -> None:
    assert [actions.issue_seq(agent.pk) for _ in range(3)] == [1, 2, 3]
    actions.record_hello(hello(agent, 1, highest_seq=3))
    agent.refresh_from_db()
    assert (agent.ahead, agent.zone.deletions_suspended) == (False, False)
    for _ in range(2):
        actions.record_hello(hello(agent, 2, highest_seq=4))
    agent = Agent.objects.get(pk=agent.pk)
    assert (agent.ahead, agent.zone.deletions_suspended, agent.highest_seq_seen) == (True, True, 4)
    assert Event.objects.filter(kind="agent.ahead", level="alarm").count() == 1
