"""What a handler is, and what the executor gives it."""

from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar

from agents.protocol.kinds import Data
from agents.protocol.messages import Progress

P_contra = TypeVar("P_contra", bound=Data, contravariant=True)
A_co = TypeVar("A_co", bound=Data, covariant=True)
E_co = TypeVar("E_co", bound=Data, covariant=True)


class Context(Protocol):
    """A command's link to its journal while it runs."""

    @property
    def command_id(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def notes(self) -> Mapping[str, Any]:
        """What earlier steps and attempts wrote down; survives the agent."""

    @property
    def secrets(self) -> Mapping[str, Any]:
        """The envelope's sealed part, opened; empty when there was none. Never to be journaled or logged."""

    def check(self) -> None:
        """Raise Cancelled or Interrupted when this command must not go on. Cheap; call it in every loop."""

    def step(self, point: str, **notes: Any) -> None:
        """About to have an effect: check, write the notes down durably, pass the crash point."""

    def commit(self, point: str, **notes: Any) -> None:
        """As :meth:`step`, and the last one at which a cancel is heard: this is the point of no return."""

    def progress(self, progress: Progress) -> None:
        """Show progress; kept in memory and reported at most once a second."""


class Handler(Protocol, Generic[P_contra, A_co, E_co]):
    """One kind of command. All three may be called again after the agent died anywhere inside them."""

    def run(self, context: Context, payload: P_contra) -> A_co:
        """Do it, idempotently: reads the world first. Raises CommandError, Cancelled, Interrupted."""

    def cancel(self, context: Context, payload: P_contra) -> None:
        """Put back what an unfinished run left; called after Cancelled and after CommandError. Nothing may remain."""

    def probe(self, notes: Mapping[str, Any], payload: P_contra) -> E_co:
        """What is true now. Called only when no run of this command is alive. Raises CannotTell."""
