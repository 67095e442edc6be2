"""What ``cloudctl doctor`` finds: one sentence each, and what to do about it."""

from dataclasses import dataclass
from enum import Enum

from cloudctl.cli.errors import CliError, ExitCode


class Level(Enum):
    """How a finding is marked, its style, and the exit code of a run that found it."""

    GOOD = ("ok", "green", ExitCode.SUCCEEDED)
    DOUBTFUL = ("warning", "yellow", ExitCode.SUCCEEDED)
    BAD = ("problem", "bold red", ExitCode.FAILED)
    SILENT = ("no answer", "bold red", ExitCode.UNREACHABLE)

    @property
    def mark(self) -> str:
        return self.value[0]

    @property
    def style(self) -> str:
        return self.value[1]

    @property
    def exit_code(self) -> ExitCode:
        return self.value[2]


@dataclass(frozen=True)
class Finding:
    """``remedy`` is empty for what is good."""

    level: Level
    what: str
    remedy: str = ""


def good(what: str) -> Finding:
    return Finding(Level.GOOD, what)


def doubtful(what: str, remedy: str) -> Finding:
    return Finding(Level.DOUBTFUL, what, remedy)


def bad(what: str, remedy: str) -> Finding:
    return Finding(Level.BAD, what, remedy)


def finding_of(error: CliError) -> Finding:
    """An error that kept a look from being taken."""
    if error.exit_code is ExitCode.UNREACHABLE:
        return Finding(
            Level.SILENT, error.cause, "Check the address, the network, and that the server's web part runs."
        )
    return bad(error.cause, error.remedy)
