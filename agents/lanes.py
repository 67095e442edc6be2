"""Who waits for whom: one command at a time per lane, in order; so many at once per class of work."""

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from queue import SimpleQueue

from agents.protocol.kinds import WorkClass

LIMITS: Mapping[WorkClass, int] = {WorkClass.DOWNLOAD: 4, WorkClass.DISK: 4, WorkClass.SHORT: 8}
"""How many commands of a class run at once."""


class Work(Enum):
    """What is to be done with a command when its turn comes."""

    RUN = auto()
    PUT_BACK = auto()
    """It was interrupted and then cancelled: clean up after it."""


@dataclass(frozen=True, slots=True)
class Job:
    command_id: str
    lane: str
    work_class: WorkClass
    work: Work = Work.RUN


class Lanes:
    """Thread-safe. A job is in here from :meth:`put` until :meth:`done`."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._lanes: dict[str, deque[Job]] = {}
        self._ready: dict[WorkClass, SimpleQueue[Job | None]] = {name: SimpleQueue() for name in WorkClass}
        self._here: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()

    def put(self, job: Job) -> None:
        """Behind all others of its lane."""
        with self._lock:
            self._here[job.command_id] += 1
            lane = self._lanes.setdefault(job.lane, deque())
            lane.append(job)
            if len(lane) == 1:
                self._ready[job.work_class].put(job)

    def next(self, work_class: WorkClass) -> Job | None:
        """Wait for a job whose turn it is and which no probe is looking at; None after :meth:`close`."""
        job = self._ready[work_class].get()
        if job is not None:
            with self._lock:
                self._lock.wait_for(lambda: not self._asked[job.command_id])
        return job

    def done(self, job: Job) -> None:
        """The next of its lane has its turn."""
        with self._lock:
            self._forget_one(self._here, job.command_id)
            lane = self._lanes[job.lane]
            lane.popleft()
            if lane:
                self._ready[lane[0].work_class].put(lane[0])
            else:
                del self._lanes[job.lane]

    def holds(self, command_id: str) -> bool:
        """Whether it runs or waits here."""
        return self._here[command_id] > 0

    def stand_still(self, command_id: str) -> bool:
        """Until :meth:`go_on`, nothing of this command begins. False, and no such promise, when it is here already."""
        with self._lock:
            if self._here[command_id]:
                return False
            self._asked[command_id] += 1
            return True

    def go_on(self, command_id: str) -> None:
        with self._lock:
            self._forget_one(self._asked, command_id)
            self._lock.notify_all()

    def close(self) -> None:
        """Let every thread that waits in :meth:`next` go home."""
        for work_class, ready in self._ready.items():
            for _ in range(LIMITS[work_class]):
                ready.put(None)

    @staticmethod
    def _forget_one(counter: Counter[str], command_id: str) -> None:
        counter[command_id] -= 1
        if not counter[command_id]:
            del counter[command_id]
