"""Inside a guest, by its agent: reading files and running programs as its own user would."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import libvirt
import libvirt_qemu

from tests.lab.lab import Host, Lab
from tests.lab.waiting import poll

_CHUNK_BYTES = 48 << 10
_AGENT_SECONDS = 10


@dataclass
class Inside:
    """A guest whose agent answers."""

    domain: Any

    def read(self, path: str) -> bytes:
        """A file's whole content."""
        handle = self._ask("guest-file-open", path=path, mode="r")
        content = b"".join(self._chunks(handle))
        self._ask("guest-file-close", handle=handle)
        return content

    def begin(self, *command: str) -> int:
        """Starts a program and returns its pid in the guest."""
        asked = {"path": command[0], "arg": list(command[1:]), "capture-output": True}
        pid: int = self._ask("guest-exec", **asked)["pid"]
        return pid

    def wait_file(self, path: str, seconds: float) -> None:
        """Returns when the guest has a file there that is not empty."""
        self.run("/bin/sh", "-c", f"until [ -s {path} ]; do usleep 100000; done", seconds=seconds)

    def run(self, *command: str, seconds: float = 30) -> str:
        """What a program writes; AssertionError unless it ends with 0."""
        pid = self.begin(*command)

        def ended() -> Any:
            status = self._ask("guest-exec-status", pid=pid)
            return status if status["exited"] else None

        status = poll(ended, seconds, f"{command} has ended")
        output = base64.b64decode(status.get("out-data", "")).decode(errors="replace")
        assert status["exitcode"] == 0, (command, status["exitcode"], output, status.get("err-data"))
        return output

    def _chunks(self, handle: int) -> Iterator[bytes]:
        while True:
            chunk = self._ask("guest-file-read", handle=handle, count=_CHUNK_BYTES)
            yield base64.b64decode(chunk["buf-b64"])
            if chunk["eof"]:
                return

    def _ask(self, command: str, **arguments: Any) -> Any:
        text = json.dumps({"execute": command, "arguments": arguments})
        return json.loads(libvirt_qemu.qemuAgentCommand(self.domain, text, _AGENT_SECONDS, 0))["return"]


@contextmanager
def inside(lab: Lab, vm: dict[str, Any]) -> Iterator[Inside]:
    """The guest of a VM that runs."""
    host: Host = next(host for host in lab.hosts if host.id == vm["host"])
    connection = libvirt.open(host.hypervisor.uri)
    try:
        yield Inside(connection.lookupByUUIDString(vm["id"]))
    finally:
        connection.close()
