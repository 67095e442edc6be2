"""The hand on a mirror process: put files there, make them bad, read what was asked."""

import contextlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import requests
import trustme

from tests.lab.keeper import Part
from tests.lab.mirror_server import Fault, Kind, Request
from tests.lab.supervisor import Supervisor

_READY_SECONDS = 10.0


class Mirror:
    """A mirror of the lab; its part has its `name`. A restart keeps its ports and files, and forgets its faults."""

    def __init__(self, folder: Path, supervisor: Supervisor, name: str = "mirror") -> None:
        self.folder = folder
        self.log = folder / "requests.jsonl"
        self.authority = folder / "ca.pem"
        self._name = name
        self._supervisor = supervisor
        self._ports: dict[str, int] = {}

    def start(self) -> None:
        """Returns when it answers."""
        (self.folder / "files").mkdir(parents=True)
        self.log.touch()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.authority))
        authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(
            str(self.folder / "server.pem")
        )
        listeners = {scheme: self._supervisor.listen() for scheme in ("http", "https", "control")}
        self._ports = {scheme: port for scheme, (_, port) in listeners.items()}
        descriptors = [descriptor for descriptor, _ in listeners.values()]
        command = ["-m", "tests.lab.mirror_server", str(self.folder), *map(str, descriptors)]
        self._supervisor.start(Part(self._name, [sys.executable, *command], listeners=descriptors))
        self._supervisor.ready(self._name, self._answers, _READY_SECONDS)

    def add(self, name: str, content: bytes | Path) -> str:
        """Serves a file (a path is linked, not copied) under /NAME; returns its HTTP address."""
        place = self.folder / "files" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            place.symlink_to(content)
        else:
            place.write_bytes(content)
        return self.url(name)

    def url(self, name: str, scheme: str = "http") -> str:
        """The address of a file, over `http` or `https`; `authority` signed the certificate of the latter."""
        return f"{scheme}://127.0.0.1:{self._ports[scheme]}/{name}"

    def fault(self, name: str, kind: Kind, **details: Any) -> None:
        """From the next request on, this is wrong with /NAME; several faults of a path work together."""
        self._control("POST", asdict(Fault(f"/{name}", kind, **details)))

    def heal(self) -> None:
        """Forgets all faults; answers that stall go on."""
        self._control("DELETE")

    def requests(self, name: str | None = None) -> list[Request]:
        """What was asked and answered so far, of /NAME or of all; an answer still under way is not in it."""
        lines = [Request(**json.loads(line)) for line in self.log.read_text().splitlines()]
        return [line for line in lines if name is None or line.path == f"/{name}"]

    @property
    def _faults(self) -> str:
        return f"http://127.0.0.1:{self._ports['control']}/faults"

    def _control(self, method: str, body: object = None) -> None:
        requests.request(method, self._faults, json=body, timeout=_READY_SECONDS).raise_for_status()

    def _answers(self) -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(self._faults, timeout=_READY_SECONDS).ok
        return False
