"""The hand on an agent's crash points, see ``agents/common/crash.py``."""

from dataclasses import dataclass
from pathlib import Path

from tests.lab.lab import Host
from tests.lab.waiting import poll

_REACH_SECONDS = 30.0


@dataclass(frozen=True)
class Points:
    """Arms the points of one host's agent and sees what came of it. One point may be armed again and again."""

    host: Host

    def arm(self, point: str, mode: str) -> None:
        """``kill``, ``kill-always`` or ``hold`` whoever passes next."""
        draft = self._file(point, ".draft")
        draft.write_text(mode)
        # At once as a whole: the agent must never read half a word.
        draft.rename(self._file(point))

    def disarm(self) -> None:
        """Nothing is armed or held any more, and what was done is forgotten."""
        for path in self.host.crash_dir.iterdir():
            path.unlink(missing_ok=True)

    def wait_killed(self, point: str) -> None:
        """Returns when the agent has killed itself there."""
        self._wait(point, ".killed")

    def wait_held(self, point: str) -> None:
        """Returns when somebody waits there. Several may, if it was armed again after each."""
        self._wait(point, ".held")

    def release(self, point: str) -> None:
        """Whoever waits there goes on."""
        self._file(point, ".held").unlink()

    def passed(self, point: str) -> int:
        """How often it was passed since the last disarm()."""
        log = self._file("passed.log")
        return log.read_text().split().count(point) if log.exists() else 0

    def _wait(self, point: str, suffix: str) -> None:
        def taken() -> bool:
            return self._file(point, suffix).exists() and not self._file(point).exists()

        poll(taken, _REACH_SECONDS, f"{self.host.name} reaches {point}")

    def _file(self, point: str, suffix: str = "") -> Path:
        return self.host.crash_dir / f"{point}{suffix}"
