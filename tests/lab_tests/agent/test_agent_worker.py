"""The whole agent as a process: real broker, a test in the server's place."""

import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from agents.main import EXIT_HELD, EXIT_REFUSED
from agents.protocol.kinds import VolumeCreate
from agents.protocol.messages import Acknowledge, Hello, Ping, PoolInfo, Reports, command_queue, control_queue
from agents.protocol.sealing import seal
from agents.protocol.states import AGENT_FINAL
from tests.lab.broker import Broker
from tests.lab.waiting import poll
from tests.lab_tests.agent.conftest import REAL, SECONDS, Host, effects
from tests.unit import garbage


def test_it_says_hello_and_pings_after_it_was_welcomed(host: Host) -> None:
    server = host.server
    hello = server.heard(Hello)[0]
    assert (hello.epoch, hello.highest_seq, hello.role) == (1, 0, "host")
    assert server.wait_ping().number > 1


def test_a_hello_is_repeated_until_it_is_answered(fresh: Host) -> None:
    agent, server = fresh.agent, fresh.server
    server.welcome_hellos = False
    agent.start()
    poll(lambda: len(server.heard(Hello)) > 1, SECONDS, "a second hello")
    assert not server.heard(Ping)


def test_a_command_is_done_and_reported(host: Host, pool: Path) -> None:
    server = host.server
    envelope = server.send(server.envelope(pool))
    entry = server.wait(envelope, "COMPLETED")
    assert entry.answer == {"path": f"{envelope.command_id}.qcow2", "virtual_size_bytes": 0, "allocated_bytes": 0}
    assert effects(pool) == [f"begin {envelope.command_id} 1", f"commit {envelope.command_id} 1"]


def test_three_messages_have_one_effect_also_after_the_end_and_the_acknowledgement(host: Host, pool: Path) -> None:
    running, server = host.agent, host.server
    envelope = server.envelope(pool)
    for _ in range(3):
        server.send(envelope)
    server.wait(envelope, "COMPLETED")
    server.send(envelope)
    server.acknowledge(envelope)
    server.send(envelope)
    later = server.send(server.envelope(pool))
    server.wait(later, "COMPLETED")
    assert len(effects(pool)) == 4
    late = running.events("command.late_duplicate")
    assert [event["command_id"] for event in late] == [envelope.command_id]
    assert all(entry.command_id != envelope.command_id for entry in server.wait_ping().entries)


def test_secrets_are_opened_for_the_handler_and_are_in_no_log_or_journal(host: Host, pool: Path) -> None:
    running, server, public_key = host.agent, host.server, host.public_key
    sealed = seal(public_key, {"word": "xyzzy-plugh"})
    envelope = server.send(server.envelope(pool, sealed=sealed))
    entry = server.wait(envelope, "COMPLETED")
    assert entry.answer is not None
    assert entry.answer["virtual_size_bytes"] == len("xyzzy-plugh")
    written = [path for path in running.state_dir.rglob("*") if path.is_file()]
    assert all(b"xyzzy" not in path.read_bytes() for path in written)
    assert "xyzzy" not in running.log


def test_a_kind_and_a_payload_that_it_does_not_know_fail_with_a_remedy(host: Host, pool: Path) -> None:
    server = host.server
    newer = server.send(server.envelope(pool, kind="volume.teleport"))
    other = server.send(server.envelope(pool, payload={"volume_id": "v"}))
    for envelope, code in ((newer, "unknown_kind"), (other, "bad_payload")):
        problem = server.wait(envelope, "FAILED").problem
        assert problem is not None
        assert problem.code == code
        assert "Upgrade the agent" in problem.remedy


def test_progress_is_shown_and_reported_about_once_a_second(host: Host, pool: Path) -> None:
    server = host.server
    envelope = server.envelope(pool)
    hold = pool / f"hold-{envelope.command_id}"
    hold.touch()
    server.send(envelope)
    entry = server.wait(envelope, "PROCESSING")
    assert entry.progress is not None
    assert entry.progress.total_bytes == 2

    def reports() -> int:
        return sum(any(e.state == "PROCESSING" for e in one.entries) for one in server.heard(Reports))

    first = poll(reports, SECONDS, "a report of progress")
    began = time.monotonic()
    # The first of them may come at once; between the others there is a second each.
    poll(lambda: reports() >= first + 3, SECONDS, "three more reports of progress")
    assert time.monotonic() - began > 1.5
    hold.unlink()
    server.wait(envelope, "COMPLETED")


# --- cancel --------------------------------------------------------------------------------------------------------


def test_a_cancel_that_overtakes_its_command_refuses_it(host: Host, pool: Path) -> None:
    server = host.server
    envelope = server.envelope(pool)
    server.cancel(envelope)
    server.wait(envelope, "CANCELLED")
    server.send(envelope)
    later = server.send(server.envelope(pool))
    server.wait(later, "COMPLETED")
    assert all(envelope.command_id not in line for line in effects(pool))


def test_a_cancel_while_it_runs_puts_back_what_was_done(host: Host, pool: Path) -> None:
    server = host.server
    envelope = server.envelope(pool)
    (pool / f"hold-{envelope.command_id}").touch()
    server.send(envelope)
    server.wait(envelope, "STARTED", "PROCESSING")
    server.cancel(envelope)
    server.wait(envelope, "CANCELLED")
    assert effects(pool)[-1] == f"cancel {envelope.command_id} 1"


def test_a_cancel_after_the_point_of_no_return_comes_too_late(host: Host, pool: Path) -> None:
    running, server = host.agent, host.server
    envelope = server.envelope(pool)
    hold = pool / f"hold-late-{envelope.command_id}"
    hold.touch()
    server.send(envelope)
    poll(lambda: f"commit {envelope.command_id} 1" in effects(pool), SECONDS, "the commit")
    server.cancel(envelope)
    poll(lambda: running.events("command.cancel_asked"), SECONDS, "the cancel")
    hold.unlink()
    server.wait(envelope, "COMPLETED")


def test_500_commands_are_queued_while_cancels_and_probes_are_answered_within_a_second(
    doomed: Host, pool: Path
) -> None:
    """All threads of the class are busy, too."""
    server = doomed.server
    held = [server.envelope(pool) for _ in range(8)]
    for envelope in held:
        (pool / f"hold-{envelope.command_id}").touch()
        server.send(envelope)
    many = [server.envelope(pool, lane=f"volume:{number % 50}") for number in range(500)]
    for number, envelope in enumerate(many):
        server.send(envelope)
        if number % 100 == 50:
            assert server.probe(held[0], timeout=1.0).status == "running"
            server.cancel(envelope)
            server.wait(envelope, "CANCELLED", timeout=1.0)
    for envelope in held:
        (pool / f"hold-{envelope.command_id}").unlink()

    def states() -> set[str]:
        pings = server.heard(Ping)
        entries = {entry.command_id: entry.state for entry in pings[-1].entries} if pings else {}
        return {entries.get(envelope.command_id, "QUEUED") for envelope in many}

    poll(lambda: states() <= AGENT_FINAL, SECONDS, "the end of all")
    _assert_in_order(pool, [envelope.command_id for envelope in many])


def _assert_in_order(pool: Path, sent: list[str]) -> None:
    begun = [line.split()[1] for line in effects(pool) if line.startswith("begin")]
    for lane in range(50):
        of_lane = sent[lane::50]
        assert [one for one in begun if one in of_lane] == [one for one in of_lane if one in begun]


# --- probes --------------------------------------------------------------------------------------------------------


def test_a_probe_of_an_unknown_command_refuses_that_attempt_and_takes_the_next(host: Host, pool: Path) -> None:
    server = host.server
    envelope = server.envelope(pool)
    evidence = server.probe(envelope)
    assert evidence.status == "settled"
    assert evidence.evidence is not None
    assert evidence.evidence["mismatch"] == "began in attempt None"
    server.send(envelope)
    again = server.send(envelope.model_copy(update={"attempt": 2}))
    server.wait(again, "COMPLETED")
    assert effects(pool) == [f"begin {envelope.command_id} 2", f"commit {envelope.command_id} 2"]


def test_a_probe_that_cannot_look_says_why(host: Host, pool: Path) -> None:
    server = host.server
    envelope = server.envelope(pool)
    (pool / f"hide-{envelope.command_id}").touch()
    evidence = server.probe(envelope)
    assert (evidence.status, evidence.reason) == ("cannot_tell", "the storage does not answer")


# --- facts ---------------------------------------------------------------------------------------------------------


def test_a_ping_tells_the_room_in_each_pool_and_why_one_is_out_of_reach(fresh: Host, pool: Path) -> None:
    agent, server = fresh.agent, fresh.server
    server.pools = (PoolInfo(pool_id="here", path=str(pool)), PoolInfo(pool_id="gone", path=str(pool / "gone")))
    agent.start()
    ping = server.wait_ping(lambda one: len(one.pools) == 2)
    here, gone = ping.pools
    assert here.reachable
    assert 0 < here.available_bytes <= here.capacity_bytes
    assert not gone.reachable
    assert "No such file" in gone.reason


def test_the_host_role_makes_a_volume_and_tells_what_libvirt_says(fresh: Host, pool: Path) -> None:
    server = fresh.server
    fresh.agent.start(program=REAL)
    assert server.wait_hello(1).facts.libvirt_version != ""
    assert server.wait_ping(lambda ping: ping.facts_number > 0).vms == ()
    payload = VolumeCreate(volume_id="v1", pool_path=str(pool), file_name="v1.qcow2", virtual_size_bytes=1 << 20)
    envelope = server.send(server.envelope(pool, payload=payload.model_dump(mode="json")))
    server.wait(envelope, "COMPLETED")
    evidence = server.probe(envelope).evidence
    assert evidence is not None
    assert evidence["final"]["path"] == str(pool / "v1.qcow2")
    assert [path.name for path in pool.iterdir()] == ["v1.qcow2"]
    assert fresh.agent.stop() == 0


def test_a_host_whose_libvirtd_is_down_says_so_and_has_an_agent_all_the_same(fresh: Host, pool: Path) -> None:
    identity = fresh.state.read_identity()
    fresh.state.write_identity(identity.model_copy(update={"libvirt_uri": "qemu+unix:///system?socket=/nowhere"}))
    fresh.agent.start(program=REAL)
    fresh.server.wait_hello(1)
    ping = fresh.server.wait_ping(lambda ping: ping.facts_number > 0)
    assert ping.vms is None
    assert "/nowhere" in ping.vms_reason


# --- deaths --------------------------------------------------------------------------------------------------------


def test_after_a_kill_the_begun_is_interrupted_and_the_queued_goes_on(doomed: Host, pool: Path) -> None:
    running, server = doomed.agent, doomed.server
    begun, queued = server.envelope(pool, lane="vm:1"), server.envelope(pool, lane="vm:1")
    (pool / f"hold-{begun.command_id}").touch()
    server.send(begun)
    server.send(queued)
    server.wait(begun, "STARTED", "PROCESSING")
    server.wait(queued, "QUEUED")
    running.kill()
    running.start()
    hello = server.wait_hello(2)
    states = {entry.command_id: entry.state for entry in hello.entries}
    assert states[begun.command_id] == "INTERRUPTED"
    server.wait(queued, "COMPLETED")
    (pool / f"hold-{begun.command_id}").unlink()
    again = server.send(begun.model_copy(update={"attempt": 2, "epoch": 2}))
    server.wait(again, "COMPLETED")


def test_a_cancel_of_an_interrupted_command_puts_it_back(doomed: Host, pool: Path) -> None:
    running, server = doomed.agent, doomed.server
    envelope = server.envelope(pool)
    (pool / f"hold-{envelope.command_id}").touch()
    server.send(envelope)
    server.wait(envelope, "STARTED", "PROCESSING")
    running.kill()
    running.start()
    server.wait_hello(2)
    server.cancel(envelope)
    server.wait(envelope, "CANCELLED")
    assert effects(pool)[-1] == f"cancel {envelope.command_id} 1"


@pytest.mark.parametrize(
    ("point", "end"),
    [
        ("accept.before_journal", "unknown"),
        ("accept.after_journal", "COMPLETED"),
        ("execute.before_started", "COMPLETED"),
        ("execute.after_started", "INTERRUPTED"),
        ("execute.before_answer", "INTERRUPTED"),
        ("execute.after_answer", "COMPLETED"),
        ("report.after_publish", "COMPLETED"),
    ],
)
def test_a_kill_at_any_point_leaves_the_journal_right(doomed: Host, pool: Path, point: str, end: str) -> None:
    running, server = doomed.agent, doomed.server
    (running.crash_dir / point).write_text("kill")
    envelope = server.send(server.envelope(pool))
    assert running.process.wait(SECONDS) == -signal.SIGKILL
    server.messages.clear()
    running.start()
    if end == "unknown":
        server.wait_ping(lambda ping: ping.epoch == 2)
        assert server.entries(envelope.command_id) == []
        return
    server.wait(envelope, end)


@pytest.mark.parametrize("point", ["acknowledge.before_removal", "acknowledge.after_removal"])
def test_a_kill_while_it_lets_go_does_nothing_twice(doomed: Host, pool: Path, point: str) -> None:
    running, server = doomed.agent, doomed.server
    envelope = server.send(server.envelope(pool))
    server.wait(envelope, "COMPLETED")
    (running.crash_dir / point).write_text("kill")
    server.acknowledge(envelope)
    assert running.process.wait(SECONDS) == -signal.SIGKILL
    running.start()
    server.wait_hello(2)
    server.send(envelope.model_copy(update={"epoch": 2}))
    later = server.send(server.envelope(pool))
    server.wait(later, "COMPLETED")
    assert [line for line in effects(pool) if envelope.command_id in line] == effects(pool)[:2]


def test_a_command_for_an_earlier_start_is_not_begun(host: Host, pool: Path) -> None:
    server = host.server
    envelope = server.send(server.envelope(pool, epoch=0))
    stale = (envelope.command_id, 1)
    poll(lambda: any(stale in one.stale for one in server.heard(Reports)), SECONDS, "the report")
    assert effects(pool) == []


def test_sigterm_interrupts_what_runs_and_leaves_within_ten_seconds(doomed: Host, pool: Path) -> None:
    running, server = doomed.agent, doomed.server
    envelope = server.envelope(pool)
    (pool / f"hold-{envelope.command_id}").touch()
    server.send(envelope)
    server.wait(envelope, "STARTED", "PROCESSING")
    began = time.monotonic()
    assert running.stop() == 0
    assert time.monotonic() - began < 10
    server.wait(envelope, "INTERRUPTED")


def test_a_refused_agent_stops_and_starts_above_the_floor(fresh: Host) -> None:
    agent, server = fresh.agent, fresh.server
    server.welcome_hellos = False
    agent.start()
    server.wait_hello(1)
    server.welcome(accepted=False, reason="a later start is known", epoch_floor=7)
    assert agent.process.wait(SECONDS) == EXIT_REFUSED
    assert "a later start is known" in agent.log
    agent.start()
    assert server.wait_hello(2).epoch == 8


def test_a_message_of_a_later_epoch_stops_the_agent(doomed: Host, pool: Path) -> None:
    running, server = doomed.agent, doomed.server
    server.send(server.envelope(pool, epoch=5))
    assert running.process.wait(SECONDS) == EXIT_REFUSED
    assert effects(pool) == []


def test_a_second_agent_refuses_and_names_the_holder(doomed: Host) -> None:
    running = doomed.agent
    holder = running.process
    second = running.start()
    assert second.wait(SECONDS) == EXIT_HELD
    assert f"process {holder.pid}, since " in running.log
    assert holder.poll() is None


@pytest.mark.parametrize("stopped", [False, True])
def test_a_take_over_ends_the_holder_first(doomed: Host, stopped: bool) -> None:
    running, server = doomed.agent, doomed.server
    holder = running.process
    if stopped:
        holder.send_signal(signal.SIGSTOP)
    running.start("--take-over")
    server.wait_hello(2)
    assert holder.wait(SECONDS) == 0


def test_a_corrupt_journal_is_set_aside_told_and_settled_by_evidence(fresh: Host, pool: Path) -> None:
    agent, server, state = fresh.agent, fresh.server, fresh.state
    envelope = server.envelope(pool, epoch=1)
    state.journal.mkdir(exist_ok=True)
    (state.journal / f"{envelope.command_id}.json").write_bytes(b"")
    (state.journal / f"{uuid.uuid4()}.json").write_bytes(b'{"version": 1, "envelo')
    (state.journal / f"{uuid.uuid4()}.json").write_bytes(b"\x00\xff garbage")
    agent.start()
    assert len(server.wait_ping().corrupt_journals) == 3
    server.send(envelope)
    server.wait(envelope, "INTERRUPTED")
    assert server.probe(envelope).status == "settled"
    server.wait(server.send(envelope.model_copy(update={"attempt": 2})), "COMPLETED")


# --- the broker ----------------------------------------------------------------------------------------------------


def test_a_broker_killed_and_restarted_empty_is_noticed_at_once(doomed: Host, redis_server: Broker, pool: Path) -> None:
    server = doomed.server
    envelope = server.envelope(pool)
    hold = pool / f"hold-{envelope.command_id}"
    hold.touch()
    server.send(envelope)
    server.wait(envelope, "STARTED", "PROCESSING")
    redis_server.supervisor.restarted("redis", after=redis_server.supervisor.kill("redis"))
    redis_server.wait_answering()
    back = time.monotonic()
    server.wait_ping(timeout=SECONDS)
    assert time.monotonic() - back < 4
    hold.unlink()
    server.wait(envelope, "COMPLETED")
    server.wait(server.send(server.envelope(pool)), "COMPLETED")


def test_work_ends_while_the_broker_is_down_and_is_told_when_it_is_back(
    doomed: Host, redis_server: Broker, pool: Path
) -> None:
    running, server = doomed.agent, doomed.server
    envelope = server.envelope(pool)
    hold = pool / f"hold-{envelope.command_id}"
    hold.touch()
    server.send(envelope)
    server.wait(envelope, "STARTED", "PROCESSING")
    redis_server.supervisor.hold("redis")
    redis_server.supervisor.kill("redis")
    try:
        hold.unlink()
        poll(lambda: running.events("command.ended"), SECONDS, "the end of the work")
    finally:
        redis_server.supervisor.release("redis")
        redis_server.wait_answering()
    server.wait(envelope, "COMPLETED")


@pytest.mark.parametrize("queue", [command_queue, control_queue])
def test_what_nobody_can_read_is_skipped_and_it_goes_on(doomed: Host, pool: Path, queue: Callable[[str], str]) -> None:
    running, server = doomed.agent, doomed.server
    unreadable = garbage.unreadable("agents.volume.create")
    unfit = [*garbage.misfits("agents.volume.create").values(), *garbage.misfits("agents.newer").values()]
    with redis.Redis.from_url(server.broker_url) as client:
        client.lpush(queue(server.agent_id), *unreadable.values(), *unfit)
    server.wait(server.send(server.envelope(pool)), "COMPLETED")
    server.control("acknowledge", Acknowledge(epoch=1, floor=1))
    poll(lambda: running.events("message.skipped")[len(unreadable) - 1 :], SECONDS, "all are skipped")
    assert running.process.poll() is None
    assert garbage.SECRET not in running.log


def test_it_starts_without_a_broker_and_stops_when_asked(fresh: Host, redis_server: Broker) -> None:
    agent, state = fresh.agent, fresh.state
    nowhere = state.read_identity().model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
    state.write_identity(nowhere)
    agent.start()
    poll(lambda: agent.events("broker.unreachable"), SECONDS, "it tries")
    assert agent.stop() == 0


def test_nothing_but_its_queues_is_left_in_the_broker(host: Host, redis_server: Broker, pool: Path) -> None:
    server = host.server
    server.wait(server.send(server.envelope(pool)), "COMPLETED")
    with redis.Redis.from_url(server.broker_url) as client:
        keys = {key.decode() for key in client.scan_iter()}
    assert not {key for key in keys if server.agent_id in key} - {command_queue(server.agent_id)}
    assert not {key for key in keys if key.startswith("unacked")}
