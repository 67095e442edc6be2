"""How everything here is measured: ours and its limit in turn (A B A B …), judged by the ratios of the pairs.

Other work on the machine then hits both sides alike. Every value is seconds or bytes: less is better.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

Side = Callable[[], float]
"""Does its work once and returns what it cost."""

P99_ROUNDS = 20
"""With fewer rounds a p99 says nothing."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured. ``seconds`` bounds the rounds of one comparison."""

    rounds: int = 30
    seconds: float = 60.0
    file_bytes: int = 1 << 30
    deployments: int = 50
    operations: int = 50
    rows: int = 1_000_000


@dataclass(frozen=True)
class Taken:
    """What each side cost, round by round, and how busy the machine was (load average of a minute) meanwhile."""

    values: Mapping[str, list[float]]
    load: tuple[float, float]

    def median(self, side: str) -> float:
        return median(self.values[side])


@dataclass(frozen=True)
class Result:
    """One comparison: the cost of ``ours`` as a multiple of ``limit``. ``aim``: the most it should be; None: no aim."""

    name: str
    ours: str
    limit: str
    taken: Taken
    aim: float | None = None
    unit: str = "s"
    notes: list[str] = field(default_factory=list)

    @property
    def pairs(self) -> list[tuple[float, float]]:
        return list(zip(self.taken.values[self.ours], self.taken.values[self.limit], strict=True))

    @property
    def ratio(self) -> float:
        """The median of the pairs' ratios."""
        return median(ours / limit for ours, limit in self.pairs)

    @property
    def worst(self) -> tuple[float, float]:
        """The pair with the highest ratio."""
        return max(self.pairs, key=lambda pair: pair[0] / pair[1])

    @property
    def met(self) -> bool | None:
        return None if self.aim is None else self.ratio <= self.aim

    def as_json(self) -> dict[str, Any]:
        sides = {side: _summary(self.taken.values[side]) for side in (self.ours, self.limit)}
        return {
            "name": self.name,
            "ours": self.ours,
            "limit": self.limit,
            "unit": self.unit,
            "median_ratio": self.ratio,
            "worst_pair": self.worst,
            "aim": self.aim,
            "met": self.met,
            "rounds": len(self.pairs),
            "sides": sides,
            "load": self.taken.load,
            "notes": self.notes,
        }

    def as_text(self) -> str:
        aim = "" if self.aim is None else f"  (aim: ≤ {self.aim:g}, {'met' if self.met else 'MISSED'})"
        lines = [f"{self.name}: {self.ours} costs {self.ratio:.2f} times {self.limit}{aim}"]
        lines += [f"    {side}: {self._shown(self.taken.values[side])}" for side in (self.ours, self.limit)]
        worst = " beside ".join(show(value, self.unit) for value in self.worst)
        load = " to ".join(f"{value:.1f}" for value in self.taken.load)
        lines.append(f"    {len(self.pairs)} pairs, the worst {worst}; load average {load}")
        return "\n".join([*lines, *(f"    {note}" for note in self.notes)])

    def _shown(self, values: list[float]) -> str:
        return ", ".join(f"{word} {show(value, self.unit)}" for word, value in _summary(values).items())


def interleave(sides: Mapping[str, Side], sizes: Sizes, rounds: int | None = None) -> Taken:
    """Takes all sides in turn, once a round; begins no further round when ``sizes.seconds`` are over."""
    values: dict[str, list[float]] = {side: [] for side in sides}
    before = os.getloadavg()[0]
    end = time.monotonic() + sizes.seconds
    for number in range(min(sizes.rounds, rounds or sizes.rounds)):
        if number and time.monotonic() > end:
            break
        for side, run in sides.items():
            values[side].append(run())
    return Taken(values, (before, os.getloadavg()[0]))


def timed(work: Callable[[], object]) -> Side:
    """A side that costs the seconds that ``work`` takes."""

    def run() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return run


def show(value: float, unit: str) -> str:
    """For people: 12.3 ms, 1.20 s, 54.0 MiB."""
    if unit == "bytes":
        return f"{value / (1 << 20):.1f} MiB"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


def _summary(values: list[float]) -> dict[str, float]:
    found = {"best": min(values), "p50": median(values)}
    if len(values) >= P99_ROUNDS:
        found["p99"] = quantiles(values, n=100, method="inclusive")[98]
    return found
