"""qemu-img: argument lists, formats always named, bounded in processor time and memory, cancellable.

JSON of its answers: QEMU's ``qapi/block-core.json`` (``ImageInfo``, ``MapEntry``).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.common.children import ChildFailed, run_child
from agents.common.errors import CommandError
from agents.protocol.kinds import ImageFile

CPU_SECONDS = 60
MEMORY_BYTES = 2 * 1024**3
CREATE_SECONDS = 300.0
READ_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class QemuView:
    """What QEMU sees in an image."""

    virtual_size_bytes: int
    allocated_bytes: int
    backing_file: str | None


class QemuImg:
    """qemu-img on behalf of one command; ``check`` is called while it runs and may raise to end it."""

    def __init__(self, command_id: str, check: Callable[[], None]) -> None:
        self._command_id = command_id
        self._check = check

    def create(self, path: Path, virtual_size_bytes: int, backing: ImageFile | None) -> None:
        """Make an empty qcow2 image, or an overlay on ``backing``, which is not opened for that."""
        # -u: the backing file was compared by our own reader; opening it would ask for locks and trust its header.
        behind = ["-u", "-F", backing.format, "-b", _absolute(backing.path)] if backing else []
        command = ["create", "-q", "-f", "qcow2", *behind, _absolute(path), str(virtual_size_bytes)]
        self._run(command, CREATE_SECONDS)

    def resize(self, path: Path, virtual_size_bytes: int) -> None:
        """Let a qcow2 image of our own grow, whose chain was compared. Its header says the new size when it is done."""
        # No --shrink: what is smaller than before is refused.
        self._run(["resize", "-q", "-f", "qcow2", _absolute(path), str(virtual_size_bytes)], CREATE_SECONDS)

    def info(self, path: Path) -> QemuView:
        """What QEMU sees in a qcow2 image that our own reader has accepted."""
        # -U: a running VM may have it open.
        found = self._run_json(["info", "-U", "-f", "qcow2", "--output=json", _absolute(path)])
        return QemuView(found["virtual-size"], found["actual-size"], found.get("full-backing-filename"))

    def holds_data(self, path: Path) -> bool:
        """Whether anything was ever written to this file itself, its backing files left out."""
        extents = self._run_json(["map", "-f", "qcow2", "--output=json", _absolute(path)])
        return any(extent["depth"] == 0 and extent["present"] for extent in extents)

    def _run_json(self, arguments: list[str]) -> Any:
        return json.loads(self._run(arguments, READ_SECONDS))

    def _run(self, arguments: list[str], timeout: float) -> str:
        try:
            return run_child(
                self._command_id,
                ["qemu-img", *arguments],
                check=self._check,
                timeout=timeout,
                cpu_seconds=CPU_SECONDS,
                memory_bytes=MEMORY_BYTES,
            )
        except ChildFailed as failed:
            raise CommandError(
                "qemu_img_failed",
                f"qemu-img {arguments[0]} failed: {failed.stderr or failed}",
                "Nothing was changed.",
                "Look at the pool's room and at the image, then try again.",
                elsewhere=True,
            ) from failed


def _absolute(path: str | Path) -> str:
    """Only an absolute name cannot be taken for an option or for a protocol (``nbd:…``)."""
    if not Path(path).is_absolute():
        raise ValueError(f"{path} is not absolute")
    return str(path)
