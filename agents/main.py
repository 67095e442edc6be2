"""The agent's program: ``run`` and ``join``."""

import argparse
import json
import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from agents.broker import Publisher, end_worker, make_app, run_worker
from agents.common.version import own_version
from agents.executor import Executor, Tools
from agents.heartbeat import Facts, Reporter
from agents.inbox import Inbox
from agents.journal import Journal
from agents.logs import log_to_stderr
from agents.prober import Prober
from agents.protocol.messages import Hello, HostFacts, PoolFact, PoolInfo
from agents.roles.base import Role
from agents.state import Epoch, Identity, Lock, StateError, StateFolder, boot_id, machine_id

log = logging.getLogger(__name__)

EXIT_STATE = 2
"""The state folder does not let it run: not joined, not readable, joined already."""
EXIT_HELD = 3
"""Another agent holds the state folder."""
EXIT_REFUSED = 4
"""The server refuses this start of the agent; the next start is above the epoch that it was told."""

STOP_SECONDS = 8.0
LAST_WORDS_SECONDS = 2.0
FACTS_SECONDS = 5.0


class Agent:
    """All parts of one running agent."""

    def __init__(self, folder: StateFolder, identity: Identity, epoch: Epoch, role: Role) -> None:
        self._identity = identity
        self._epoch = epoch
        self._role = role
        self._facts = HostFacts()
        self._exit_code = 0
        self._app = make_app(identity.broker_url, identity.agent_id)
        self._journal = Journal(folder.journal, folder.ledger, self._changed, self._progressed)
        tools = Tools(role.handlers)
        self._executor = Executor(self._journal, tools, folder.private_key(), epoch.is_mine)
        self._reporter = Reporter(
            self._journal,
            Publisher(self._app),
            Facts(self._hello, role.vm_facts, pool_facts),
            identity.agent_id,
            epoch.number,
        )
        self._prober = Prober(self._journal, self._executor.lanes, tools, self._reporter)
        self._inbox = Inbox(self._executor, self._prober, self._reporter, epoch, self._lose_right_to_work)

    def run(self) -> int:
        """Recover, then hear and work until asked to end. Returns the exit code."""
        self._journal.load()
        self._read_host_facts()
        self._reporter.start()
        self._prober.start()
        self._executor.start()
        self._role.start(self._reporter.vm_changed)
        log.info("agent.started", extra={"agent_id": self._identity.agent_id, "epoch": self._epoch.number})
        exit_code = run_worker(
            self._app,
            self._identity.agent_id,
            self._inbox.tasks,
            self._inbox.accept,
            self._reporter.connected,
        )
        self._stop()
        return self._exit_code or exit_code

    def _stop(self) -> None:
        self._executor.stop(STOP_SECONDS)
        self._role.stop()
        self._reporter.stop(LAST_WORDS_SECONDS)
        log.info("agent.stopped", extra={"agent_id": self._identity.agent_id})

    def _changed(self, command_id: str) -> None:
        self._reporter.changed(command_id)

    def _progressed(self, command_id: str) -> None:
        self._reporter.progressed(command_id)

    def _lose_right_to_work(self, reason: str) -> None:
        log.critical("agent.refused", extra={"reason": reason})
        self._exit_code = EXIT_REFUSED
        self._executor.stopping.set()
        end_worker(EXIT_REFUSED)

    def _read_host_facts(self) -> None:
        """In a thread: a libvirt that hangs must not keep the agent from saying hello."""

        def read() -> None:
            try:
                self._facts = self._role.host_facts()
            except Exception as error:  # noqa: BLE001  (the hypervisor's own; the hello goes without)
                log.warning("facts.unavailable", extra={"watch": "host-facts", "error": str(error)})

        thread = threading.Thread(target=read, name="host-facts", daemon=True)
        thread.start()
        thread.join(FACTS_SECONDS)

    def _hello(self) -> Hello:
        return Hello(
            agent_id=self._identity.agent_id,
            epoch=self._epoch.number,
            machine_id=machine_id(),
            boot_id=boot_id(),
            host_uuid=self._identity.host_uuid,
            role=self._identity.role,
            agent_version=own_version(),
            highest_seq=self._journal.highest_seq,
            facts=self._facts,
            entries=self._journal.entries(),
        )


def pool_facts(pools: tuple[PoolInfo, ...]) -> tuple[PoolFact, ...]:
    """Room in each pool, bytes. May hang as long as a dead file server does."""
    return tuple(_pool_fact(pool) for pool in pools)


def _pool_fact(pool: PoolInfo) -> PoolFact:
    try:
        room = shutil.disk_usage(pool.path)
    except OSError as error:
        return PoolFact(pool_id=pool.pool_id, reachable=False, reason=f"{pool.path}: {error.strerror}")
    return PoolFact(pool_id=pool.pool_id, reachable=True, capacity_bytes=room.total, available_bytes=room.free)


MakeRole = Callable[[Identity, StateFolder], Role]


def make_role(identity: Identity, folder: StateFolder) -> Role:
    """Only the role that is played is imported: the others' libraries may not be installed."""
    if identity.role == "host":
        from agents.roles.host import HostRole

        return HostRole(identity.libvirt_uri, folder.path / "console").role()
    return Role(handlers={})


def run(state_dir: Path, make_role: MakeRole, *, take_over: bool) -> int:
    """Be the agent of a state folder until asked to end. Exit codes: see :func:`main`."""
    folder = StateFolder(state_dir)
    folder.prepare()
    identity = folder.read_identity()
    try:
        # Never released: a thread that outlives everything else would work beside the next agent. It ends with us.
        Lock(folder, identity.name).take(take_over=take_over)
    except StateError as error:
        return _complain(error, EXIT_HELD)
    folder.sweep()
    epoch = Epoch(folder)
    epoch.raise_own()
    return Agent(folder, identity, epoch, make_role(identity, folder)).run()


def _complain(error: StateError, exit_code: int) -> int:
    sys.stderr.write(f"{error}\n")
    return exit_code


def _join(options: argparse.Namespace) -> int:
    # Once in an agent's life: every start would pay for its HTTP client.
    from agents.join import Applicant, join

    token = options.token_file.read_text().strip()
    folder = StateFolder(options.state_dir)
    applicant = Applicant(options.name, options.role, options.libvirt_uri)
    identity = join(folder, options.server, token, applicant)
    sys.stdout.write(json.dumps({"id": identity.agent_id, "name": identity.name}) + "\n")
    return 0


def main(arguments: Sequence[str] | None = None, make_role: MakeRole = make_role) -> int:
    """Exit codes: 0 asked to end, 2 state folder, 3 held by another agent, 4 refused by the server."""
    options = _parser().parse_args(arguments)
    log_to_stderr(options.log_level)
    try:
        if options.action == "join":
            return _join(options)
        return run(options.state_dir, make_role, take_over=options.take_over)
    except StateError as error:
        return _complain(error, EXIT_STATE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="agents", description="The program on a host: it does what cloudctl asks.")
    parser.add_argument("--log-level", default=os.environ.get("CLOUDCTL_LOG_LEVEL", "INFO"))
    actions = parser.add_subparsers(dest="action", required=True)
    running = actions.add_parser("run", help="be the agent of a state folder")
    running.add_argument("--state-dir", type=Path, required=True)
    running.add_argument("--take-over", action="store_true", help="end the agent that holds the state folder first")
    joining = actions.add_parser("join", help="become an agent of a management server")
    joining.add_argument("--state-dir", type=Path, required=True)
    joining.add_argument("--server", required=True, help="URL of a management server")
    joining.add_argument("--token-file", type=Path, required=True, help="file that holds the join token")
    joining.add_argument("--name", required=True)
    joining.add_argument("--role", choices=["host", "image-store", "management-server"], default="host")
    joining.add_argument("--libvirt-uri", default="qemu:///system")
    return parser
