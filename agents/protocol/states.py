"""States of a command on both sides, and their groups."""

from enum import StrEnum


class AgentState(StrEnum):
    """State of a command in the agent's journal."""

    QUEUED = "QUEUED"
    """Accepted and on disk; nothing of it has had an effect."""
    STARTED = "STARTED"
    """Its attempt is on disk; effects may follow."""
    PROCESSING = "PROCESSING"
    """Working, with progress to show."""
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    """Put back as it was, or never begun."""
    INTERRUPTED = "INTERRUPTED"
    """The agent stopped or died under it. Only the server's verdict starts it again."""


AGENT_ACTIVE = frozenset({AgentState.STARTED, AgentState.PROCESSING})
AGENT_FINAL = frozenset({AgentState.COMPLETED, AgentState.FAILED, AgentState.CANCELLED})


class CommandState(StrEnum):
    """State of a command at the management server; the table of moves is in ``operations_app.rules``."""

    CREATED = "CREATED"
    SENT = "SENT"
    QUEUED = "QUEUED"
    STARTED = "STARTED"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    INTERRUPTED = "INTERRUPTED"
    TIMED_OUT = "TIMED_OUT"
    RECONCILING = "RECONCILING"
    RECONCILE_RETRY = "RECONCILE_RETRY"
    RECONCILED = "RECONCILED"
    RECONCILE_FAILED = "RECONCILE_FAILED"


COMMAND_FINAL = frozenset(
    {CommandState.COMPLETED, CommandState.FAILED, CommandState.CANCELLED, CommandState.RECONCILED}
)
COMMAND_OPEN = frozenset(CommandState) - COMMAND_FINAL
