"""Errors of the agent's work, each with cause, consequence and remedy."""

from agents.protocol.messages import Problem


class CommandError(Exception):
    """A command failed for a reason that people can act on. ``elsewhere``: another host might succeed."""

    def __init__(self, code: str, cause: str, consequence: str, remedy: str, *, elsewhere: bool = False) -> None:
        super().__init__(cause)
        self.problem = Problem(code=code, cause=cause, consequence=consequence, remedy=remedy, elsewhere=elsewhere)


class Cancelled(Exception):  # noqa: N818  (a signal to unwind, as in asyncio)
    """The command was cancelled before its point of no return."""


class Interrupted(Exception):  # noqa: N818
    """The agent is stopping or has lost its right to work; the command stays as it is, for a verdict."""


class CannotTell(Exception):  # noqa: N818
    """A probe could not find out what is true; nothing follows from it. The text says why."""
