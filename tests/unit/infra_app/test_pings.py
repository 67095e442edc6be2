"""Pings: who counts as alive, what they say of pools, and numbers that are never given twice."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from agents.protocol.messages import Ping, PoolFact
from core_app.clock import database_now
from core_app.errors import NotFound
from core_app.models import Event
from infra_app import actions
from infra_app.models import Agent, PoolReach, StoragePool, Zone
from tests.unit.people import hello, joined


def ping(agent: Agent, epoch: int = 1, highest_seq: int = 0, pools: tuple[PoolFact, ...] = ()) -> Ping:
    return Ping(agent_id=str(agent.pk), epoch=epoch, number=1, entries=(), highest_seq=highest_seq, pools=pools)


@pytest.fixture
def up(agent: Agent) -> Agent:
    actions.record_hello(hello(agent))
    agent.refresh_from_db()
    return agent


def test_only_the_current_start_lives(up: Agent) -> None:
    long_ago = database_now() - timedelta(hours=1)
    Agent.objects.update(last_ping_at=long_ago)
    assert not actions.record_ping(ping(up, epoch=0))
    assert not actions.record_ping(ping(up, epoch=2))
    up.refresh_from_db()
    assert up.last_ping_at == long_ago
    assert actions.record_ping(ping(up))
    up.refresh_from_db()
    assert up.last_ping_at
    assert abs(up.last_ping_at - database_now()) < timedelta(seconds=30)


def test_silence_disconnects_and_a_ping_brings_back(up: Agent, zone: Zone) -> None:
    talker = joined(zone, "host2")
    actions.record_hello(hello(talker))
    cutoff = database_now() - timedelta(seconds=50)
    assert actions.mark_silent(cutoff) == []
    Agent.objects.filter(pk=up.pk).update(last_ping_at=cutoff - timedelta(seconds=1))
    assert actions.mark_silent(cutoff) == [up]
    assert actions.mark_silent(cutoff) == []
    states = dict(Agent.objects.values_list("name", "state"))
    assert states == {"host1": "disconnected", "host2": "up"}
    assert Event.objects.filter(kind="agent.disconnected", level="warning").count() == 1
    assert actions.record_ping(ping(up))
    up.refresh_from_db()
    assert up.state == "up"


@pytest.mark.parametrize("state", ["joined", "maintenance", "down", "disconnected"])
def test_only_who_is_up_can_fall_silent(up: Agent, state: str) -> None:
    Agent.objects.update(state=state, last_ping_at=database_now() - timedelta(days=1))
    assert actions.mark_silent(database_now()) == []


def test_a_ping_that_comes_between_look_and_judgement_saves_the_agent(up: Agent) -> None:
    """The guard is in the statement: what was read before does not decide."""
    cutoff = database_now() - timedelta(seconds=50)
    stale = Agent.objects.get(pk=up.pk)
    stale.last_ping_at = cutoff - timedelta(seconds=1)
    assert not actions._disconnect(stale, {"last_ping_at__lt": cutoff})
    up.refresh_from_db()
    assert up.state == "up"


def test_a_ping_tells_of_pools(up: Agent, zone: Zone) -> None:
    local = actions.storage_pool_create(name="l", zone=zone, type="local", path="/l", host=up.host)
    shared = actions.storage_pool_create(name="s", zone=zone, type="shared", path="/s", host=None)
    gone = PoolFact(pool_id=str(shared.pk), reachable=False, reason="not mounted")
    room = PoolFact(pool_id=str(local.pk), reachable=True, capacity_bytes=100, available_bytes=40)
    assert actions.record_ping(ping(up, pools=(room, gone)))
    assert actions.record_ping(ping(up, pools=(room, gone)))
    local.refresh_from_db()
    assert (local.capacity_bytes, local.available_bytes) == (100, 40)
    reaches = {
        reach.pool.name: (reach.reachable, reach.reason, reach.available_bytes) for reach in PoolReach.objects.all()
    }
    assert reaches == {"l": (True, "", 40), "s": (False, "not mounted", 0)}


def test_a_pool_out_of_reach_keeps_the_room_last_seen(up: Agent, zone: Zone) -> None:
    pool = actions.storage_pool_create(name="l", zone=zone, type="local", path="/l", host=up.host)
    seen = PoolFact(pool_id=str(pool.pk), reachable=True, capacity_bytes=100, available_bytes=40)
    actions.record_ping(ping(up, pools=(seen,)))
    actions.record_ping(ping(up, pools=(PoolFact(pool_id=str(pool.pk), reachable=False),)))
    pool.refresh_from_db()
    assert (pool.available_bytes, PoolReach.objects.get().available_bytes) == (40, 40)


def test_nobody_speaks_for_another_hosts_or_zones_pool(up: Agent, zone: Zone) -> None:
    neighbour = joined(zone, "host2")
    far = actions.zone_create("zone2")
    pools = [
        actions.storage_pool_create(name="l", zone=zone, type="local", path="/l", host=neighbour.host),
        actions.storage_pool_create(name="f", zone=far, type="shared", path="/f", host=None),
    ]
    facts = tuple(PoolFact(pool_id=str(p.pk), reachable=True, capacity_bytes=9, available_bytes=9) for p in pools)
    actions.record_ping(ping(up, pools=facts))
    assert not PoolReach.objects.exists()
    assert set(StoragePool.objects.values_list("capacity_bytes", flat=True)) == {0}


def test_a_ping_from_ahead_of_the_database_is_noticed_too(up: Agent) -> None:
    actions.record_ping(ping(up, highest_seq=9))
    up.refresh_from_db()
    assert (up.ahead, up.zone.deletions_suspended) == (True, True)


def test_the_zone_is_locked_before_its_agent_as_whoever_makes_commands_does(up: Agent) -> None:
    for say in (
        lambda: actions.record_hello(hello(up, 2, highest_seq=9)),
        lambda: actions.record_ping(ping(up, highest_seq=9, epoch=2)),
        lambda: actions.mark_ahead(up, "has a journal that nobody knows"),
    ):
        Agent.objects.update(ahead=False, highest_seq_seen=0)
        up.refresh_from_db()
        with CaptureQueriesContext(connection) as statements:
            say()
        locks = [statement for one in statements if (statement := _locks(one["sql"]))]
        assert locks[0] == "zone"
        assert "agent" in locks
        assert Agent.objects.get(pk=up.pk).ahead


def _locks(sql: str) -> str:
    """Whose row a statement locks; on SQLite a SELECT FOR UPDATE does not show, so each of a zone's row counts."""
    if sql.startswith('UPDATE "infra_app_agent"'):
        return "agent"
    return "zone" if re.match(r'UPDATE "infra_app_zone"|SELECT .* FROM "infra_app_zone"', sql) else ""


def test_no_number_for_nobody(zone: Zone) -> None:
    with pytest.raises(NotFound):
        actions.issue_seq(zone.pk)


@pytest.mark.django_db(transaction=True)
def test_threads_never_get_the_same_number(agent: Agent) -> None:
    def take() -> list[int]:
        try:
            return [actions.issue_seq(agent.pk) for _ in range(20)]
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        taken = [number for future in [pool.submit(take) for _ in range(8)] for number in future.result()]
    assert sorted(taken) == list(range(1, 161))


def test_the_database_clock_is_in_utc(db: None) -> None:
    first, second = database_now(), database_now()
    assert first <= second
    assert first.utcoffset() == timedelta()
