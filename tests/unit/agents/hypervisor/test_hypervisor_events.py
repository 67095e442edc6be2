"""Events hasten a look, and nobody waits for a guest's agent."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.hypervisor import domain_xml
from agents.hypervisor.connection import Change, DomainEvent, Hypervisor
from agents.hypervisor.events import STOPPED_SECONDS, EventWatch, GuestWatcher
from agents.hypervisor.facts import vm_facts
from agents.hypervisor.guest import Guest
from agents.protocol.messages import VmFact
from tests.lab.waiting import poll
from tests.unit.agents.hypervisor.embedded import small_spec


@pytest.fixture
def watcher(hypervisor: Hypervisor) -> Iterator[GuestWatcher]:
    watcher = GuestWatcher(hypervisor)
    watcher.start()
    yield watcher
    watcher.stop()


@pytest.fixture
def changes(hypervisor: Hypervisor, watcher: GuestWatcher) -> Iterator[list[float]]:
    """When something was said to have changed."""
    changes: list[float] = []
    watch = EventWatch(hypervisor, watcher, lambda: changes.append(time.monotonic()))
    watch.start()
    yield changes
    watch.stop()


def test_a_start_is_a_change_at_once(hypervisor: Hypervisor, changes: list[float], tmp_path: Path) -> None:
    Guest.start(hypervisor, domain_xml.build(small_spec(tmp_path), "web"))
    poll(lambda: changes, STOPPED_SECONDS / 2, "the start is told")


def test_a_stop_counts_when_it_lasts(hypervisor: Hypervisor, changes: list[float], tmp_path: Path) -> None:
    guest = Guest.start(hypervisor, domain_xml.build(small_spec(tmp_path), "web"))
    poll(lambda: changes, 10, "the start is told")
    guest.force_off()
    stopped = time.monotonic()
    poll(lambda: changes[-1] > stopped, 10, "the stop is told")
    assert changes[-1] - stopped > STOPPED_SECONDS / 2


def test_a_stop_that_does_not_last_is_not_told(hypervisor: Hypervisor, watcher: GuestWatcher) -> None:
    changes: list[float] = []
    watch = EventWatch(hypervisor, watcher, lambda: changes.append(time.monotonic()))
    watch.start()
    watch.hear(DomainEvent("rebooting", Change.STOPPED))
    watch.hear(DomainEvent("rebooting", Change.STARTED))
    poll(lambda: changes, 10, "the start is told")
    stopped = time.monotonic()
    watch.hear(DomainEvent("stopping", Change.STOPPED))
    poll(lambda: len(changes) > 1, 10, "the other VM's stop is told")
    assert changes[1] - stopped >= STOPPED_SECONDS
    watch.stop()


def test_a_guest_without_an_agent_becomes_silent(hypervisor: Hypervisor, watcher: GuestWatcher, tmp_path: Path) -> None:
    Guest.start(hypervisor, domain_xml.build(small_spec(tmp_path), "web"))
    facts = vm_facts(hypervisor)
    assert [fact.guest_agent for fact in watcher.complete(facts)] == ["unknown"]
    (fact,) = poll(lambda: _all(watcher, facts, "silent"), 10, "its agent is known to be silent")
    assert fact.answered_seconds_ago is None
    # Of a VM that does not run nothing is said, and one that is gone is forgotten.
    paused = [facts[0].model_copy(update={"power_state": "paused"})]
    assert [fact.guest_agent for fact in watcher.complete(paused)] == ["unknown"]
    assert watcher.complete(()) == ()
    assert [fact.guest_agent for fact in watcher.complete(paused)] == ["unknown"]


def test_a_libvirt_that_cannot_be_asked_says_nothing_of_agents() -> None:
    watcher = GuestWatcher(Hypervisor("qemu+unix:///system?socket=/nowhere"))
    watcher.start()
    try:
        facts = (VmFact(vm_id="6b1c5c5e-0000-4000-8000-00000000000f", power_state="running"),)
        watcher.disconnected(facts[0].vm_id)
        assert watcher.complete(facts)[0].guest_agent == "silent"
        poll(lambda: _all(watcher, facts, "unknown"), 10, "nothing is known any more")
    finally:
        watcher.stop()


def _all(watcher: GuestWatcher, facts: tuple[VmFact, ...], agent: str) -> tuple[VmFact, ...]:
    completed = watcher.complete(facts)
    return completed if all(fact.guest_agent == agent for fact in completed) else ()
