"""A private Redis that keeps nothing: restarted, it is empty, which is the worst a broker may do to cloudctl."""

import contextlib
import random
import socket
from dataclasses import dataclass, field
from pathlib import Path

import redis

from tests.lab.keeper import Part
from tests.lab.supervisor import Supervisor

# Below the ephemeral ports (ip_local_port_range): while Redis is down no outgoing connection takes its port.
_PORTS = range(20000, 32000)
_READY_SECONDS = 10.0


def free_port() -> int:
    """A port on 127.0.0.1 that nothing listens on and no outgoing connection is given."""
    while True:
        port = random.choice(_PORTS)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@dataclass(frozen=True)
class Broker:
    """A redis-server on a port of its own, the same after each restart. Its part is `redis`."""

    folder: Path
    supervisor: Supervisor
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        """For CLOUDCTL_BROKER_URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Returns when it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        options = {"bind": "127.0.0.1", "port": self.port, "save": "", "appendonly": "no", "dir": self.folder}
        options["maxmemory-policy"] = "noeviction"
        arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self.supervisor.start(Part("redis", ["redis-server", *arguments]))
        self.wait_answering()

    def wait_answering(self, timeout: float = _READY_SECONDS) -> None:
        """Returns when it answers, also after it was killed."""
        self.supervisor.ready("redis", self._answers, timeout)

    def _answers(self) -> bool:
        with redis.Redis(port=self.port, socket_connect_timeout=1, socket_timeout=1) as client:
            try:
                return client.ping() is True
            except (redis.ConnectionError, redis.TimeoutError):
                return False
