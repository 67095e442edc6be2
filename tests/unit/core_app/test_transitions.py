"""A move has one winner, its event comes with it, and what is not in the table does not happen."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from django.db import connection, transaction
from django.db.models import F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core_app.models import Event
from core_app.transitions import StateMachine, transition
from infra_app.models import Agent

State = Agent.State


def in_state(agent: Agent, state: str) -> Agent:
    Agent.objects.filter(pk=agent.pk).update(state=state)
    agent.refresh_from_db()
    return agent


def state_of(agent: Agent) -> str:
    return Agent.objects.values_list("state", flat=True).get(pk=agent.pk)


def moves() -> list[Event]:
    return list(Event.objects.filter(kind="test.moved").order_by("created_at"))


def test_the_winner_gets_row_event_and_values(agent: Agent) -> None:
    assert transition(
        agent, State.UP, event="test.moved", message="hello", sets={"boot_id": "b", "epoch": F("epoch") + 3}
    )
    assert (agent.state, agent.boot_id, agent.epoch) == ("up", "b", 3)
    assert Agent.objects.filter(pk=agent.pk, state="up", boot_id="b", epoch=3).exists()
    (event,) = moves()
    assert (event.target_type, event.target_id, event.target_name) == ("agent", str(agent.pk), "host1")
    assert (event.message, event.details) == ("hello", {"to": "up"})


def test_the_loser_is_told_and_leaves_no_trace(agent: Agent) -> None:
    stale = Agent.objects.get(pk=agent.pk)
    assert transition(agent, State.UP, event="test.moved")
    assert not transition(stale, State.UP, event="test.moved", sets={"boot_id": "mine"})
    assert (stale.state, stale.boot_id) == ("joined", "")
    assert len(moves()) == 1


def test_where_guards_too(agent: Agent) -> None:
    assert not transition(agent, State.UP, event="test.moved", where={"epoch": 7})
    assert (state_of(agent), moves()) == ("joined", [])


def test_a_rolled_back_move_did_not_happen(agent: Agent) -> None:
    def move_and_fail() -> None:
        with transaction.atomic():
            transition(agent, State.UP, event="test.moved")
            raise LookupError

    with pytest.raises(LookupError):
        move_and_fail()
    assert (state_of(agent), moves()) == ("joined", [])


def test_a_state_that_nothing_leads_to_is_a_mistake_in_code(agent: Agent) -> None:
    with pytest.raises(ValueError, match="no move leads to state 'joined'"):
        transition(agent, State.JOINED, event="test.moved")


def test_a_machine_reads_as_written() -> None:
    assert StateMachine({"done": ["new", "running"]}).sources("done") == {"new", "running"}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.sampled_from(State), wishes=st.lists(st.sampled_from(sorted(Agent.machine.moves)), max_size=8))
def test_any_sequence_of_wishes_follows_the_table(agent: Agent, start: str, wishes: list[str]) -> None:
    Event.objects.all().delete()
    in_state(agent, start)
    expected, history = str(start), []
    for wish in wishes:
        allowed = expected in Agent.machine.moves[wish]
        assert transition(agent, wish, event="test.moved") is allowed
        if allowed:
            expected = wish
            history.append(wish)
        assert agent.state == state_of(agent) == expected
    assert [event.details["to"] for event in moves()] == history


@pytest.mark.django_db(transaction=True)
def test_of_twenty_threads_one_wins(agent: Agent) -> None:
    for _ in range(5):
        in_state(agent, State.DISCONNECTED)
        Event.objects.all().delete()
        barrier = Barrier(20)

        def compete(barrier: Barrier = barrier) -> bool:
            try:
                mine = Agent.objects.get(pk=agent.pk)
                barrier.wait()
                return transition(mine, State.UP, event="test.moved")
            finally:
                connection.close()

        with ThreadPoolExecutor(20) as pool:
            outcomes = [future.result() for future in [pool.submit(compete) for _ in range(20)]]
        assert sorted(outcomes) == [False] * 19 + [True]
        assert len(moves()) == 1
