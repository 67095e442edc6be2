"""What a role gives to the agent's core."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agents.executor import AnyHandler
from agents.protocol.messages import HostFacts, VmFact


def _nothing() -> None:
    """Nothing to do."""


def _no_events(_on_change: Callable[[], None]) -> None:
    """This role hears of nothing."""


@dataclass(frozen=True)
class Role:
    """``handlers``: kind → handler. ``vm_facts`` may be slow and may raise; None where a role has no VMs.

    ``start`` begins to watch what the role watches and calls its argument at each change; ``stop`` ends that.
    """

    handlers: Mapping[str, AnyHandler]
    host_facts: Callable[[], HostFacts] = HostFacts
    vm_facts: Callable[[], tuple[VmFact, ...]] | None = None
    start: Callable[[Callable[[], None]], None] = field(default=_no_events)
    stop: Callable[[], None] = field(default=_nothing)
