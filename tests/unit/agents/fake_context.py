"""A context without a journal, for tests of handlers; the real one is the executor's."""

import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from agents.common.crash import crash_point
from agents.common.crash_points import CRASH_POINTS
from agents.common.errors import Cancelled
from agents.protocol.messages import Progress


class FakeContext:
    """Keeps notes in memory. ``before``: called with each point before it is passed, also with "check"."""

    def __init__(self, command_id: str = "", attempt: int = 1, notes: Mapping[str, Any] | None = None) -> None:
        self.command_id = command_id or str(uuid.uuid4())
        self.attempt = attempt
        self.notes: dict[str, Any] = dict(notes or {})
        self.secrets: Mapping[str, Any] = {}
        self.points: list[str] = []
        self.shown: list[Progress] = []
        self.cancel_requested = False
        self.committed = False
        self.before: Callable[[str], None] = lambda _: None

    def check(self) -> None:
        self.before("check")
        if self.cancel_requested and not self.committed:
            raise Cancelled

    def step(self, point: str, **notes: Any) -> None:
        CRASH_POINTS[point]
        self.before(point)
        self.check()
        self.notes.update(json.loads(json.dumps(notes)))
        self.points.append(point)
        crash_point(point)

    def commit(self, point: str, **notes: Any) -> None:
        self.step(point, **notes)
        self.committed = True

    def progress(self, progress: Progress) -> None:
        self.shown.append(progress)
