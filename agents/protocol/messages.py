"""Messages in both directions. Each travels as JSON in one keyword argument, ``message``, of a Celery task.

To an agent: :class:`Envelope` on queue ``agent.<id>``; :class:`Acknowledge`, :class:`Cancel`, :class:`Probe` and
:class:`Welcome` on queue ``agent.<id>.control``, so that they are never behind commands.
To the server: :class:`Hello`, :class:`Ping`, :class:`Reports` and :class:`Evidence` on queue ``control``.
"""

from typing import Any, Literal

from pydantic import Field

from agents.protocol.kinds import Data
from agents.protocol.states import AgentState

PROTOCOL_VERSION = 1
CONTROL_QUEUE = "control"


def command_queue(agent_id: str) -> str:
    """Name of the queue on which an agent takes commands."""
    return f"agent.{agent_id}"


def control_queue(agent_id: str) -> str:
    """Name of the queue on which an agent takes acknowledgements, cancels and probes."""
    return f"agent.{agent_id}.control"


class Problem(Data):
    """An error for people: what happened, what it means, what to do. ``code`` is stable."""

    code: str
    cause: str
    consequence: str
    remedy: str
    elsewhere: bool = False
    """Another host might succeed where this one failed."""


class Progress(Data):
    done_bytes: int = 0
    total_bytes: int = 0
    """0 when unknown."""
    rate: int = 0
    """Bytes a second over the last seconds."""
    message: str = ""


# --- to the agent --------------------------------------------------------------------------------------------------


class Envelope(Data):
    """A command on its way. ``(command_id, attempt)`` is taken once; see rules 3, 7 and 8 in docs/architecture.md."""

    version: int = PROTOCOL_VERSION
    command_id: str
    attempt: int
    kind: str
    epoch: int
    seq: int
    floor: int
    lane: str
    """Commands of one lane run one after the other: ``vm:<id>``, ``volume:<id>``, ``placement:<template>:<pool>``."""
    payload: dict[str, Any]
    sealed: str | None = None
    """Secrets of the payload as JSON, sealed to the agent's public key (libsodium sealed box, base64)."""
    signature: str | None = None
    """Reserved for the server's signature."""


class Acknowledge(Data):
    """The server has these commands' final states; everything up to ``floor`` is final."""

    epoch: int
    command_ids: tuple[str, ...] = ()
    floor: int


class Cancel(Data):
    """Stop this command if it can still be stopped; if it is unknown, refuse it when it comes."""

    epoch: int
    command_id: str
    attempt: int
    kind: str
    seq: int


class Probe(Data):
    """What is true about this command? The answer is :class:`Evidence` with the same ``probe_id``."""

    epoch: int
    probe_id: str
    command_id: str
    attempt: int
    kind: str
    seq: int
    payload: dict[str, Any]


class PoolInfo(Data):
    pool_id: str
    path: str


class Welcome(Data):
    """Answer to a hello. A refused agent stops, saying ``reason``; ``epoch_floor``: highest epoch known."""

    accepted: bool
    reason: str = ""
    epoch: int
    """The epoch that was answered."""
    epoch_floor: int
    floor: int
    ping_interval_seconds: float
    pools: tuple[PoolInfo, ...] = ()


class Configuration(Data):
    """What an agent must know of the database beyond commands; sent with each answer to a ping."""

    epoch: int
    ping_interval_seconds: float
    pools: tuple[PoolInfo, ...]


# --- to the server -------------------------------------------------------------------------------------------------


class JournalEntry(Data):
    """One command as the agent's journal has it."""

    command_id: str
    attempt: int
    kind: str
    seq: int
    state: AgentState
    epoch: int
    """The agent's epoch when it took the command."""
    step: str = ""
    progress: Progress | None = None
    answer: dict[str, Any] | None = None
    problem: Problem | None = None
    resumable: bool = False


class Reports(Data):
    """Changes since the last report, coalesced; the last word of each command only."""

    agent_id: str
    epoch: int
    entries: tuple[JournalEntry, ...]
    stale: tuple[tuple[str, int], ...] = ()
    """Commands (id, attempt) that were refused because they were meant for an earlier epoch; they never began."""
    facts_begun: int = 0
    """Number of the newest look at libvirt that had begun when this was published, see :class:`Ping`."""


class VmFact(Data):
    """A domain of ours as libvirt shows it."""

    vm_id: str
    power_state: Literal["running", "paused", "off"]
    reason: str = ""
    guest_agent: Literal["answering", "silent", "unknown"] = "unknown"
    answered_seconds_ago: float | None = None
    addresses: tuple[str, ...] = ()
    """What the guest's agent says of its network cards; a guest may say anything that is an address."""


class PoolFact(Data):
    pool_id: str
    reachable: bool
    capacity_bytes: int = 0
    available_bytes: int = 0
    reason: str = ""


class HostFacts(Data):
    """What a host can do; read at start."""

    cpus: int = 0
    memory_bytes: int = 0
    libvirt_version: str = ""
    qemu_version: str = ""
    accelerator: str = ""
    accelerator_reason: str = ""


class Ping(Data):
    """Everything the server needs to compare what should be with what is."""

    agent_id: str
    epoch: int
    number: int
    entries: tuple[JournalEntry, ...]
    highest_seq: int
    vms: tuple[VmFact, ...] | None = None
    """None when libvirt could not be asked: then nothing follows from it."""
    vms_reason: str = ""
    facts_number: int = 0
    """Which look at libvirt ``vms`` is; counted from 1 in each epoch, given when the look begins. A look that began
    before a command's end was published says nothing about what the command made."""
    facts_begun: int = 0
    pools: tuple[PoolFact, ...] = ()
    corrupt_journals: tuple[str, ...] = ()


class Hello(Data):
    """First message after each start of an agent."""

    agent_id: str
    epoch: int
    machine_id: str
    boot_id: str
    host_uuid: str
    role: Literal["host", "image-store", "management-server"]
    agent_version: str
    protocol_version: int = PROTOCOL_VERSION
    highest_seq: int
    facts: HostFacts = Field(default_factory=HostFacts)
    entries: tuple[JournalEntry, ...] = ()


class Evidence(Data):
    """Answer to a probe.

    ``status``: ``running`` (it runs or waits here, nothing more can be said yet), ``settled`` (nothing sent earlier can
    still take effect; ``evidence`` is what is true), ``cannot_tell`` (with ``reason``).
    """

    agent_id: str
    epoch: int
    probe_id: str
    command_id: str
    attempt: int
    status: Literal["running", "settled", "cannot_tell"]
    reason: str = ""
    entry: JournalEntry | None = None
    """What the journal says of the command; None when it has nothing."""
    evidence: dict[str, Any] | None = None
    facts_begun: int = 0
