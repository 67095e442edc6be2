"""Registrations that wait for a host: the first that comes up looks at the URL, not only the one that was chosen."""

from django.db import transaction
from django.utils import timezone

from agents.protocol.messages import Ping
from agents.protocol.states import CommandState
from core_app.transitions import transition
from infra_app.models import Agent
from operations_app.models import Command
from operations_app.workflow import advance, locked
from templates_app.models import Template


def take_ping(agent: Agent, ping: Ping) -> None:
    """Take the checks back that were meant for hosts which are still not up; the workflow then asks one that is."""
    if agent.role != Agent.Role.HOST or agent.state != Agent.State.UP or agent.ahead:
        return
    here = Template.objects.filter(zones=agent.zone_id, state=Template.State.ALLOCATED)
    waiting = Command.objects.filter(kind="template.check", state=CommandState.CREATED, attempt=1)
    for command in waiting.filter(operation__target_id__in=here.values("pk")).select_related("agent"):
        if command.agent.state != Agent.State.UP or command.agent.ahead:
            _take_back(command, agent)


def _take_back(command: Command, agent: Agent) -> None:
    with transaction.atomic():
        locked(command.operation_id)
        if transition(
            command,
            CommandState.CANCELLED,
            event="command.taken_back",
            message=f"{agent} came up first",
            sets={"finished_at": timezone.now()},
            where={"sent_at": None},
        ):
            advance(command.operation_id)
