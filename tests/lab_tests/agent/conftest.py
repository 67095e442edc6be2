"""A private Redis, a test in the server's place, and real agent processes."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
from celery import Celery
from kombu import Connection, Consumer, Queue
from kombu.exceptions import OperationalError

from agents.protocol.kinds import Data, VolumeCreate
from agents.protocol.messages import (
    Acknowledge,
    Cancel,
    Envelope,
    Evidence,
    Hello,
    JournalEntry,
    Ping,
    PoolInfo,
    Probe,
    Reports,
    Welcome,
    command_queue,
    control_queue,
)
from agents.protocol.sealing import public_half
from agents.state import Identity, StateFolder
from tests.lab.broker import Broker
from tests.lab.supervisor import ROOT, Supervisor
from tests.lab.waiting import poll

SECONDS = 15.0
PING_SECONDS = 0.25
PLAYED = "tests.unit.agents.agent_program"
REAL = "agents"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Restarted empty on its port a second after it dies."""
    folder = tmp_path_factory.mktemp("redis")
    supervisor = Supervisor(folder, folder / "logs")
    broker = Broker(folder / "redis", supervisor)
    try:
        broker.start()
        yield broker
    finally:
        supervisor.stop_all()


M = TypeVar("M", bound=Data)
_HEARD: Mapping[str, type[Data]] = {
    "operations.hello": Hello,
    "operations.ping": Ping,
    "operations.reports": Reports,
    "operations.evidence": Evidence,
}


@dataclass
class Server:
    """A management server as an agent sees it: takes what is said on ``control``, says what a test wants."""

    broker_url: str
    agent_id: str
    welcome_hellos: bool = True
    messages: list[Data] = field(default_factory=list)
    epoch: int = 0
    seq: int = 0
    pools: tuple[PoolInfo, ...] = ()
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        options = {"socket_timeout": 2, "socket_connect_timeout": 1}
        self._app = Celery("server", broker=self.broker_url, set_as_current=False)
        self._app.conf.update(task_ignore_result=True, broker_transport_options=options)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(SECONDS)
        self._app.close()

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                with Connection(self.broker_url, transport_options={"polling_interval": 0.05}) as connection:
                    self._drain(connection)
            except (OperationalError, OSError, redis.RedisError):
                self._stop.wait(0.1)

    def _drain(self, connection: Connection) -> None:
        with Consumer(connection, [Queue("control")], callbacks=[self._heard], no_ack=True, accept=["json"]):
            while not self._stop.is_set():
                try:
                    connection.drain_events(timeout=0.1)
                except TimeoutError:
                    continue

    def _heard(self, body: Any, message: Any) -> None:
        task = message.headers["task"]
        heard = _HEARD[task].model_validate(body[1]["message"])
        if body[1]["message"]["agent_id"] != self.agent_id:
            return
        if isinstance(heard, Hello):
            self.epoch = heard.epoch
            if self.welcome_hellos:
                self.welcome()
        self.messages.append(heard)

    # --- what it says ------------------------------------------------------------------------------------------

    def tell(self, queue: str, task: str, message: Mapping[str, Any]) -> None:
        self._app.send_task(task, kwargs={"message": message}, queue=Queue(queue), retry=False)  # type: ignore[arg-type]

    def control(self, name: str, message: Any) -> None:
        self.tell(control_queue(self.agent_id), f"agents.control.{name}", message.model_dump(mode="json"))

    def welcome(self, **changes: Any) -> None:
        fields = {
            "accepted": True,
            "epoch": self.epoch,
            "epoch_floor": self.epoch,
            "floor": 0,
            "ping_interval_seconds": PING_SECONDS,
            "pools": self.pools,
        }
        self.control("welcome", Welcome(**{**fields, **changes}))

    def envelope(self, pool: Path, **changes: Any) -> Envelope:
        self.seq += 1
        command_id = changes.pop("command_id", str(uuid.uuid4()))
        payload = VolumeCreate(
            volume_id=command_id, pool_path=str(pool), file_name=f"{command_id}.qcow2", virtual_size_bytes=1
        )
        fields = {
            "command_id": command_id,
            "attempt": 1,
            "kind": "volume.create",
            "epoch": self.epoch,
            "seq": self.seq,
            "floor": 0,
            "lane": f"volume:{command_id}",
            "payload": payload.model_dump(mode="json"),
        }
        return Envelope(**{**fields, **changes})

    def send(self, envelope: Envelope) -> Envelope:
        self.tell(command_queue(self.agent_id), f"agents.{envelope.kind}", envelope.model_dump(mode="json"))
        return envelope

    def cancel(self, envelope: Envelope) -> None:
        self.control(
            "cancel",
            Cancel(
                epoch=self.epoch,
                command_id=envelope.command_id,
                attempt=envelope.attempt,
                kind=envelope.kind,
                seq=envelope.seq,
            ),
        )

    def acknowledge(self, *envelopes: Envelope, floor: int = 0) -> None:
        ids = tuple(envelope.command_id for envelope in envelopes)
        self.control("acknowledge", Acknowledge(epoch=self.epoch, command_ids=ids, floor=floor))

    def probe(self, envelope: Envelope, timeout: float = SECONDS) -> Evidence:
        probe_id = str(uuid.uuid4())
        self.control(
            "probe",
            Probe(
                epoch=self.epoch,
                probe_id=probe_id,
                command_id=envelope.command_id,
                attempt=envelope.attempt,
                kind=envelope.kind,
                seq=envelope.seq,
                payload=envelope.payload,
            ),
        )
        return poll(
            lambda: next((one for one in self.heard(Evidence) if one.probe_id == probe_id), None), timeout, "evidence"
        )

    # --- what it heard -----------------------------------------------------------------------------------------

    def heard(self, kind: type[M]) -> list[M]:
        return [message for message in list(self.messages) if isinstance(message, kind)]

    def entries(self, command_id: str) -> list[JournalEntry]:
        """Everything that reports and pings said of a command."""
        told = [message for message in list(self.messages) if isinstance(message, Reports | Ping)]
        return [entry for message in told for entry in message.entries if entry.command_id == command_id]

    def wait(self, envelope: Envelope, *states: str, timeout: float = SECONDS) -> JournalEntry:
        """The first word that this attempt is in one of the states."""

        def look() -> JournalEntry | None:
            entries = self.entries(envelope.command_id)
            return next((e for e in entries if e.state in states and e.attempt == envelope.attempt), None)

        return poll(look, timeout, f"{envelope.command_id} is {' or '.join(states)}")

    def wait_hello(self, epoch: int) -> Hello:
        return poll(
            lambda: next((one for one in self.heard(Hello) if one.epoch >= epoch), None), SECONDS, f"hello {epoch}"
        )

    def wait_ping(self, says: Callable[[Ping], bool] = lambda _: True, timeout: float = SECONDS) -> Ping:
        """A ping that comes from now on and says something."""
        before = len(self.heard(Ping))
        return poll(lambda: next((one for one in self.heard(Ping)[before:] if says(one)), None), timeout, "such a ping")


class AgentProcess:
    """A real agent, started and ended by a test. ``log``: what it wrote, as events."""

    def __init__(self, state_dir: Path, log_path: Path) -> None:
        self.state_dir = state_dir
        self.crash_dir = state_dir.parent / "crash"
        self.crash_dir.mkdir(exist_ok=True)
        self._log_path = log_path
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, *options: str, program: str = PLAYED) -> subprocess.Popen[bytes]:
        with self._log_path.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", program, "run", "--state-dir", str(self.state_dir), *options],
                cwd=ROOT,
                env={**os.environ, "CLOUDCTL_CRASH_DIR": str(self.crash_dir)},
                stdout=log,
                stderr=log,
            )
        self._processes.append(process)
        return process

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self._processes[-1]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(SECONDS)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(SECONDS)

    def end(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait(SECONDS)

    @property
    def log(self) -> str:
        return self._log_path.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]


@dataclass(frozen=True)
class Host:
    """One agent with its server. ``public_key``: what is sealed to it the agent can read."""

    state: StateFolder
    agent: AgentProcess
    server: Server
    public_key: str

    def start(self) -> "Host":
        """Returns when the agent was welcomed."""
        self.agent.start()
        self.server.wait_hello(1)
        poll(lambda: self.server.heard(Ping), SECONDS, "a ping")
        return self

    def end(self) -> None:
        self.agent.end()
        self.server.close()


# Servers share the queue `control` of a broker, so each has a database of its own.
_databases = itertools.cycle(range(1, 16))


def _join(folder: Path, broker: Broker, database: int) -> Host:
    broker_url = f"redis://127.0.0.1:{broker.port}/{database}"
    state = StateFolder(folder / "state")
    state.prepare()
    identity = Identity(
        agent_id=str(uuid.uuid4()),
        name="host1",
        role="host",
        host_uuid=str(uuid.uuid4()),
        broker_url=broker_url,
        libvirt_uri="test:///default",
    )
    state.write_identity(identity)
    public_key = public_half(state.private_key())
    agent = AgentProcess(state.path, folder / "agent.log")
    return Host(state, agent, Server(broker_url, identity.agent_id), public_key)


@pytest.fixture(scope="module")
def host(redis_server: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A running agent that the tests of a module share; they let it live."""
    host = _join(tmp_path_factory.mktemp("host"), redis_server, 0)
    yield host.start()
    host.end()


@pytest.fixture
def fresh(redis_server: Broker, tmp_path: Path) -> Iterator[Host]:
    """A test's own agent that has joined and was never started."""
    host = _join(tmp_path, redis_server, next(_databases))
    yield host
    host.end()


@pytest.fixture
def doomed(fresh: Host) -> Host:
    """A test's own agent, running."""
    return fresh.start()


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    folder = tmp_path / "pool"
    folder.mkdir()
    return folder


def effects(pool: Path) -> list[str]:
    """What commands did, line by line."""
    path = pool / "effects"
    return path.read_text().splitlines() if path.exists() else []
