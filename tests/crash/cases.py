"""Which cases there are, at each depth: data, made from the registry of crash points."""

from agents.common.crash_points import CRASH_POINTS
from tests.crash.jobs import JOBS, KINDS

COMMON = ("accept", "execute", "report", "acknowledge")
"""Parts whose points every command passes."""

PARTS = ("control", "web", "beat", "libvirtd", "redis")
"""What is killed while the agent is held; a PostgreSQL too where there is one."""

MAIN = ("download", "volume create", "start", "stop", "destroy")
"""Kinds of the main job: in the short suite each part is killed during each of them, during the others one by turns."""

_JOB_OF_PART = {JOBS[name].midway.partition(".")[0]: name for name in JOBS}

Case = tuple[str, str]


def jobs_of(point: str) -> tuple[str, ...]:
    """The jobs that pass a point. A part of the program without a job has no cases, and that fails a test."""
    part = point.partition(".")[0]
    if part in COMMON:
        return KINDS
    return (_JOB_OF_PART[part],) if part in _JOB_OF_PART else ()


def kills(depth: str) -> list[Case]:
    """Job and point at which its agent is killed.

    ``one``: a point a kind; ``short``: each point once, what is common to all kinds by turns with each of them;
    ``full``: each point with each job that passes it.
    """
    if depth == "one":
        return [(name, JOBS[name].midway) for name in KINDS]
    if depth == "full":
        return [(name, point) for point in CRASH_POINTS for name in jobs_of(point)]
    return _each_once()


def holds(depth: str, database: str) -> list[tuple[str, str, str]]:
    """Job, point at which its agent is held, and the part that is killed meanwhile."""
    parts = [*PARTS, "postgres"] if database == "postgres" else list(PARTS)
    if depth == "full":
        return [(name, point, part) for name, point in _each_once() for part in parts]
    turns = {name: [parts[-1 - number % len(parts)]] for number, name in enumerate(KINDS)}
    if depth == "short":
        turns |= dict.fromkeys(MAIN, parts)
    return [(name, JOBS[name].midway, part) for name, of_turn in turns.items() for part in of_turn]


def _each_once() -> list[Case]:
    return [
        (passing[number % len(passing)], point)
        for number, point in enumerate(CRASH_POINTS)
        if (passing := jobs_of(point))
    ]
