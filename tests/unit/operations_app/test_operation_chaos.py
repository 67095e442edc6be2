"""Everything at once, in any order: lost, doubled and late messages, restarts, cancels, sweeps. It always ends, once.

The agents here are played: a journal in memory and the rules of the protocol. What they do on hosts is tested with real
ones; here the server is on trial.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection

from agents.protocol.messages import JournalEntry
from agents.protocol.states import AGENT_FINAL, COMMAND_FINAL, AgentState
from core_app.errors import CloudctlError
from core_app.models import Event
from infra_app.models import Zone
from operations_app import sweep
from operations_app.actions import cancel
from operations_app.models import Command, Operation, Reservation, Waiter
from operations_app.rules import OPERATION_FINAL, OPERATION_OPEN
from tests.unit.operations_app.toys import ANY_ANSWER, FINAL, HostVoice, begin

PAST = "2020-01-01T00:00:00Z"
A = AgentState
_EVIDENCE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # by kind: what is found when it was not done, and when it was
    "template.download": ({}, FINAL),
    "template.remove": ({"left": ["file"]}, {"left": []}),
    "vm.start": ({"power_state": "off"}, {"power_state": "running", "accelerator": "tcg"}),
    "vm.stop": ({"power_state": "running"}, {"power_state": "off"}),
}


class PlayedAgent:
    """Takes messages from its real queues, some of them twice or never, and answers as the protocol says."""

    def __init__(self, voice: HostVoice, seed: int) -> None:
        self.voice = voice
        self.chance = random.Random(seed)
        self.journal: dict[str, JournalEntry] = {}
        self.effects: Counter[str] = Counter()
        self.committed: set[str] = set()
        self.lock = threading.Lock()
        self.lossy = True

    def take(self) -> None:
        with self.lock:
            for message in self._arriving(self.voice.hears()):
                self._accept(message)
            notes = self.voice.hears_notes()
            for name, answer in (("cancel", self._cancel), ("probe", self._probe), ("acknowledge", self._acknowledge)):
                for message in self._arriving(notes.get(name, [])):
                    answer(message)

    def work(self) -> None:
        """Each command goes a step; what is told may get lost."""
        with self.lock:
            told = [self._step(entry) for entry in list(self.journal.values()) if self.chance.random() < 0.7]
            self.chance.shuffle(told)
            heard = self._arriving(told)
        self.voice.reports(*heard)

    def ping(self) -> None:
        with self.lock:
            entries = tuple(self.journal.values())
        self.voice.pings(*entries)

    def restart(self) -> None:
        with self.lock:
            for pk, entry in self.journal.items():
                if entry.state is A.PROCESSING and self.chance.random() < 0.5:
                    self.committed.add(pk)
                if entry.state in (A.STARTED, A.PROCESSING):
                    self.journal[pk] = entry.model_copy(update={"state": A.INTERRUPTED})
            self.voice.hello(*self.journal.values())

    def _arriving(self, messages: list[Any]) -> list[Any]:
        if not self.lossy:
            return messages
        return [m for m in messages for _ in range(self.chance.choice([0, 1, 1, 1, 2, 3]))]

    def _accept(self, message: dict[str, Any]) -> None:
        known = self.journal.get(message["command_id"])
        again = known is not None and known.state is A.INTERRUPTED and known.attempt < message["attempt"]
        if message["epoch"] != self.voice.epoch or (known is not None and not again):
            return
        self.journal[message["command_id"]] = self._entry(message, A.QUEUED)

    def _entry(self, message: dict[str, Any], state: AgentState) -> JournalEntry:
        return JournalEntry(**{k: message[k] for k in ("command_id", "attempt", "kind", "seq", "epoch")}, state=state)

    def _step(self, entry: JournalEntry) -> JournalEntry:
        onward = {A.QUEUED: A.STARTED, A.STARTED: A.PROCESSING, A.PROCESSING: A.COMPLETED}
        state = onward.get(entry.state, entry.state)
        changes: dict[str, Any] = {"state": state}
        if entry.state is A.PROCESSING:
            changes["answer"] = ANY_ANSWER
            self.effects[entry.command_id] += 1
        self.journal[entry.command_id] = entry.model_copy(update=changes)
        return self.journal[entry.command_id]

    def _cancel(self, message: dict[str, Any]) -> None:
        entry = self.journal.get(message["command_id"])
        if entry is None:
            self.journal[message["command_id"]] = self._entry(message, A.CANCELLED)
        elif entry.state in (A.QUEUED, A.STARTED, A.INTERRUPTED) and self._may_stop(entry, message):
            changes = {"state": A.CANCELLED, "attempt": message["attempt"]}
            self.journal[entry.command_id] = entry.model_copy(update=changes)

    def _may_stop(self, entry: JournalEntry, message: dict[str, Any]) -> bool:
        return entry.attempt <= message["attempt"] and entry.command_id not in self.committed

    def _probe(self, message: dict[str, Any]) -> None:
        entry = self.journal.get(message["command_id"])
        runs = entry is not None and entry.state not in (*AGENT_FINAL, A.INTERRUPTED)
        evidence = _EVIDENCE.get(message["kind"], ({}, {}))[bool(self.effects[message["command_id"]])]
        command = Command.objects.get(pk=message["command_id"])
        answer = {"probe_id": message["probe_id"], "attempt": message["attempt"], "epoch": message["epoch"]}
        self.voice.answers(command, "running" if runs else "settled", entry=entry, evidence=evidence, **answer)

    def _acknowledge(self, message: dict[str, Any]) -> None:
        for pk in message["command_ids"]:
            self.journal.pop(pk, None)


@pytest.mark.parametrize("_again", range(2))
def test_whatever_happens_everything_ends_with_one_effect(
    host: HostVoice, other: HostVoice, zone: Zone, _again: int
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    agents = [PlayedAgent(voice, seed + number) for number, voice in enumerate((host, other))]
    shared = begin("toy.shared", zone, host, for_waiters=True)
    operations = [
        shared,
        *(begin("toy.joining", zone, other, awaited=str(shared.pk), exclusive=[("idea", voice)]) for voice in _ids(3)),
        *(begin("toy.deploy", zone, host, other) for _ in range(3)),
        *(begin("toy.destroy", zone, other, host) for _ in range(2)),
    ]
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(_stir, agents, operations, seed + number) for number in range(4)]:
            future.result()
    for agent in agents:
        agent.lossy = False
    for _ in range(40):
        if not Operation.objects.exclude(state__in=OPERATION_FINAL).exists():
            break
        _settle(agents)
    states = Counter(Operation.objects.values_list("state", flat=True))
    assert set(states) <= OPERATION_FINAL, (seed, states, _stuck(agents))
    assert not Reservation.objects.exists()
    assert not Waiter.objects.exists()
    ended = Counter(Event.objects.filter(kind="toy.ended").values_list("target_id", flat=True))
    assert set(ended.values()) == {1}, (seed, "each ends once")
    assert len(ended) == Operation.objects.count()
    done = Counter(Event.objects.filter(kind__in=["toy.fetched", "toy.cleaned"]).values_list("target_id", "message"))
    assert set(done.values()) <= {1}, (seed, "each answer is taken once")
    assert not Event.objects.filter(kind__in=["command.disagrees", "command.report_failed", "agent.ahead"]).exists()


def _ids(count: int) -> list[UUID]:
    return [uuid4() for _ in range(count)]


def _stir(agents: list[PlayedAgent], operations: list[Operation], seed: int) -> None:
    chance = random.Random(seed)
    try:
        for _ in range(25):
            agent = chance.choice(agents)
            acts: list[Callable[[], None]] = [agent.take, agent.work, agent.ping, agent.restart, sweep.sweep]
            acts.append(partial(_cancel, chance, operations))
            chance.choices(acts, [6, 6, 3, 1, 1, 1])[0]()
    finally:
        connection.close()


def _cancel(chance: random.Random, operations: list[Operation]) -> None:
    try:
        cancel(chance.choice(operations).pk)
    except CloudctlError:
        return


def _settle(agents: list[PlayedAgent]) -> None:
    """Time passes, and nothing gets lost any more."""
    Command.objects.filter(sent_at__isnull=False).update(sent_at=PAST)
    Command.objects.filter(seen_at__isnull=False).update(seen_at=PAST)
    Command.objects.filter(probed_at__isnull=False).update(probed_at=PAST)
    Command.objects.filter(cancel_requested_at__isnull=False).update(cancel_requested_at=PAST)
    for agent in agents:
        agent.ping()
        agent.take()
        agent.work()
    sweep.sweep()


def _stuck(agents: list[PlayedAgent]) -> list[Any]:
    """What is open in the end, as the database and as the agents have it."""
    open_now = Command.objects.filter(operation__state__in=set(OPERATION_OPEN)).exclude(state__in=COMMAND_FINAL)
    journals = {pk: entry for agent in agents for pk, entry in agent.journal.items()}
    waiting = list(Operation.objects.filter(state__in=OPERATION_OPEN).values("kind", "state", "position", "direction"))
    return [
        waiting,
        [(command.kind, command.state, command.attempt, journals.get(str(command.pk))) for command in open_now],
    ]
