"""What the operations on templates do, step by step."""

import random
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db.models import QuerySet

from agents.protocol.kinds import TemplateCheck, TemplateDownload, TemplateDownloadAnswer, TemplateRemove
from agents.protocol.states import CommandState
from core_app.errors import WrongState
from core_app.transitions import transition
from infra_app.models import Agent, StoragePool
from infra_app.reaching import host_for_removal
from operations_app.models import Command, Operation
from operations_app.rules import OperationState
from operations_app.workflow import CommandSpec, Refused, Step, Workflow, is_done, left_nothing
from templates_app.accounting import template_gone, template_ready
from templates_app.models import Placement, Template
from templates_app.sources import limits, secrets_of, source_of

CHECKING_HOSTS = 3
DOWNLOAD_ATTEMPTS = 3


# --- registration --------------------------------------------------------------------------------------------------


class CheckByHost(Step):
    """A host at random looks at the URL; up to three different ones before it fails, each one's reason kept."""

    name = "check the URL from a host"

    def send(self, operation: Operation) -> Sequence[CommandSpec]:
        return self._ask_another(operation)

    def failed(self, operation: Operation, command: Command) -> Sequence[CommandSpec]:
        problem = command.error or {}
        if command.sent_at is None and not problem:
            # Taken back from a host that did not come up: as if it had never been chosen.
            operation.data["tried"].remove(str(command.agent_id))
            operation.error = None
            return self._ask_another(operation)
        _note_reason(operation, command)
        if not problem.get("elsewhere", True) or len(operation.data["tried"]) >= CHECKING_HOSTS:
            return ()
        return self._ask_another(operation)

    def done(self, operation: Operation, command: Command) -> None:
        answer = command.answer or {}
        operation.data["size_bytes"] = answer.get("size_bytes")
        operation.data["virtual_size_bytes"] = answer.get("virtual_size_bytes")
        operation.result = {"size_bytes": answer.get("size_bytes"), "checked_by": command.agent.name}

    def _ask_another(self, operation: Operation) -> Sequence[CommandSpec]:
        template = Template.objects.get(pk=operation.target_id)
        tried = operation.data.setdefault("tried", [])
        host = _checking_host(template, tried)
        if host is None:
            if not tried:
                raise Refused(
                    "no_host",
                    "The template's zones have no host.",
                    "Nobody can look at its URL.",
                    "Let a host join one of the zones, and register the template again.",
                )
            return ()
        if host.state != Agent.State.UP or host.ahead:
            operation.error = _nobody_up(template)
        tried.append(str(host.pk))
        payload = TemplateCheck(template_id=str(template.pk), source=source_of(template), limits=limits())
        lane = f"template:{template.pk}"
        return [CommandSpec("template.check", host.pk, lane, payload, secrets=secrets_of(template))]


def _nobody_up(template: Template) -> dict[str, Any]:
    return {
        "code": "no_host_up",
        "cause": f"No host of {template}'s zones is up.",
        "consequence": "Its URL is not looked at yet; the first host that comes up will do so.",
        "remedy": "Bring a host up, or cancel the registration.",
    }


def _checking_host(template: Template, tried: Sequence[str]) -> Agent | None:
    """One that is up; else, before any was asked, one that is not: the command waits until its deadline for it, or for
    the first of the others that comes up, see ``waiting.py``."""
    hosts = Agent.objects.filter(role=Agent.Role.HOST, zone__in=template.zones.all()).exclude(pk__in=tried)
    up = list(hosts.filter(state=Agent.State.UP, ahead=False))
    candidates = up if up or tried else list(hosts)
    return random.choice(candidates) if candidates else None  # noqa: S311  (spreads load, hides nothing)


class RegisterTemplate(Workflow):
    kind = "template.register"
    steps = (CheckByHost(),)

    def ended(self, operation: Operation) -> None:
        template = Template.objects.get(pk=operation.target_id)
        if operation.state != OperationState.SUCCEEDED:
            error = _with_reasons(operation)
            event = "template.failed"
            if transition(template, Template.State.FAILED, event=event, sets={"error": error}, level="warning"):
                template_gone(template)
            return
        sizes = {name: operation.data.get(name) for name in ("size_bytes", "virtual_size_bytes")}
        if transition(template, Template.State.READY, event="template.ready", sets=sizes):
            template_ready(template)
            for zone in template.zones.all():
                Placement.objects.create(
                    template=template, kind=Placement.Kind.STORE, zone=zone, state=Placement.State.READY
                )


def _note_reason(operation: Operation, command: Command) -> None:
    """Keep why this host failed, for the people who ask why all did."""
    cause = (command.error or {}).get("cause", f"The command ended as {command.state}.")
    operation.data.setdefault("reasons", []).append({"host": command.agent.name, "reason": cause})


def _with_reasons(operation: Operation) -> dict[str, Any]:
    error = operation.error or {
        "code": "cancelled",
        "cause": "The registration was cancelled.",
        "consequence": "The template is not usable.",
        "remedy": "Register it again.",
    }
    return {**error, "hosts": operation.data.get("reasons", [])}


# --- direct download -----------------------------------------------------------------------------------------------


class DownloadToPool(Step):
    """Up to three attempts, each on another host that reaches the pool; a local pool has only its own host."""

    name = "download to the pool"

    def send(self, operation: Operation) -> Sequence[CommandSpec]:
        return self._ask(operation)

    def failed(self, operation: Operation, command: Command) -> Sequence[CommandSpec]:
        _note_reason(operation, command)
        elsewhere = (command.error or {}).get("elsewhere")
        by_its_word = command.state == CommandState.FAILED  # else what it left is removed first
        if not by_its_word or not elsewhere or len(operation.data["tried"]) >= DOWNLOAD_ATTEMPTS:
            return ()
        return self._ask(operation)

    def done(self, operation: Operation, command: Command) -> None:
        answer = TemplateDownloadAnswer.model_validate(command.answer or {})
        placement = _placement(operation)
        template_id = placement.template_id
        Template.objects.filter(pk=template_id, sha256="").update(
            sha256=answer.sha256, size_bytes=answer.size_bytes, virtual_size_bytes=answer.virtual_size_bytes
        )
        if not Template.objects.filter(pk=template_id, sha256=answer.sha256).exists():
            raise Refused(
                "content_changed",
                "The server gave other bytes than for the first copy of this template.",
                "The copy is removed; VMs of one template would differ.",
                "Register the new content as a new template.",
            )
        operation.result = {"path": answer.path, "sha256": answer.sha256, "size_bytes": answer.size_bytes}
        operation.data["answer"] = answer.model_dump()

    def undo(self, operation: Operation) -> Sequence[CommandSpec]:
        """What an agent itself gave up it has cleaned up; a copy that came to be unwanted is removed.

        A final file that this download is not known to have made may be what VMs start from: it stays.
        """
        last = operation.commands.filter(kind="template.download").order_by("-seq").first()
        if last is None or left_nothing(last):
            return ()
        return [_removal(_placement(operation), last.agent_id, keep_final=not is_done(last))]

    def _ask(self, operation: Operation) -> Sequence[CommandSpec]:
        placement = _placement(operation)
        template, pool = placement.template, pool_of(placement)
        tried = operation.data.setdefault("tried", [])
        host = _downloading_host(pool, tried)
        if host is None:
            if tried:
                return ()
            raise WrongState(
                f"No host that is up reaches pool {pool}.",
                "The template cannot be downloaded to it.",
                "Bring a host with this pool up, or choose another pool.",
                code="no_host_reaches_pool",
            )
        tried.append(str(host.pk))
        payload = TemplateDownload(
            template_id=str(template.pk),
            pool_id=str(pool.pk),
            pool_path=pool.path,
            file_name=template.file_name,
            source=source_of(template),
            limits=limits(),
            pinned_sha256=template.sha256 or None,
        )
        return [CommandSpec("template.download", host.pk, _lane(placement), payload, secrets=secrets_of(template))]


def _downloading_host(pool: StoragePool, tried: Sequence[str]) -> Agent | None:
    """One that is up and reaches the pool; one that was not tried yet if there is any."""
    reaching = Agent.objects.filter(
        role=Agent.Role.HOST, state=Agent.State.UP, ahead=False, host__reaches__in=pool.reaches.filter(reachable=True)
    )
    if pool.host_id:
        reaching = reaching.filter(pk=pool.host_id)
    up = list(reaching)
    candidates = [host for host in up if str(host.pk) not in tried] or up
    return random.choice(candidates) if candidates else None  # noqa: S311


class DownloadTemplate(Workflow):
    kind = "template.download"
    steps = (DownloadToPool(),)

    def ended(self, operation: Operation) -> None:
        placement = _placement(operation)
        if operation.state == OperationState.SUCCEEDED:
            kept = {name: operation.data["answer"][name] for name in ("path", "size_bytes", "virtual_size_bytes")}
            transition(placement, Placement.State.READY, event="placement.ready", sets=kept)
        elif operation.state == OperationState.CANCELLED:
            transition(placement, Placement.State.ABSENT, event="placement.cancelled")
        else:
            error = _with_reasons(operation)
            transition(
                placement, Placement.State.FAILED, event="placement.failed", sets={"error": error}, level="warning"
            )


# --- deletion ------------------------------------------------------------------------------------------------------


class RemoveCopies(Step):
    """Remove the files of all its copies, with what unfinished downloads left; the template is deleted already."""

    name = "remove copies"
    forward_only = True

    def send(self, operation: Operation) -> Sequence[CommandSpec]:
        copies = copies_of(operation.target_id)
        return [_removal(placement, self._host(placement), str(placement.pk)) for placement in copies]

    def _host(self, placement: Placement) -> UUID:
        host_id = host_for_removal(pool_of(placement), None)
        if host_id is None:
            raise Refused(
                "no_host_reaches_pool",
                f"No host ever reached pool {placement.pool}, where a copy may lie.",
                "The copies stay until one does.",
                "Bring a host with this pool up.",
            )
        return host_id

    def done(self, operation: Operation, command: Command) -> None:
        transition(Placement.objects.get(pk=command.label), Placement.State.ABSENT, event="placement.removed")


class DeleteTemplate(Workflow):
    kind = "template.delete"
    steps = (RemoveCopies(),)

    def ended(self, operation: Operation) -> None:
        for placement in Placement.objects.filter(template=operation.target_id, kind=Placement.Kind.STORE):
            transition(placement, Placement.State.ABSENT, event="placement.removed")


def copies_of(template_id: UUID) -> QuerySet[Placement]:
    """Placements with files on a pool, whole or not."""
    there = Placement.objects.filter(template=template_id, kind=Placement.Kind.POOL)
    return there.exclude(state=Placement.State.ABSENT).select_related("template", "pool").order_by("pk")


# --- shared --------------------------------------------------------------------------------------------------------


def _placement(operation: Operation) -> Placement:
    return Placement.objects.select_related("template", "pool").get(pk=operation.target_id)


def pool_of(placement: Placement) -> StoragePool:
    if placement.pool is None:
        raise ValueError(f"placement {placement.pk} is not on a pool")
    return placement.pool


def _removal(placement: Placement, host_id: UUID, label: str = "", *, keep_final: bool = False) -> CommandSpec:
    payload = TemplateRemove(
        template_id=str(placement.template_id),
        pool_path=pool_of(placement).path,
        file_name=placement.template.file_name,
        keep_final=keep_final,
    )
    return CommandSpec("template.remove", host_id, _lane(placement), payload, label)


def _lane(placement: Placement) -> str:
    return f"placement:{placement.template_id}:{placement.pool_id}"
