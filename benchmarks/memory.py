"""What an agent with nothing to do keeps in memory, beside a Celery worker with nothing to do."""

import psutil

from benchmarks.measuring import Result, Sizes, interleave
from benchmarks.noop import PART, Noop
from tests.lab.lab import Lab

_ROUNDS = 3


def memory(lab: Lab, sizes: Sizes) -> list[Result]:
    """Proportional set size (proc_pid_smaps(5)): pages shared with others count by share."""
    Noop(lab)
    sides = {
        "idle agent": lambda: _proportional_bytes(lab, lab.hosts[0].part),
        "idle Celery worker": lambda: _proportional_bytes(lab, PART),
    }
    taken = interleave(sides, sizes, _ROUNDS)
    return [Result("memory", "idle agent", "idle Celery worker", taken, unit="bytes")]


def _proportional_bytes(lab: Lab, part: str) -> float:
    process = psutil.Process(lab.supervisor.pids()[part])
    return float(sum(each.memory_full_info().pss for each in [process, *process.children(recursive=True)]))
