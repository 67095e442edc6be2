"""All of cloudctl on one machine: real hypervisors, a mirror, a broker, a database, the server's parts and agents."""

import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import requests

from tests.lab import guest
from tests.lab.broker import Broker
from tests.lab.client import Client
from tests.lab.database import open_database
from tests.lab.hypervisor import Hypervisor
from tests.lab.keeper import Part
from tests.lab.mirror import Mirror
from tests.lab.supervisor import Supervisor
from tests.lab.waiting import poll

TEMPLATE = "guest.qcow2"
ZONE = "zone1"
_WEB_SECONDS = 60.0
_UP_SECONDS = 60.0
_PYTHON = (sys.executable, "-m")
KEEP = "CLOUDCTL_KEEP_LAB"
"""Set in the environment: a lab's temporary folder, with its logs, stays when the lab has stopped."""


@dataclass
class Host:
    """A hypervisor and its agent. The agent's part is `agent-NAME`; crash points are armed by files in `crash_dir`."""

    hypervisor: Hypervisor
    folder: Path
    id: str = ""

    @property
    def name(self) -> str:
        """Its name, also in the API."""
        return self.hypervisor.name

    @property
    def part(self) -> str:
        """The name of its agent among the supervisor's parts."""
        return f"agent-{self.name}"

    @property
    def state_dir(self) -> Path:
        """The agent's state folder."""
        return self.folder / "agent"

    @property
    def journal(self) -> Path:
        """The agent's journal: one file a command."""
        return self.state_dir / "journal"

    @property
    def crash_dir(self) -> Path:
        """CLOUDCTL_CRASH_DIR of the agent."""
        return self.folder / "crash"

    @property
    def local_pool(self) -> Path:
        """The folder of the pool that only this host uses."""
        return self.folder / "pool"

    def ready(self, pids: dict[str, int | None]) -> dict[str, Any]:
        """Its row of the READY line."""
        uri, journal = self.hypervisor.uri, str(self.journal)
        return {
            "id": self.id,
            "name": self.name,
            "libvirt_uri": uri,
            "agent_pid": pids[self.part],
            "journal": journal,
        }


@dataclass
class Server:
    """A management server: its web part listens on a port that outlives it, its control part does the work."""

    number: int
    supervisor: Supervisor
    env: dict[str, str]
    port: int = 0

    @property
    def name(self) -> str:
        """Its name."""
        return f"ms{self.number}"

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"http://127.0.0.1:{self.port}"

    def part(self, kind: str) -> str:
        """The name of its `web` or `control` among the supervisor's parts."""
        return kind if self.number == 1 else f"{kind}-{self.number}"

    @property
    def parts(self) -> list[str]:
        """The names of its parts."""
        return [self.part("web"), self.part("control")]

    def start_web(self) -> None:
        """Starts the part that listens; the database may still be empty."""
        listener, self.port = self.supervisor.listen()
        gunicorn = [*_PYTHON, "gunicorn", "cloudctl.wsgi", "--bind", f"fd://{listener}", "--workers=1", "--threads=8"]
        self.supervisor.start(Part(self.part("web"), gunicorn, self.env, [listener]))

    def start_control(self) -> None:
        """Starts the part that works."""
        worker = ["celery", "-A", "cloudctl", "worker", "-Q", "control", "-P", "threads", "-c", "4"]
        worker += ["-n", f"control@{self.name}", "--without-gossip", "--without-mingle"]
        self.supervisor.start(Part(self.part("control"), [*_PYTHON, *worker], self.env))

    def wait_answering(self, timeout: float = _WEB_SECONDS) -> None:
        """Returns when its web part says it is ready, also after it was killed."""
        self.supervisor.ready(self.part("web"), self._answers, timeout)

    def _answers(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.url}/readyz", timeout=5).ok
        return False


class Lab:
    """Starts on entry and stops on exit, also when the start fails half-way; two labs never meet.

    Parts, by name: `redis`, `mirror`, `postgres`, `web`, `control` (`web-2`, `control-2` … of further management
    servers), `beat`, and for each host `libvirtd-NAME`, `virtlogd-NAME`, `agent-NAME`. All of them come back a second
    after they die, unless `supervisor.hold()` says otherwise. Intervals are in seconds; None leaves the default.
    `durable`: also PostgreSQL waits for its disk, as it does in an installation.
    """

    def __init__(
        self,
        *,
        hosts: int = 2,
        database: str = "sqlite",
        folder: Path | None = None,
        ping_interval: float | None = None,
        reconcile_interval: float | None = None,
        management_servers: int = 1,
        durable: bool = False,
    ) -> None:
        self._is_temporary = folder is None
        self.dir = Path(tempfile.mkdtemp(prefix="cloudctl-lab-")) if folder is None else folder.resolve()
        self.dir.mkdir(parents=True, exist_ok=True)
        # PostgreSQL runs as a user of its own and must get at its folder.
        self.dir.chmod(0o755)
        self.log_dir = self.dir / "logs"
        self.settings = {"ping.interval": ping_interval, "reconcile.commands.interval": reconcile_interval}
        self.supervisor = Supervisor(self.dir, self.log_dir)
        self.broker = Broker(self.dir / "redis", self.supervisor)
        self.database = open_database(database, self.dir / "database", self.supervisor, durable=durable)
        self.mirror = Mirror(self.dir / "mirror", self.supervisor)
        self.hosts = [self._host(f"host{number}") for number in range(1, hosts + 1)]
        self.env = self._server_env()
        self.servers = [Server(number, self.supervisor, self.env) for number in range(1, management_servers + 1)]
        self.pools: list[dict[str, Any]] = []
        self.made: dict[str, str] = {}
        self._template: guest.Template | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def client(self) -> Client:
        """A new client of the first management server, with the operator's token."""
        return Client(self.servers[0].url, self.made["token"])

    @property
    def template_url(self) -> str:
        """The tiny guest on the mirror."""
        return self.mirror.url(TEMPLATE)

    @property
    def template(self) -> guest.Template:
        """The tiny guest's file, once the lab has started."""
        assert self._template is not None
        return self._template

    def start(self) -> None:
        """Starts everything and returns when every host is up."""
        jobs = [self.broker.start, self._start_servers, self._start_mirror]
        jobs += [host.hypervisor.start for host in self.hosts]
        _together(jobs)
        for host in self.hosts[:1]:
            host.hypervisor.publish_capabilities()
        self._apply_settings()
        token = self.dir / "join-token"
        token.touch(0o600)
        token.write_text(self.made["join_token"])
        _together([partial(self._join, host, token) for host in self.hosts])
        self._make_pools()
        for host in self.hosts:
            self._start_agent(host)
        for host in self.hosts:
            self.wait_host(host.name)
        for pool in self.pools:
            # Until a host has told what it sees there, nothing can be put on it.
            self.client.wait(f"storage-pools/{pool['id']}/", lambda row: row["capacity_bytes"], _UP_SECONDS)

    def stop(self) -> None:
        """Stops what works first and what it works with after it; then ends every guest."""
        try:
            running = self.supervisor.pids()
            workers = [host.part for host in self.hosts] + [part for server in self.servers for part in server.parts]
            self.supervisor.stop(*[part for part in [*workers, "beat"] if part in running])
        finally:
            self.supervisor.stop_all()
        if self._is_temporary and not os.environ.get(KEEP):
            # A thread of a start that failed half-way may still write.
            shutil.rmtree(self.dir, ignore_errors=True)

    def wait_host(self, name: str, state: str = "up", timeout: float = _UP_SECONDS) -> dict[str, Any]:
        """The host's row when it is in this state."""
        client = self.client
        return poll(lambda: next(iter(client.list("hosts/", name=name, state=state)), None), timeout, f"{name} {state}")

    def ready(self) -> dict[str, Any]:
        """What `scripts/lab up` prints after READY."""
        pids = self.supervisor.pids()
        servers = [
            {"id": None, "name": server.name, "url": server.url, "extensions_path": None} for server in self.servers
        ]
        return {
            "url": self.servers[0].url,
            "token": self.made["token"],
            "admin_user": self.made["admin_user"],
            "admin_password": self.made["admin_password"],
            "zone": self.made["zone"],
            "hosts": [host.ready(pids) for host in self.hosts],
            "pools": [{key: pool[key] for key in ("id", "name", "type", "path", "host")} for pool in self.pools],
            "image_store": None,
            "management_servers": servers,
            "template_url": self.template_url,
            "template_checksum": self.template.checksum,
            "mirror_log": str(self.mirror.log),
            "redis_url": self.broker.url,
            "log_dir": str(self.log_dir),
            "pids": pids,
        }

    def _host(self, name: str) -> Host:
        return Host(Hypervisor(name, self.dir / name, self.supervisor), self.dir / name)

    def _server_env(self) -> dict[str, str]:
        secrets, crash = self.dir / "secrets", self.dir / "crash"
        secrets.mkdir(mode=0o700, exist_ok=True)
        crash.mkdir(exist_ok=True)
        return {
            "CLOUDCTL_DATABASE_URL": self.database.url,
            "CLOUDCTL_BROKER_URL": self.broker.url,
            "CLOUDCTL_SECRETS_DIR": str(secrets),
            "CLOUDCTL_LOG_FORMAT": "json",
            "DJANGO_SETTINGS_MODULE": "cloudctl.settings",
        }

    def _start_mirror(self) -> None:
        self._template = guest.template()
        self.mirror.start()
        self.mirror.add(TEMPLATE, self._template.path)

    def _start_servers(self) -> None:
        self.database.start()
        # Loading Django is most of a start: the web parts do it while the tables are made.
        for server in self.servers:
            server.start_web()
        self.manage("migrate", "--verbosity=0")
        self.made = json.loads(self.manage("cloudctl_init", "--zone", ZONE, "--json"))
        for server in self.servers:
            server.wait_answering()
        for server in self.servers:
            server.start_control()
        beat = ["celery", "-A", "cloudctl", "beat", "-S", "django", f"--pidfile={self.dir}/beat.pid"]
        self.supervisor.start(Part("beat", [*_PYTHON, *beat], self.env))

    def manage(self, command: str, *arguments: str) -> str:
        """Runs `manage.py COMMAND` on the lab's database; returns its output."""
        return self.supervisor.run(f"manage-{command}", [sys.executable, "manage.py", command, *arguments], self.env)

    def _apply_settings(self) -> None:
        client = self.client
        # The mirror is on this machine, which downloads may otherwise not reach.
        for name, value in {"download.address.allow": "127.0.0.0/8", **self.settings}.items():
            if value is not None:
                client.put(f"settings/{name}/", {"value": value})

    def _join(self, host: Host, token: Path) -> None:
        host.crash_dir.mkdir()
        join = ["join", "--server", self.servers[0].url, "--token-file", str(token), "--name", host.name]
        join += ["--role", "host", "--libvirt-uri", host.hypervisor.uri, "--state-dir", str(host.state_dir)]
        joined = self.supervisor.run(f"join-{host.name}", [*_PYTHON, "agents", *join], {})
        host.id = json.loads(joined.splitlines()[-1])["id"]

    def _start_agent(self, host: Host) -> None:
        env = {"CLOUDCTL_CRASH_DIR": str(host.crash_dir)}
        self.supervisor.start(Part(host.part, [*_PYTHON, "agents", "run", "--state-dir", str(host.state_dir)], env))

    def _make_pools(self) -> None:
        client, zone = self.client, self.made["zone"]
        places: list[tuple[str, str, Path, str | None]] = [
            (f"{host.name}-local", "local", host.local_pool, host.id) for host in self.hosts
        ]
        for name, kind, path, host in [*places, ("shared", "shared", self.dir / "shared", None)]:
            path.mkdir()
            body = {"name": name, "zone": zone, "type": kind, "path": str(path), "host": host}
            self.pools.append(client.post("storage-pools/", body))


def _together(jobs: Sequence[Callable[[], None]]) -> None:
    """Runs them at the same time and returns when all are done; the first error is raised at once.

    The threads are daemons: a lab that is stopped half-way waits for none of them, and their parts are ended.
    """
    futures: list[Future[None]] = [Future() for _ in jobs]
    for job, future in zip(jobs, futures, strict=True):
        threading.Thread(target=_settle, args=(job, future), daemon=True).start()
    for done in as_completed(futures):
        done.result()


def _settle(job: Callable[[], None], future: Future[None]) -> None:
    try:
        job()
    except BaseException as error:  # noqa: BLE001  (it is raised where the future is asked)
        future.set_exception(error)
    else:
        future.set_result(None)
