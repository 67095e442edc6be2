"""What ends a command line: its exit code, and what people are told on stderr."""

from enum import IntEnum


class ExitCode(IntEnum):
    """How it came out, for scripts; documented in docs/cli.md."""

    SUCCEEDED = 0
    FAILED = 1
    """It failed, or the server refused it."""
    USAGE = 2
    NEEDS_ATTENTION = 3
    CANCELLED = 4
    UNREACHABLE = 5
    """No answer from the server, or it is not ready."""
    TIMED_OUT = 6
    """``--timeout`` is over; the operation goes on."""
    INTERRUPTED = 130
    """Ctrl-C; the operation goes on."""


class CliError(Exception):
    """Cause, consequence and remedy; ``details`` are further lines, name and text each."""

    def __init__(
        self,
        cause: str,
        consequence: str,
        remedy: str,
        exit_code: ExitCode = ExitCode.FAILED,
        details: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(f"{cause} {consequence} {remedy}")
        self.cause = cause
        self.consequence = consequence
        self.remedy = remedy
        self.exit_code = exit_code
        self.details = details


class RefusedError(CliError):
    """The server answered with an error of status 400 or above, ``status``."""

    status: int = 0


class UnreachableError(CliError):
    """The server did not answer, or says that it is not ready."""

    def __init__(self, cause: str, consequence: str, remedy: str) -> None:
        super().__init__(cause, consequence, remedy, ExitCode.UNREACHABLE)
