"""What later rooms tell this one in their ``AppConfig.ready()``; they are asked through here, never imported."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from django.db import models

from agents.protocol.kinds import Data
from agents.protocol.messages import Ping
from infra_app.models import Agent
from operations_app.rules import Judgement, Verdict

if TYPE_CHECKING:
    from operations_app.workflow import Workflow

VerdictRule = Callable[[Mapping[str, Any], Any], Verdict]
"""From a command's payload (as stored) and its evidence (the kind's model) to a verdict. Pure."""


BY_PERSON_ANY = (Judgement.DONE, Judgement.UNDONE, Judgement.REDO)
BY_PERSON_FORWARD = (Judgement.DONE, Judgement.REDO)
"""Of what has no way back."""


Guard = Callable[[Any], str]
"""Why an object may not be deleted, as a sentence; empty when nothing speaks against it."""


class PingConsumer(Protocol):
    """Compares what an agent sees with what should be. Must bear being called twice with the same ping."""

    def __call__(self, agent: Agent, ping: Ping) -> None: ...


_workflows: dict[str, Workflow] = {}
_verdicts: dict[str, VerdictRule] = {}
_by_person: dict[str, Collection[Judgement]] = {}
_lockable: dict[str, type[models.Model]] = {}
ping_consumers: list[PingConsumer] = []
_guards: dict[type[models.Model], list[Guard]] = {}
sweeps: list[Callable[[], None]] = []
"""What later rooms compare in each round of the sweep. Harmless when run twice at once."""


def register_workflow(workflow: Workflow) -> None:
    """Make a kind of operation known. A second one of the same kind is a mistake in code: ValueError."""
    if workflow.kind in _workflows:
        raise ValueError(f"two workflows for {workflow.kind}")
    _workflows[workflow.kind] = workflow


def register_verdict(
    kind: str, rule: VerdictRule, *, by_person: Collection[Judgement] = (Judgement.UNDONE, Judgement.REDO)
) -> None:
    """Say how evidence about a kind of command is judged, and which verdicts a person may give who has looked.

    ``done`` is for those whose workflow can go on without the agent's answer.
    """
    if kind in _verdicts:
        raise ValueError(f"two verdict rules for {kind}")
    _verdicts[kind] = rule
    _by_person[kind] = tuple(by_person)


def register_lockable(resource_type: str, model: type[models.Model]) -> None:
    """Rows of this model are locked, in the order of their ids, while reservations on them are taken."""
    _lockable[resource_type] = model


def register_guard(model: type[models.Model], guard: Guard) -> None:
    """Let a later room speak against the deletion of what an earlier one has."""
    _guards.setdefault(model, []).append(guard)


def reasons_to_keep(target: models.Model) -> list[str]:
    """Why an object may not be deleted now; asked with its row locked."""
    return [reason for guard in _guards.get(type(target), ()) if (reason := guard(target))]


def workflow_of(kind: str) -> Workflow:
    return _workflows[kind]


def knows(kind: str) -> bool:
    """Whether this version has the workflow of the kind; rows of earlier versions may have others."""
    return kind in _workflows


def workflow_kinds() -> list[str]:
    """All kinds of operations of this version."""
    return sorted(_workflows)


def step_names(kind: str) -> list[str]:
    """Names of a kind's steps; none for a kind that this version does not know."""
    return [step.name for step in _workflows[kind].steps] if knows(kind) else []


def lockable_model(resource_type: str) -> type[models.Model] | None:
    return _lockable.get(resource_type)


def judge(kind: str, payload: Mapping[str, Any], evidence: Data) -> Verdict:
    """The verdict of the kind's rule over evidence that is already known to be fresh."""
    rule = _verdicts.get(kind)
    return rule(payload, evidence) if rule else Verdict(Judgement.RETRY, f"no rule judges evidence about {kind}")


def verdicts_by_person(kind: str) -> Collection[Judgement]:
    """What a person may say became of a command of the kind."""
    return _by_person.get(kind, ())


def judged_kinds() -> frozenset[str]:
    return frozenset(_verdicts)
