"""What goes to the server: hello, pings, reports, evidence.

Only the reporter's thread talks to the broker; whoever has something to say leaves a note and goes on. With the broker
down nothing piles up: the journal is the truth, the reporter keeps the last word of each command, and pings repeat it.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from agents.common.crash import crash_point
from agents.journal import Journal
from agents.protocol.kinds import Data
from agents.protocol.messages import (
    Evidence,
    Hello,
    JournalEntry,
    Ping,
    PoolFact,
    PoolInfo,
    Reports,
    VmFact,
)
from agents.protocol.states import AGENT_FINAL, AgentState

log = logging.getLogger(__name__)

ENTRIES_AT_ONCE = 200
PROGRESS_SECONDS = 1.0
PING_PAUSE_SECONDS = 0.2
"""Between two pings that something hastened."""
HELLO_FIRST_SECONDS = 1.0
HELLO_LAST_SECONDS = 60.0
BROKER_RETRY_SECONDS = 0.5
FACTS_SLACK_SECONDS = 1.0
"""Facts are told until they are two ping intervals and this old."""
ASKS_OF_A_STUCK_LOOK = 3
"""A look that was asked for this often, an interval apart, and did not come, hangs."""
DEFAULT_PING_SECONDS = 60.0
"""Until the server has told its setting ``ping.interval``."""
EVIDENCE_KEPT = 1000
"""Answers kept while the broker is down; the server asks again for the others."""


class Publish(Protocol):
    """Sends one message to the server. Raises OSError or a broker's error when it could not, within seconds."""

    def __call__(self, task: str, message: Mapping[str, Any], names: str) -> None: ...


@dataclass(frozen=True)
class Facts:
    """Where the reporter gets what it tells. ``vms`` and ``pools`` may be slow and may raise."""

    hello: Callable[[], Hello]
    vms: Callable[[], tuple[VmFact, ...]] | None
    """None in a role without VMs."""
    pools: Callable[[tuple[PoolInfo, ...]], tuple[PoolFact, ...]]


@dataclass
class _Outbox:
    """What is still to be said. ``changes``: command → earliest time (monotonic) for its report."""

    changes: dict[str, float] = field(default_factory=dict)
    stale: set[tuple[str, int]] = field(default_factory=set)
    evidence: dict[str, Evidence] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """What a watch saw, when (monotonic), and which of its looks it was."""

    number: int
    seen_at: float
    facts: Any
    reason: str = ""
    """Why there are no facts."""


class Watch:
    """Facts that may be slow to get: looked at by a thread of its own, read by others at once with their age.

    ``begun`` counts the looks, each when it begins: what happened before a look began is in what it saw.
    """

    def __init__(self, name: str, look: Callable[[], Any], on_fresh: Callable[[], None]) -> None:
        self.begun = 0
        self._look = look
        self._on_fresh = on_fresh
        self._wake = threading.Event()
        self._asks = 0
        self._hasten = False
        self._latest = Look(0, time.monotonic(), None, "not looked at yet")
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def refresh(self, *, tell: bool = False) -> None:
        """Look again soon; ``tell``: and ping when it is seen."""
        self._hasten = self._hasten or tell
        self._asks += 1
        self._wake.set()

    @property
    def is_stuck(self) -> bool:
        """Whether a look hangs. Counted in asks, not in seconds: when the asker stood still, nothing hangs."""
        return self._asks >= ASKS_OF_A_STUCK_LOOK

    def latest(self, max_age: float) -> Look:
        """The last look, without its facts when it is more than ``max_age`` seconds old."""
        latest = self._latest
        age = time.monotonic() - latest.seen_at
        if age <= max_age:
            return latest
        return Look(latest.number, latest.seen_at, None, f"no answer for {age:.0f} s")

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            hasten, self._hasten = self._hasten, False
            self._latest = self._look_once()
            self._asks = 0
            if hasten:
                self._on_fresh()

    def _look_once(self) -> Look:
        self.begun += 1
        number = self.begun
        try:
            facts = self._look()
        except Exception as error:  # noqa: BLE001  (libvirt's or the role's: it is told, as a reason)
            reason = str(error) or type(error).__name__
            log.warning("facts.unavailable", extra={"watch": self._thread.name, "reason": reason})
            return Look(number, time.monotonic(), None, reason)
        return Look(number, time.monotonic(), facts)


class Reporter:
    """Says what changed, at once but coalesced, and pings. Its methods never wait for the broker or for libvirt."""

    def __init__(
        self,
        journal: Journal,
        publish: Publish,
        facts: Facts,
        agent_id: str,
        epoch: int,
    ) -> None:
        self.agent_id = agent_id
        self.epoch = epoch
        self._hello = facts.hello
        self._journal = journal
        self._publish = publish
        self._lock = threading.Condition()
        self._outbox = _Outbox()
        self._last_progress: dict[str, float] = {}
        self._pool_infos: tuple[PoolInfo, ...] = ()
        self._vms = Watch("vm-facts", facts.vms, self.ping_soon) if facts.vms else None
        self._pools = Watch("pool-facts", lambda: facts.pools(self._pool_infos), self.ping_soon)
        self._interval = DEFAULT_PING_SECONDS
        self._welcomed = False
        self._hello_wait = HELLO_FIRST_SECONDS
        self._next_hello = float("inf")
        self._next_ping = float("inf")
        self._next_look = float("inf")
        self._last_ping = 0.0
        self._number = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def start(self) -> None:
        for watch in self._watches():
            watch.start()
            watch.refresh()
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Say what is left to say, as far as the broker takes it within ``seconds``."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        self._thread.join(seconds)

    def _watches(self) -> Iterable[Watch]:
        return (self._pools,) if self._vms is None else (self._vms, self._pools)

    # --- what others tell --------------------------------------------------------------------------------------

    def changed(self, command_id: str) -> None:
        """A command's state changed, or the server seems not to know it: report it."""
        with self._lock:
            self._outbox.changes[command_id] = 0.0
            self._lock.notify_all()

    def progressed(self, command_id: str) -> None:
        """A command has progress to show: reported at most once a second."""
        with self._lock:
            due = self._last_progress.get(command_id, 0.0) + PROGRESS_SECONDS
            if command_id not in self._outbox.changes:
                self._outbox.changes[command_id] = due
                self._lock.notify_all()

    def stale(self, command_id: str, attempt: int) -> None:
        """A command came that was meant for an earlier start of this agent; it was not begun."""
        with self._lock:
            self._outbox.stale.add((command_id, attempt))
            self._lock.notify_all()

    def answer(self, evidence: Evidence) -> None:
        """The answer to a probe."""
        with self._lock:
            if len(self._outbox.evidence) < EVIDENCE_KEPT:
                self._outbox.evidence[evidence.probe_id] = evidence
            self._lock.notify_all()

    def connected(self) -> None:
        """The worker consumes, again or for the first time: the server should know."""
        with self._lock:
            if not self._welcomed:
                self._next_hello = 0.0
                self._hello_wait = HELLO_FIRST_SECONDS
            self._lock.notify_all()
        self.ping_soon()

    def ping_soon(self) -> None:
        """Something changed that a ping shows."""
        with self._lock:
            if self._welcomed:
                self._next_ping = min(self._next_ping, self._last_ping + PING_PAUSE_SECONDS)
                self._lock.notify_all()

    def vm_changed(self) -> None:
        """libvirt told of a change: look, then ping."""
        if self._vms is not None:
            self._vms.refresh(tell=True)

    def welcomed(self, interval: float, pools: tuple[PoolInfo, ...]) -> None:
        """The server knows this start of the agent."""
        with self._lock:
            self._welcomed = True
            self._next_hello = float("inf")
        self.configure(interval, pools)
        self.ping_soon()

    def configure(self, interval: float, pools: tuple[PoolInfo, ...]) -> None:
        """What the server's settings are now, seconds between pings, and the pools to look at."""
        with self._lock:
            changed = pools != self._pool_infos or interval != self._interval
            self._interval, self._pool_infos = interval, pools
            if changed:
                self._plan_ping()
                self._pools.refresh(tell=True)
                self._lock.notify_all()

    # --- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            with self._lock:
                # No predicate: a word that makes something due earlier has to shorten this wait.
                if not self._stopping and not self._due():
                    self._lock.wait(self._until_due())
            self._say_all()
        self._say_all()

    def _due(self) -> bool:
        now = time.monotonic()
        outbox = self._outbox
        if outbox.stale or outbox.evidence or min(self._next_hello, self._next_ping, self._next_look) <= now:
            return True
        return any(due <= now for due in outbox.changes.values())

    def _until_due(self) -> float | None:
        """Seconds until something falls due by itself; None when only others can make it so."""
        times = (self._next_hello, self._next_ping, self._next_look, *self._outbox.changes.values())
        due = min(times)
        return None if due == float("inf") else max(0.0, due - time.monotonic())

    def _say_all(self) -> None:
        try:
            self._look_before_ping()
            self._say_hello()
            self._say_reports()
            self._say_evidence()
            self._say_ping()
        except Exception as error:  # noqa: BLE001  (a transport's own; what was not said is still in the outbox)
            log.warning("broker.unavailable", extra={"error": f"{type(error).__name__}: {error}"})
            if not self._stopping:
                time.sleep(BROKER_RETRY_SECONDS)

    def _look_before_ping(self) -> None:
        if self._next_look <= time.monotonic():
            self._next_look = float("inf")
            for watch in self._watches():
                watch.refresh()

    def _say_hello(self) -> None:
        if self._next_hello > time.monotonic():
            return
        self._send("operations.hello", self._hello(), self.agent_id)
        with self._lock:
            if not self._welcomed:
                self._next_hello = time.monotonic() + self._hello_wait
                self._hello_wait = min(2 * self._hello_wait, HELLO_LAST_SECONDS)

    def _say_reports(self) -> None:
        while True:
            with self._lock:
                ids = self._take_due()
                stale = tuple(self._outbox.stale)
                self._outbox.stale.clear()
            entries = tuple(entry for entry in map(self._journal.entry, ids) if entry is not None)
            if not entries and not stale:
                return
            try:
                self._send("operations.reports", self._reports(entries, stale), " ".join(ids))
            except Exception:
                with self._lock:
                    self._outbox.changes = {**dict.fromkeys(ids, 0.0), **self._outbox.changes}
                    self._outbox.stale.update(stale)
                raise
            self._remember_progress(entries)
            if any(entry.state in AGENT_FINAL for entry in entries):
                crash_point("report.after_publish")

    def _reports(self, entries: tuple[JournalEntry, ...], stale: tuple[tuple[str, int], ...]) -> Reports:
        # The number is read after the entries: a later look has seen what they tell.
        return Reports(
            agent_id=self.agent_id, epoch=self.epoch, entries=entries, stale=stale, facts_begun=self._facts_begun()
        )

    def _facts_begun(self) -> int:
        return self._vms.begun if self._vms else 0

    def _take_due(self) -> list[str]:
        now = time.monotonic()
        ids = [command_id for command_id, due in self._outbox.changes.items() if due <= now][:ENTRIES_AT_ONCE]
        for command_id in ids:
            del self._outbox.changes[command_id]
        return ids

    def _remember_progress(self, entries: Iterable[JournalEntry]) -> None:
        now = time.monotonic()
        for entry in entries:
            if entry.state == AgentState.PROCESSING:
                self._last_progress[entry.command_id] = now
            else:
                self._last_progress.pop(entry.command_id, None)

    def _say_evidence(self) -> None:
        while self._outbox.evidence:
            probe_id, evidence = next(iter(self._outbox.evidence.items()))
            said = evidence.model_copy(update={"facts_begun": self._facts_begun()})
            self._send("operations.evidence", said, f"{probe_id} {evidence.command_id}")
            with self._lock:
                self._outbox.evidence.pop(probe_id, None)

    def _say_ping(self) -> None:
        with self._lock:
            now = time.monotonic()
            if self._next_ping > now:
                return
            self._last_ping = now
            self._next_ping = float("inf")
            self._plan_ping()
        try:
            self._send("operations.ping", self._ping(), self.agent_id)
        except Exception:
            self._next_ping = 0.0
            raise

    def _plan_ping(self) -> None:
        """No later than an interval after the last; never later than what something hastened."""
        self._next_ping = min(self._next_ping, self._last_ping + self._interval)
        # A look that is due already stays so: with the broker down pings are planned again and again.
        self._next_look = min(self._next_look, self._next_ping - min(1.0, self._interval / 4))

    def _ping(self) -> Ping:
        self._number += 1
        max_age = 2 * self._interval + FACTS_SLACK_SECONDS
        vms = self._vms.latest(max_age) if self._vms else Look(0, 0.0, ())
        entries = self._journal.entries()
        return Ping(
            agent_id=self.agent_id,
            epoch=self.epoch,
            number=self._number,
            entries=entries,
            highest_seq=self._journal.highest_seq,
            vms=vms.facts,
            vms_reason=vms.reason,
            facts_number=vms.number,
            facts_begun=self._facts_begun(),
            pools=self._pool_facts(max_age),
            corrupt_journals=self._journal.corrupt,
        )

    def _pool_facts(self, max_age: float) -> tuple[PoolFact, ...]:
        # Read first: a look that ends meanwhile brings fresh facts, not a pool out of reach.
        stuck = self._pools.is_stuck
        pools = self._pools.latest(max_age)
        if pools.facts is not None:
            facts: tuple[PoolFact, ...] = pools.facts
            return facts
        if not stuck:
            # Nobody has looked for long (just started, or waited for the broker), which says nothing of the pools.
            return ()
        return tuple(PoolFact(pool_id=pool.pool_id, reachable=False, reason=pools.reason) for pool in self._pool_infos)

    def _send(self, task: str, message: Data, names: str) -> None:
        self._publish(task, message.model_dump(mode="json"), names)
