"""The whole agent as a process: real broker, a test in the server's place."""

from pathlib import Path

from agents.protocol.messages import Hello
from tests.unit.agents.conftest import AgentProcess, Server, effects


def test_it_says_hello_and_pings_after_it_was_welcomed(running: AgentProcess, server: Server) -> None:
    hello = server.heard(Hello)[0]
    assert (hello.epoch, hello.highest_seq, hello.role) == (1, 0, "host")
    assert server.wait_ping().number > 1


def test_a_command_is_done_and_reported(running: AgentProcess, server: Server, pool: Path) -> None:
    envelope = server.send(server.envelope(pool))
    entry = server.wait(envelope, "COMPLETED")
    assert entry.answer == {"path": f"{envelope.command_id}.qcow2", "virtual_size_bytes": 0, "allocated_bytes": 0}
    assert effects(pool) == [f"begin {envelope.command_id} 1", f"commit {envelope.command_id} 1"]
