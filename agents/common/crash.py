"""Crash points: named places where a test can end or hold the agent.

A point costs one ``is None`` check when not armed. It is armed by the environment variable ``CLOUDCTL_CRASH_DIR``, a
folder in which a test writes a file named as the point:

- ``kill``: the first to pass takes the file away and ends its process with SIGKILL;
- ``kill-always``: the file stays, every pass ends the process;
- ``hold``: the first to pass renames it to ``<point>.held`` and waits until that file is gone.

Every point passed is appended to ``passed.log`` in that folder, so that a test can show that each one was reached.
"""

import os
import signal
import time
from pathlib import Path

from agents.common.crash_points import CRASH_POINTS

_folder = Path(os.environ["CLOUDCTL_CRASH_DIR"]) if os.environ.get("CLOUDCTL_CRASH_DIR") else None


def crash_point(name: str) -> None:
    """Pass a named point. Raises KeyError for a name that is not in the table."""
    if _folder is None:
        return
    CRASH_POINTS[name]
    _log_passage(_folder, name)
    armed = _folder / name
    try:
        mode = armed.read_text().strip()
    except FileNotFoundError:
        return
    if mode == "hold":
        _hold(armed)
        return
    if mode == "kill" and not _take(armed, ".killed"):
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _log_passage(folder: Path, name: str) -> None:
    with (folder / "passed.log").open("a") as log:
        log.write(name + "\n")


def _take(armed: Path, suffix: str) -> bool:
    try:
        armed.rename(armed.with_name(armed.name + suffix))
    except FileNotFoundError:
        return False
    return True


def _hold(armed: Path) -> None:
    if not _take(armed, ".held"):
        return
    held = armed.with_name(armed.name + ".held")
    while held.exists():
        time.sleep(0.02)
