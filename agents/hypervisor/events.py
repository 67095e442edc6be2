"""What happens on the host between two looks: libvirt's events, and whether the guests' agents answer."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Literal

from agents.hypervisor.connection import Change, DomainEvent, Hypervisor
from agents.hypervisor.errors import DomainNotFound, GuestAgentSilent, HypervisorError
from agents.hypervisor.guest import Guest
from agents.protocol.messages import VmFact

log = logging.getLogger(__name__)

STOPPED_SECONDS = 1.0
"""A guest that reboots may stop and start within this time: who looked in between would find it off."""
PING_SECONDS = 2

AgentAnswer = Literal["answering", "silent", "unknown"]


@dataclass(frozen=True, slots=True)
class _Heard:
    """What is known of one guest's agent; ``answered_at`` on this process's monotonic clock."""

    agent: AgentAnswer
    answered_at: float | None
    addresses: tuple[str, ...] = ()


class GuestWatcher:
    """Knows whether the guests' agents answer, and asks them in a thread of its own: no caller ever waits."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._lock = threading.Lock()
        self._heard: dict[str, _Heard] = {}
        self._waiting: set[str] = set()
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="guest-watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._queue.put(None)

    def complete(self, facts: Iterable[VmFact]) -> tuple[VmFact, ...]:
        """These VMs, all there are, with what their agents said last; the running ones are asked again meanwhile."""
        whole = tuple(facts)
        with self._lock:
            there = {fact.vm_id for fact in whole}
            self._heard = {vm_id: heard for vm_id, heard in self._heard.items() if vm_id in there}
            completed = tuple(self._completed(fact) for fact in whole)
        for fact in whole:
            if fact.power_state == "running":
                self.ask(fact.vm_id)
        return completed

    def ask(self, vm_id: str) -> None:
        """Ask this guest's agent soon; once, however often this is called before its turn."""
        with self._lock:
            if vm_id in self._waiting:
                return
            self._waiting.add(vm_id)
        self._queue.put(vm_id)

    def disconnected(self, vm_id: str) -> None:
        """Nobody in the guest has the agent's channel open."""
        self._note(vm_id, "silent")

    def _completed(self, fact: VmFact) -> VmFact:
        heard = self._heard.get(fact.vm_id)
        if heard is None:
            return fact
        seconds = None if heard.answered_at is None else time.monotonic() - heard.answered_at
        # A guest that does not run cannot answer, and what it said before says nothing of now.
        agent = heard.agent if fact.power_state == "running" else "unknown"
        addresses = heard.addresses if agent == "answering" else ()
        told = {"guest_agent": agent, "answered_seconds_ago": seconds, "addresses": addresses}
        return fact.model_copy(update=told)

    def _note(self, vm_id: str, agent: AgentAnswer, addresses: tuple[str, ...] = ()) -> None:
        with self._lock:
            before = self._heard.get(vm_id)
            answered_at = before.answered_at if before else None
            if agent == "answering":
                answered_at = time.monotonic()
            self._heard[vm_id] = _Heard(agent, answered_at, addresses)

    def _work(self) -> None:
        while (vm_id := self._queue.get()) is not None:
            with self._lock:
                self._waiting.discard(vm_id)
            try:
                self._ping(vm_id)
            except Exception:
                log.exception("guest_watcher.broken", extra={"vm_id": vm_id})

    def _ping(self, vm_id: str) -> None:
        try:
            guest = Guest.find(self._hypervisor, vm_id)
            if guest is not None:
                guest.agent_ping(PING_SECONDS)
                self._note(vm_id, "answering", guest.addresses(PING_SECONDS))
        except DomainNotFound:
            return
        except GuestAgentSilent:
            self._note(vm_id, "silent")
        except HypervisorError as error:
            log.info("guest_watcher.cannot_ask", extra={"vm_id": vm_id, "reason": str(error)})
            self._note(vm_id, "unknown")


class EventWatch:
    """Calls ``on_change`` when something changed on the host, from a thread of its own. What changed has to be read.

    ``on_change`` may only set a flag. Guests whose agents come or go are made known to the watcher.
    """

    def __init__(self, hypervisor: Hypervisor, watcher: GuestWatcher, on_change: Callable[[], None]) -> None:
        self._hypervisor = hypervisor
        self._watcher = watcher
        self._on_change = on_change
        self._queue: SimpleQueue[DomainEvent | None] = SimpleQueue()
        self._stopped_until: dict[str, float] = {}
        """VM → when its stop counts, if it has not started again by then."""
        self._thread = threading.Thread(target=self._work, name="hypervisor-events", daemon=True)

    def start(self) -> None:
        self._hypervisor.listen(self.hear)
        self._thread.start()

    def stop(self) -> None:
        self._queue.put(None)

    def hear(self, event: DomainEvent) -> None:
        """Take note of an event; returns at once."""
        self._queue.put(event)

    def _work(self) -> None:
        while True:
            try:
                event = self._queue.get(timeout=self._seconds_to_wait())
            except Empty:
                self._count_stops()
                continue
            if event is None:
                return
            self._consider(event)

    def _seconds_to_wait(self) -> float | None:
        if not self._stopped_until:
            return None
        return max(0.0, min(self._stopped_until.values()) - time.monotonic())

    def _count_stops(self) -> None:
        now = time.monotonic()
        self._stopped_until = {vm_id: until for vm_id, until in self._stopped_until.items() if until > now}
        self._on_change()

    def _consider(self, event: DomainEvent) -> None:
        if event.change is Change.AGENT_CONNECTED:
            self._watcher.ask(event.vm_id)
        elif event.change is Change.AGENT_DISCONNECTED:
            self._watcher.disconnected(event.vm_id)
        elif event.change is Change.STOPPED:
            self._stopped_until[event.vm_id] = time.monotonic() + STOPPED_SECONDS
        else:
            if event.change is Change.STARTED:
                self._stopped_until.pop(event.vm_id, None)
            self._on_change()
