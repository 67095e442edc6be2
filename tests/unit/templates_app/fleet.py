"""A fleet whose agents speak through the tests: real rows, a real broker, and the agents' words as reports.

Nothing here decides anything: every word goes in through ``operations_app.reports`` as it would from the queue.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from django.test import Client, TestCase

from accounts_app.models import Account, User
from agents.protocol.messages import Evidence, HostFacts, JournalEntry, Ping, PoolFact, Problem, Progress, Reports
from agents.protocol.states import COMMAND_OPEN, AgentState
from core_app import settings_rows
from core_app.models import Event
from infra_app import actions as infra
from infra_app.models import Agent, StoragePool, Zone
from operations_app import actions as operations
from operations_app import reconciliation, reports, sweep
from operations_app.models import Command, Operation
from templates_app.actions import Registration, template_register
from templates_app.models import Placement, Template
from tests.unit.people import hello, joined

T = TypeVar("T")
GIB = 1 << 30
SHA256 = "a" * 64
TEMPLATE_BYTES = 100 << 20
URL = "http://mirror.example.org/images/debian.qcow2"


@contextmanager
def committed() -> Iterator[None]:
    """What happens inside is committed as far as the code can tell: what waits for the commit is done at the end."""
    with TestCase.captureOnCommitCallbacks(execute=True):
        yield


def problem(code: str = "source_unreachable", *, elsewhere: bool = True, cause: str = "It did not work.") -> Problem:
    return Problem(code=code, cause=cause, consequence="Nothing is left.", remedy="Try again.", elsewhere=elsewhere)


def _answer(command: Command) -> dict[str, Any]:
    """What an agent says when it has done the command."""
    said = command.payload
    path = f"{said.get('pool_path')}/{said.get('file_name')}"
    answers: dict[str, dict[str, Any]] = {
        "template.check": {"size_bytes": TEMPLATE_BYTES, "virtual_size_bytes": GIB, "resumable": True},
        "template.download": {
            "path": path, "size_bytes": TEMPLATE_BYTES, "virtual_size_bytes": GIB, "sha256": SHA256,
        },
        "volume.create": {
            "path": path, "virtual_size_bytes": said.get("virtual_size_bytes"), "allocated_bytes": 0,
        },
        "volume.attach": {"live": True},
        "volume.detach": {"live": True},
        "volume.resize": {"virtual_size_bytes": said.get("virtual_size_bytes"), "live": False},
        "seed.create": {"path": path},
        "vm.start": {"power_state": "running", "accelerator": "tcg"},
        "vm.stop": {"power_state": "off", "was_running": True},
        "vm.reboot": {"forced": said.get("mode") == "force"},
        "vm.resume": {"power_state": "running"},
        "vm.console": {"text": "login: \n", "truncated": False},
    }  # fmt: skip
    return answers.get(command.kind, {"removed": []})


class Fleet:
    """A zone with hosts and pools, and the words of their agents."""

    def __init__(self, zone: Zone, account: Account) -> None:
        self.zone = zone
        self.account = account
        self.looks = 0
        """Number of the newest look at libvirt that an agent has begun."""

    # --- places ----------------------------------------------------------------------------------------------------

    def host(self, name: str, *, memory_bytes: int = 8 * GIB, up: bool = True, zone: Zone | None = None) -> Agent:
        agent = joined(zone or self.zone, name)
        if up:
            facts = HostFacts(cpus=4, memory_bytes=memory_bytes, libvirt_version="9.0.0", qemu_version="7.2.0")
            self.comes_up(agent, facts=facts)
        return agent

    def comes_up(self, agent: Agent, **said: Any) -> None:
        with committed():
            reports.hello(hello(agent, agent.epoch + 1, **said))
        agent.refresh_from_db()

    def goes_away(self, *agents: Agent) -> None:
        """Silence for longer than three ping intervals, as the watch judges it."""
        for agent in agents:
            Agent.objects.filter(pk=agent.pk).update(state=Agent.State.DISCONNECTED)
            agent.refresh_from_db()

    def pool(
        self, name: str = "shared", *hosts: Agent, local: bool = False, capacity_bytes: int = 100 * GIB
    ) -> StoragePool:
        """A pool that these hosts have seen; a local one is the first host's."""
        kind, owner = ("local", hosts[0].host) if local else ("shared", None)
        zone = hosts[0].zone if hosts else self.zone
        pool = infra.storage_pool_create(name=name, zone=zone, type=kind, path=f"/pools/{name}", host=owner)
        for host in hosts:
            self.pings(host, pools=[self.room(pool, capacity_bytes)])
        pool.refresh_from_db()
        return pool

    @staticmethod
    def room(pool: StoragePool, capacity_bytes: int = 100 * GIB, *, reachable: bool = True) -> PoolFact:
        return PoolFact(
            pool_id=str(pool.pk), reachable=reachable, capacity_bytes=capacity_bytes, available_bytes=capacity_bytes
        )

    # --- templates -------------------------------------------------------------------------------------------------

    def registered(self, name: str = "debian", **changes: Any) -> tuple[Template, Operation]:
        wanted = {"name": name, "url": URL, "format": "qcow2", "account": self.account, **changes}
        with committed():
            return template_register(Registration(**wanted))

    def checked(self, name: str = "debian", **changes: Any) -> Template:
        """A template that was registered and that a host has looked at: ready."""
        template, operation = self.registered(name, **changes)
        self.works(operation)
        template.refresh_from_db()
        assert template.state == Template.State.READY
        return template

    def template(self, name: str = "debian", **changes: Any) -> Template:
        """The same rows at once, see ``test_templates_made_at_once.py``."""
        sizes = {"size_bytes": TEMPLATE_BYTES, "virtual_size_bytes": GIB}
        fields = {"name": name, "url": URL, "format": "qcow2", "account": self.account, "state": "ready", **sizes}
        template = Template.objects.create(**(fields | changes))
        template.zones.add(self.zone)
        Placement.objects.create(template=template, kind="store", zone=self.zone, state="ready")
        return template

    def on_pool(self, template: Template, pool: StoragePool) -> Placement:
        """The rows of a template that was downloaded to a pool."""
        Template.objects.filter(pk=template.pk).update(sha256=SHA256)
        sizes = {"size_bytes": TEMPLATE_BYTES, "virtual_size_bytes": GIB}
        path = f"{pool.path}/{template.file_name}"
        fields = {"template": template, "kind": "pool", "zone": pool.zone, "pool": pool}
        return Placement.objects.create(state="ready", path=path, **fields, **sizes)

    # --- what agents say -------------------------------------------------------------------------------------------

    def entry(self, command: Command, state: str, **changes: Any) -> JournalEntry:
        """The command as its agent's journal has it."""
        parts: dict[str, Any] = {
            "command_id": str(command.pk),
            "attempt": command.attempt,
            "kind": command.kind,
            "seq": command.seq,
            "state": AgentState(state),
            "epoch": Agent.objects.get(pk=command.agent_id).epoch,
        }
        if state == "COMPLETED":
            parts["answer"] = _answer(command)
        return JournalEntry(**(parts | changes))

    def says(self, command: Command, state: str, **changes: Any) -> None:
        """A report of one command."""
        command.refresh_from_db()
        entry = self.entry(command, state, **changes)
        parts = {"agent_id": str(command.agent_id), "epoch": entry.epoch, "entries": (entry,)}
        with committed():
            reports.reports(Reports(**parts, facts_begun=self.looks))
        command.refresh_from_db()

    def fails(self, command: Command, code: str = "source_unreachable", **about: Any) -> None:
        self.says(command, "FAILED", problem=problem(code, **about))

    def shows(self, command: Command, done: int, total: int, message: str = "") -> None:
        """It works, and has come so far."""
        self.says(command, "STARTED")
        self.says(command, "PROCESSING", progress=Progress(done_bytes=done, total_bytes=total, message=message))

    def pings(self, agent: Agent, *, pools: Sequence[PoolFact] = (), **said: Any) -> None:
        """A ping; ``vms`` as a list is a new look at libvirt unless it is given a number."""
        agent.refresh_from_db()
        if said.get("vms") is not None and "facts_number" not in said:
            self.looks += 1
            said["facts_number"] = self.looks
        parts = {"number": 1, "entries": (), "highest_seq": agent.last_seq, "facts_begun": self.looks, **said}
        with committed():
            reports.ping(Ping(agent_id=str(agent.pk), epoch=agent.epoch, pools=tuple(pools), **parts))
        agent.refresh_from_db()

    def works(self, operation: Operation, *, until: str = "") -> Operation:
        """All agents do what the operation sends, until it has ended or sends a command of the kind ``until``."""
        while commands := [command for command in self.open(operation) if command.kind != until]:
            for command in commands:
                self.says(command, "COMPLETED")
        operation.refresh_from_db()
        return operation

    def answers(self, command: Command, **evidence: Any) -> None:
        """The answer to the last question about a command: all is settled, and this is true."""
        command.refresh_from_db()
        agent = Agent.objects.get(pk=command.agent_id)
        with committed():
            reconciliation.evidence(
                Evidence(
                    agent_id=str(agent.pk),
                    epoch=agent.epoch,
                    probe_id=str(command.probe_id),
                    command_id=str(command.pk),
                    attempt=command.attempt,
                    status="settled",
                    evidence=evidence,
                    facts_begun=self.looks,
                )
            )
        command.refresh_from_db()

    # --- what people do --------------------------------------------------------------------------------------------

    def cancels(self, operation: Operation) -> Operation:
        with committed():
            operations.cancel(operation.pk)
        operation.refresh_from_db()
        return operation

    def sweeps(self) -> None:
        with committed():
            sweep.sweep()

    # --- looking ---------------------------------------------------------------------------------------------------

    @staticmethod
    def open(operation: Operation) -> list[Command]:
        """Its commands that are not at their end, with that of the download it waits for."""
        ids = [operation.pk, *Operation.objects.filter(waiters__operation=operation).values_list("pk", flat=True)]
        return list(Command.objects.filter(operation__in=ids, state__in=COMMAND_OPEN).order_by("seq"))

    def the_open(self, operation: Operation, kind: str = "") -> Command:
        (command,) = [command for command in self.open(operation) if kind in ("", command.kind)]
        return command

    @staticmethod
    def kinds(operation: Operation) -> list[str]:
        """Kinds of all its commands in the order in which they were made."""
        return list(operation.commands.order_by("round", "kind").values_list("kind", flat=True))


def download_of(template: Template, pool: StoragePool) -> Operation:
    operation = Placement.objects.get(template=template, pool=pool).operation
    assert operation is not None
    return operation


def alarms() -> list[str]:
    return list(Event.objects.filter(level=Event.Level.ALARM).order_by("created_at").values_list("kind", flat=True))


def setting(name: str, value: Any) -> None:
    settings_rows.put(name, value)


def error_of(row: Any) -> dict[str, Any]:
    """The row's error as it is in the database; empty when there is none."""
    row.refresh_from_db()
    return dict(row.error or {})


def state_of(row: Any) -> str:
    row.refresh_from_db()
    return str(row.state)


def admin_browser() -> Client:
    """Somebody who may look at everything in the admin."""
    browser = Client()
    browser.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))
    return browser


def in_transaction(do: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """What an action does, with what it does after its commit."""
    with committed():
        return do(*args, **kwargs)
