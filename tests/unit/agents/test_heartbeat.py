"""The reporter: what it says when, and that nothing slow or broken keeps it from speaking."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agents.heartbeat import ENTRIES_AT_ONCE, PING_PAUSE_SECONDS, Facts, Reporter
from agents.journal import Journal, Record
from agents.main import pool_facts
from agents.protocol.messages import Envelope, Evidence, Hello, PoolFact, PoolInfo, VmFact
from agents.protocol.states import AgentState
from tests.lab.waiting import poll

SECONDS = 10.0
RUNNING = VmFact(vm_id="v1", power_state="running")


class Broker:
    """What was published; while ``down`` each publish fails as a real one's does."""

    def __init__(self) -> None:
        self.down = False
        self.slow_seconds = 0.0
        """The next publish takes so long, as when a broker comes back while somebody waits for it."""
        self.tries = 0
        self.said: list[tuple[str, dict[str, Any]]] = []
        self._read: Counter[str] = Counter()

    def __call__(self, task: str, message: Mapping[str, Any], names: str) -> None:
        self.tries += 1
        if self.down:
            raise ConnectionRefusedError("nobody listens")
        seconds, self.slow_seconds = self.slow_seconds, 0.0
        time.sleep(seconds)
        self.said.append((task.removeprefix("operations."), dict(message)))

    def heard(self, name: str) -> list[dict[str, Any]]:
        return [message for task, message in list(self.said) if task == name]

    def wait(self, name: str, says: Callable[[dict[str, Any]], object] = lambda _: True) -> dict[str, Any]:
        """The next that says something, after the one that was waited for last."""

        def look() -> dict[str, Any] | None:
            for number, one in enumerate(self.heard(name)[self._read[name] :], self._read[name] + 1):
                if says(one):
                    self._read[name] = number
                    return one
            return None

        return poll(look, SECONDS, name)


class Desk:
    """A reporter with its journal. ``look``: what libvirt answers; it may wait or raise."""

    def __init__(self, folder: Path) -> None:
        (folder / "journal").mkdir()
        self.broker = Broker()
        self.look: Callable[[], tuple[VmFact, ...]] = lambda: (RUNNING,)
        self.pools: Callable[[tuple[PoolInfo, ...]], tuple[PoolFact, ...]] = pool_facts
        self.journal = Journal(folder / "journal", folder / "ledger.json")
        facts = Facts(self._hello, self._look, self._pools)
        self.reporter = Reporter(self.journal, self.broker, facts, "a1", 3)
        self.reporter.start()

    def _look(self) -> tuple[VmFact, ...]:
        return self.look()

    def _pools(self, pools: tuple[PoolInfo, ...]) -> tuple[PoolFact, ...]:
        return self.pools(pools)

    def _hello(self) -> Hello:
        return Hello(
            agent_id="a1",
            epoch=3,
            machine_id="",
            boot_id="",
            host_uuid="",
            role="host",
            agent_version="",
            highest_seq=0,
        )

    def put(self, command_id: str) -> None:
        envelope = Envelope(
            command_id=command_id, attempt=1, kind="vm.start", epoch=3, seq=1, floor=0, lane="l", payload={}
        )
        self.journal.put(Record(envelope=envelope, state=AgentState.COMPLETED, epoch=3))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr("agents.heartbeat.FACTS_SLACK_SECONDS", 0.2)
    desk = Desk(tmp_path)
    yield desk
    desk.broker.down = False
    desk.reporter.stop(SECONDS)


def test_it_says_hello_when_it_hears_and_pings_only_when_welcomed(desk: Desk) -> None:
    desk.reporter.connected()
    desk.broker.wait("hello")
    assert desk.broker.heard("ping") == []
    desk.reporter.welcomed(0.2, ())
    desk.broker.wait("ping")
    hellos = len(desk.broker.heard("hello"))
    desk.reporter.connected()
    desk.broker.wait("ping")
    assert len(desk.broker.heard("hello")) == hellos


def test_it_pings_each_interval(desk: Desk) -> None:
    desk.reporter.welcomed(0.3, ())
    desk.broker.wait("ping")
    began = time.monotonic()
    for _ in range(4):
        desk.broker.wait("ping")
    assert 0.9 < time.monotonic() - began < 3


def test_what_hastens_a_ping_many_times_makes_few(desk: Desk) -> None:
    desk.reporter.welcomed(60, ())
    desk.broker.wait("ping")
    began, before = time.monotonic(), len(desk.broker.heard("ping"))
    while time.monotonic() - began < 5 * PING_PAUSE_SECONDS:
        desk.reporter.ping_soon()
        time.sleep(0.001)
    assert 1 <= len(desk.broker.heard("ping")) - before <= 7


def test_many_changes_go_in_few_messages_and_each_once(desk: Desk) -> None:
    ids = [f"c{number}" for number in range(ENTRIES_AT_ONCE + 50)]
    for command_id in ids:
        desk.put(command_id)
    desk.broker.down = True
    for command_id in ids * 3:
        desk.reporter.changed(command_id)
    poll(lambda: desk.broker.tries, SECONDS, "a try")
    desk.broker.down = False
    poll(lambda: sum(len(one["entries"]) for one in desk.broker.heard("reports")) >= len(ids), SECONDS, "all")
    sizes = [len(one["entries"]) for one in desk.broker.heard("reports")]
    assert (max(sizes), sum(sizes)) == (ENTRIES_AT_ONCE, len(ids))


def test_with_the_broker_down_only_the_last_word_is_kept_and_said_once(desk: Desk) -> None:
    desk.broker.down = True
    desk.put("c1")
    for _ in range(1000):
        desk.reporter.changed("c1")
        desk.reporter.stale("c2", 1)
    desk.reporter.answer(Evidence(agent_id="a1", epoch=3, probe_id="p1", command_id="c1", attempt=1, status="settled"))
    poll(lambda: desk.broker.tries > 1, SECONDS, "two tries")
    desk.broker.down = False
    desk.broker.wait("evidence")
    entries = [entry["command_id"] for one in desk.broker.heard("reports") for entry in one["entries"]]
    stale = [one["stale"] for one in desk.broker.heard("reports") if one["stale"]]
    assert (entries, stale) == (["c1"], [[["c2", 1]]])


def test_a_stop_says_what_is_left_to_say(desk: Desk) -> None:
    desk.put("c1")
    desk.reporter.changed("c1")
    desk.reporter.stop(SECONDS)
    assert [entry["state"] for one in desk.broker.heard("reports") for entry in one["entries"]] == ["COMPLETED"]


# --- facts ---------------------------------------------------------------------------------------------------------


def test_a_libvirt_that_cannot_be_asked_is_none_with_a_reason_and_no_vm_is_off(desk: Desk) -> None:
    def fail() -> tuple[VmFact, ...]:
        raise ConnectionError("libvirtd is down")

    desk.look = fail
    desk.reporter.welcomed(0.2, ())
    ping = desk.broker.wait("ping", lambda one: one["facts_number"] > 1)
    assert (ping["vms"], ping["vms_reason"]) == (None, "libvirtd is down")
    desk.look = lambda: (RUNNING,)
    assert desk.broker.wait("ping", lambda one: one["vms"])["vms_reason"] == ""


def test_a_hanging_libvirt_keeps_no_ping_waiting_and_its_old_facts_expire(desk: Desk) -> None:
    desk.reporter.welcomed(0.2, ())
    desk.broker.wait("ping", lambda one: one["vms"])
    released = threading.Event()

    def hang() -> tuple[VmFact, ...]:
        released.wait(SECONDS)
        return (RUNNING,)

    desk.look = hang
    try:
        silent = desk.broker.wait("ping", lambda one: one["vms"] is None)
        assert silent["vms_reason"].startswith("no answer for")
        assert silent["facts_begun"] == silent["facts_number"] + 1
    finally:
        released.set()
    desk.broker.wait("ping", lambda one: one["vms"])


def test_a_look_that_began_before_a_report_has_a_number_that_the_report_names(desk: Desk) -> None:
    desk.reporter.welcomed(60, ())
    began, released = threading.Event(), threading.Event()

    def slow() -> tuple[VmFact, ...]:
        began.set()
        released.wait(SECONDS)
        return ()

    desk.look = slow
    desk.reporter.vm_changed()
    assert began.wait(SECONDS)
    desk.put("c1")
    desk.reporter.changed("c1")
    report = desk.broker.wait("reports")
    released.set()
    ping = desk.broker.wait("ping", lambda one: one["vms"] == [])
    assert ping["facts_number"] <= report["facts_begun"]


def test_a_change_that_libvirt_tells_is_looked_at_and_pinged_at_once(desk: Desk) -> None:
    desk.reporter.welcomed(60, ())
    desk.broker.wait("ping")
    desk.look = lambda: ()
    desk.reporter.vm_changed()
    assert desk.broker.wait("ping", lambda one: one["vms"] == [])["epoch"] == 3


def test_a_hanging_pool_is_out_of_reach_and_keeps_no_vm_unknown(desk: Desk, tmp_path: Path) -> None:
    released = threading.Event()

    def hang(_pools: tuple[PoolInfo, ...]) -> tuple[PoolFact, ...]:
        released.wait(SECONDS)
        return ()

    desk.pools = hang
    desk.reporter.welcomed(0.2, (PoolInfo(pool_id="p1", path=str(tmp_path)),))
    try:
        ping = desk.broker.wait("ping", lambda one: any("no answer for" in pool["reason"] for pool in one["pools"]))
        assert [pool["reachable"] for pool in ping["pools"]] == [False]
        assert ping["vms"] is not None
    finally:
        released.set()


def test_waiting_for_the_broker_puts_no_pool_out_of_reach(desk: Desk, tmp_path: Path) -> None:
    desk.reporter.welcomed(0.2, (PoolInfo(pool_id="p1", path=str(tmp_path)),))
    desk.broker.wait("ping", lambda one: one["pools"])
    for number in range(3):
        desk.put(f"c{number}")
        desk.broker.slow_seconds = 0.8  # more than two intervals and the slack: what was seen before is too old
        desk.reporter.changed(f"c{number}")
        poll(lambda: desk.broker.slow_seconds == 0.0, SECONDS, "a publish that takes long")
        desk.broker.wait("ping", lambda one: one["pools"])
    assert all(pool["reachable"] for ping in desk.broker.heard("ping") for pool in ping["pools"])
