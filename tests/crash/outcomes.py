"""The table of cases and outcomes, as Markdown."""

from dataclasses import dataclass, field
from pathlib import Path

from agents.common.crash_points import CRASH_POINTS

HEADER = """# What was killed, when, and what came of it

Written by `scripts/test --crash {depth} --database {database} --crash-table docs/crash-table.md`; each row is a case
of a real run on real hypervisors. After every case the operation had settled by itself, no file in a pool was without
an owner, and database, libvirt and disks agreed. *Seconds* are from the kill to the settled operation; the agent, like
every part, is started again one second after its death.

| work | what happened to whom | when | outcome | seconds |
|---|---|---|---|---:|
"""


@dataclass(frozen=True)
class Row:
    work: str
    what: str
    when: str
    outcome: str
    seconds: float


@dataclass
class Outcomes:
    database: str
    depth: str
    rows: list[Row] = field(default_factory=list)
    killed_at: set[str] = field(default_factory=set)

    def add(self, work: str, what: str, when: str, outcome: str, seconds: float) -> None:
        """One case. ``when`` may be a crash point, which is then explained."""
        explained = f"`{when}`: {CRASH_POINTS[when]}" if when in CRASH_POINTS else when
        self.rows.append(Row(work, what, explained, outcome, seconds))

    def write(self, path: Path) -> None:
        lines = [
            f"| {row.work} | {row.what} | {row.when} | {row.outcome} | {row.seconds:.0f} |"
            for row in sorted(self.rows, key=lambda row: (row.work, row.what, row.when))
        ]
        path.write_text(HEADER.format(depth=self.depth, database=self.database) + "\n".join(lines) + "\n")
