"""vm.console: the last lines of what a guest wrote on its serial port, also when it is off."""

import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.common.errors import CommandError
from agents.common.files import inside
from agents.handlers.base import Context
from agents.protocol.kinds import Data, VmConsole, VmConsoleAnswer

TAIL_BYTES = 64 * 1024
"""No more than this is read and told, however long the lines are."""

_TERMINAL_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
"""CSI, OSC and the short ones of ECMA-48: what a terminal acts on and nobody wants to read."""


class VmConsoleHandler:
    """It only reads. A guest may have written anything at all, so nothing of it is told that acts on a terminal."""

    def __init__(self, console_folder: Path) -> None:
        self._console_folder = console_folder

    def run(self, context: Context, payload: VmConsole) -> VmConsoleAnswer:
        """The tail of the console's log. Raises CommandError where this host has none."""
        context.step("vm_console.before_read")
        try:
            raw, is_whole = _tail(inside(self._console_folder, payload.console_name))
        except OSError as error:
            raise CommandError(
                "no_console",
                f"This host has no console log of the VM: {error.strerror}.",
                "There is nothing to show.",
                "Start the VM; its console is kept on the host where it last ran.",
            ) from error
        lines = readable(raw).splitlines(keepends=True)
        shown = lines[-payload.lines :]
        return VmConsoleAnswer(text="".join(shown), truncated=len(shown) < len(lines) or not is_whole)

    def cancel(self, context: Context, payload: VmConsole) -> None:
        """Nothing to put back."""

    def probe(self, notes: Mapping[str, Any], payload: VmConsole) -> Data:
        """Nothing to find out."""
        return Data()


def readable(raw: bytes) -> str:
    """Text without terminal sequences; any other character that is not for reading is shown as U+FFFD.

    Those are Unicode's controls, formats and unassigned ones (C*), among them the marks that turn the direction of what
    follows, and its separators of lines. Line ends and tabs stay.
    """
    text = _TERMINAL_SEQUENCE.sub("", raw.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n"))
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    category = unicodedata.category(character)
    hidden = category.startswith("C") or category in {"Zl", "Zp"}
    return "\ufffd" if hidden and character not in "\n\t" else character


def _tail(path: Path) -> tuple[bytes, bool]:
    """The last bytes of a log, and whether that is all. What virtlogd has just moved aside (``.0``) comes before it."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        newest = file.read(TAIL_BYTES)
    older = path.with_name(f"{path.name}.0")
    if size >= TAIL_BYTES or not older.exists():
        return newest, size <= TAIL_BYTES and not older.exists()
    return _tail(older)[0][len(newest) - TAIL_BYTES :] + newest, False
