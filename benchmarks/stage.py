"""What several benchmarks need of a lab: new templates, quiet, the agent's own moments."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from uuid import uuid4

from tests.lab.lab import Lab
from tests.lab.waiting import poll
from tests.scenarios.cloud import Cloud, Row

BLOCK_BYTES = 1 << 20
_STARTED_SECONDS = 30.0
OPEN = ("pending", "running")


@contextmanager
def quiet(lab: Lab) -> Iterator[None]:
    """Only web, database and broker run meanwhile; what is published stays in its queue."""
    held = [*(host.part for host in lab.hosts), *(server.part("control") for server in lab.servers), "beat"]
    lab.supervisor.stop(*held)
    try:
        yield
    finally:
        for part in held:
            lab.supervisor.release(part)
    for host in lab.hosts:
        lab.wait_host(host.name)


def serve_bytes(lab: Lab, size: int, fill: bytes) -> str:
    """A raw image without holes on the mirror, under a new name; the mirror has read it once."""
    name = f"{uuid4()}.raw"
    path = lab.mirror.folder / "files" / name
    block = fill * (BLOCK_BYTES // len(fill))
    with path.open("wb") as file:
        for start in range(0, size, BLOCK_BYTES):
            file.write(block[: min(BLOCK_BYTES, size - start)])
    return name


def register(cloud: Cloud, name: str) -> Row:
    """A template of that file, ready; each call makes another."""
    return cloud.template(name, format="raw", checksum="")


def moments(lab: Lab, events: Sequence[str], command: str, attempt: int = 1) -> list[float]:
    """When the first host's agent logged these of a command, in seconds since 1970; waits for them."""

    def look() -> list[float] | None:
        found = _logged(lab, command, attempt)
        return [found[event] for event in events] if found.keys() >= set(events) else None

    return poll(look, _STARTED_SECONDS, f"{', '.join(events)} of command {command}")


def _logged(lab: Lab, command: str, attempt: int) -> dict[str, float]:
    found = {}
    for text in (lab.log_dir / f"{lab.hosts[0].part}.log").read_text().splitlines():
        if command in text and text.startswith("{"):
            line = json.loads(text)
            if line.get("attempt") == attempt:
                found[line["event"]] = datetime.fromisoformat(line["at"]).timestamp()
    return found


def wait_all(cloud: Cloud, kind: str, timeout: float) -> None:
    """Returns when no operation of this kind is on its way."""

    def none_open() -> bool:
        pages = (cloud.client.get("operations/", kind=kind, state=state, page_size=1) for state in OPEN)
        return not any(page["results"] for page in pages)

    poll(none_open, timeout, f"no {kind} is open")
    failed = cloud.client.get("operations/", kind=kind, state="failed", page_size=1)["results"]
    assert not failed, failed
