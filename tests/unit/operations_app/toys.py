"""Toy workflows of real commands, and the voice of a host: what its agent would say, said by a test."""

import base64
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import models, transaction
from django.utils import timezone
from redis import Redis

from agents.protocol.kinds import (
    DownloadLimits,
    Source,
    TemplateCheck,
    TemplateDownload,
    TemplateRemove,
    VmStart,
    VmStop,
)
from agents.protocol.messages import Evidence, JournalEntry, Ping, Problem, Progress, Reports, command_queue
from agents.protocol.states import AgentState
from core_app import events
from core_app.models import Event
from infra_app.models import Agent
from operations_app import reconciliation, registry, reports
from operations_app.actions import submit
from operations_app.models import Command, Operation
from operations_app.workflow import CommandSpec, Refused, Step, Wait, Workflow
from tests.unit import people

_SOURCE = Source(url="http://mirror/image", format="qcow2")
_ANSWER = {"path": "/pool/file", "size_bytes": 10, "virtual_size_bytes": 10, "sha256": "0" * 64}
ANY_ANSWER = _ANSWER | {"resumable": True, "allocated_bytes": 0, "accelerator": "tcg", "was_running": True}
"""Holds what the answers of all kinds need."""


def download(host: str, label: str) -> CommandSpec:
    payload = TemplateDownload(
        template_id=label, pool_id="p", pool_path="/pool", file_name=label, source=_SOURCE, limits=DownloadLimits()
    )
    return CommandSpec("template.download", UUID(host), f"placement:{label}", payload, label)


def remove(host: str, label: str) -> CommandSpec:
    payload = TemplateRemove(template_id=label, pool_path="/pool", file_name=label)
    return CommandSpec("template.remove", UUID(host), f"placement:{label}", payload, label)


class Fetch(Step):
    """One download a host of ``data["hosts"]``; another host of ``data["spare"]`` where one failed."""

    name = "fetch"

    def send(self, operation: Operation) -> Sequence[CommandSpec]:
        return [download(host, f"f{number}") for number, host in enumerate(operation.data["hosts"])]

    def failed(self, operation: Operation, command: Command) -> Sequence[CommandSpec]:
        spare = operation.data.get("spare", [])
        return [download(spare.pop(), command.label)] if spare else ()

    def done(self, operation: Operation, command: Command) -> None:
        events.record("toy.fetched", operation, command.label)

    def undo(self, operation: Operation) -> Sequence[CommandSpec]:
        return [remove(host, f"f{number}") for number, host in enumerate(operation.data["hosts"])]


class Check(Step):
    name = "check"

    def send(self, operation: Operation) -> Sequence[CommandSpec]:
        payload = TemplateCheck(template_id="t", source=_SOURCE, limits=DownloadLimits())
        return [CommandSpec("template.check", UUID(operation.data["hosts"][0]), "template:t", payload)]

    def done(self, operation: Operation, command: Command) -> None:
        events.record("toy.checked", operation)


class Start(Step):
    name = "start"

    def send(self, operation: Operation) -> Sequence[CommandSpec]:
        if operation.data.get("refuse"):
            raise Refused("no_room", "There is no room.", "Nothing runs.", "Make room.")
        vm = VmStart(vm_id="v", name="v", cpus=1, memory_bytes=1, disks=(), console_name="v")
        return [CommandSpec("vm.start", UUID(operation.data["hosts"][0]), "vm:v", vm)]

    def done(self, operation: Operation, command: Command) -> None:
        events.record("toy.started", operation)

    def undo(self, operation: Operation) -> Sequence[CommandSpec]:
        return [CommandSpec("vm.stop", UUID(operation.data["hosts"][0]), "vm:v", VmStop(vm_id="v", mode="force"))]


class Clean(Step):
    """Not to be given up once it began."""

    name = "clean"
    forward_only = True

    def send(self, operation: Operation) -> Sequence[CommandSpec]:
        cleaned = operation.data.setdefault("cleaned", [])
        labels = [f"f{number}" for number in range(len(operation.data["hosts"]))]
        return [remove(operation.data["hosts"][int(label[1:])], label) for label in labels if label not in cleaned]

    def done(self, operation: Operation, command: Command) -> None:
        operation.data["cleaned"].append(command.label)
        events.record("toy.cleaned", operation, command.label)


class Join(Step):
    name = "join"

    def send(self, operation: Operation) -> Wait:
        return Wait(Operation.objects.get(pk=operation.data["awaited"]))

    def undo(self, operation: Operation) -> Sequence[CommandSpec]:
        events.record("toy.left", operation)
        return ()


class _Toy(Workflow):
    def ended(self, operation: Operation) -> None:
        events.record("toy.ended", operation, operation.state)


class FetchAndStart(_Toy):
    kind = "toy.deploy"
    steps = (Check(), Fetch(), Start())


class Shared(_Toy):
    kind = "toy.shared"
    steps = (Fetch(),)


class Joining(_Toy):
    kind = "toy.joining"
    steps = (Join(), Start())


class JoiningLast(_Toy):
    kind = "toy.joining_last"
    steps = (Join(),)


class Destroy(_Toy):
    kind = "toy.destroy"
    steps = (Start(), Clean())


for _workflow in (FetchAndStart, Shared, Joining, JoiningLast, Destroy):
    registry.register_workflow(_workflow())


def begin(kind: str, target: models.Model, *hosts: "HostVoice", **more: Any) -> Operation:
    """Submit an operation as an action would."""
    reservations = {name: more.pop(name) for name in ("exclusive", "shared") if name in more}
    data = {"hosts": [str(host.agent.pk) for host in hosts], **more}
    with transaction.atomic():
        return submit(kind, target, data=data, **reservations)


def happened(operation: Operation, kind: str) -> list[str]:
    """Messages of the operation's events of a kind, oldest first."""
    found = Event.objects.filter(target_id=str(operation.pk), kind=kind).order_by("created_at")
    return list(found.values_list("message", flat=True))


class HostVoice:
    """Says what a host's agent would say, and hears what is sent to it over the real broker."""

    def __init__(self, agent: Agent, broker: Redis) -> None:
        self.agent = agent
        self.epoch = 0
        self.highest_seq = 0
        self._broker = broker

    # --- hearing -----------------------------------------------------------------------------------------------

    def hears(self, name: str = "") -> list[dict[str, Any]]:
        """Takes the messages of a queue: commands, or what is called ``name`` on the control queue."""
        if name:
            return self.hears_notes().get(name, [])
        return [_body(message) for message in self._taken("")]

    def hears_notes(self) -> dict[str, list[dict[str, Any]]]:
        """Takes the messages of the control queue, by name."""
        notes: dict[str, list[dict[str, Any]]] = {}
        for message in self._taken(".control"):
            notes.setdefault(message["headers"]["task"].rpartition(".")[2], []).append(_body(message))
        return notes

    def _taken(self, suffix: str) -> list[dict[str, Any]]:
        taken = self._broker.lpop(command_queue(str(self.agent.pk)) + suffix, 10_000) or []
        return [json.loads(text) for text in reversed(taken)]  # type: ignore[arg-type]

    # --- speaking ----------------------------------------------------------------------------------------------

    def hello(self, *entries: JournalEntry, **changes: Any) -> None:
        """A start: the next epoch."""
        self.epoch += 1
        reports.hello(people.hello(self.agent, self.epoch, entries=entries, **changes))
        self.agent.refresh_from_db()

    def pings(self, *entries: JournalEntry, **changes: Any) -> None:
        said: dict[str, Any] = {"agent_id": str(self.agent.pk), "epoch": self.epoch, "number": 1, "highest_seq": 0}
        reports.ping(Ping(**(said | {"entries": entries} | changes)))
        self.agent.refresh_from_db()

    def reports(self, *entries: JournalEntry, **changes: Any) -> None:
        said = {"agent_id": str(self.agent.pk), "epoch": self.epoch, "entries": entries}
        reports.reports(Reports(**(said | changes)))

    def entry(self, command: Command, state: str, **changes: Any) -> JournalEntry:
        parts: dict[str, Any] = {
            "command_id": str(command.pk),
            "attempt": command.attempt,
            "kind": command.kind,
            "seq": command.seq,
            "state": AgentState(state),
            "epoch": self.epoch,
        }
        if state == "COMPLETED":
            parts["answer"] = ANY_ANSWER
        if state == "FAILED":
            parts["problem"] = problem("broken")
        return JournalEntry(**(parts | changes))

    def says(self, command: Command, state: str, **changes: Any) -> None:
        """One report of one command as the row is now."""
        command.refresh_from_db()
        self.reports(self.entry(command, state, **changes))
        command.refresh_from_db()

    def answers(self, command: Command, status: str = "settled", **changes: Any) -> None:
        """Answers the last question about a command."""
        command.refresh_from_db()
        parts: dict[str, Any] = {
            "agent_id": str(self.agent.pk),
            "epoch": self.epoch,
            "probe_id": str(command.probe_id),
            "command_id": str(command.pk),
            "attempt": command.attempt,
            "status": status,
        }
        reconciliation.evidence(Evidence(**(parts | changes)))
        command.refresh_from_db()


FINAL = {"final": _ANSWER}
"""Evidence of a download that is done; without it, the download is begun anew."""
FOREIGN = {"unverified_final": True}
"""Evidence of a download that is not done and not to be begun anew."""


def problem(cause: str, **changes: Any) -> Problem:
    return Problem(code="broken", cause=cause, consequence="Nothing was done.", remedy="Mend it.", **changes)


def progress(done: int, total: int, rate: int = 10) -> Progress:
    return Progress(done_bytes=done, total_bytes=total, rate=rate)


def open_commands(operation: Operation) -> list[Command]:
    """Commands of the present round, in the order of their labels."""
    operation.refresh_from_db()
    return list(operation.commands.filter(round=operation.round).order_by("label"))


def the_command(operation: Operation) -> Command:
    (command,) = open_commands(operation)
    return command


def error_of(row: Operation | Command) -> dict[str, str]:
    """The row's error as it is in the database; empty when there is none."""
    row.refresh_from_db()
    return row.error or {}


def ago(model: models.Model, field: str, seconds: float) -> None:
    """Let a moment of a row lie in the past."""
    moment = timezone.now() - timedelta(seconds=seconds)
    type(model)._base_manager.filter(pk=model.pk).update(**{field: moment})


def _body(message: dict[str, Any]) -> dict[str, Any]:
    _args, kwargs, _embed = json.loads(base64.b64decode(message["body"]))
    body: dict[str, Any] = kwargs["message"]
    return body
