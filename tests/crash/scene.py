"""Where the crash suite plays: a lab of one host, its crash points, and what has to be true after each case."""

import re
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import libvirt

from tests.lab.checks import assert_consistent
from tests.lab.lab import Host, Lab
from tests.lab.waiting import poll
from tests.scenarios.cloud import Cloud, Row
from tests.scenarios.points import Points

PING_SECONDS = 1.0
RECONCILE_SECONDS = 2.0
SETTLE_SECONDS = RECONCILE_SECONDS + 2.0
"""Within this an operation settles by itself, counted from when all parts are back; see Job.settled()."""
BACK_SECONDS = 30.0


class Scene:
    """One lab for all cases. Between two cases it is at rest and whole."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.cloud = Cloud(lab)
        self.supervisor = lab.supervisor
        self.host: Host = lab.hosts[0]
        self.points = Points(self.host)
        self.pool = self.cloud.pool(f"{self.host.name}-local")
        self._alarms: set[str] = set()
        self._epoch = 0

    @cached_property
    def template(self) -> Row:
        """A template that is on the host's pool."""
        template = self.cloud.template()
        self.cloud.settled(self.cloud.prepare(template, self.pool))
        return template

    @cached_property
    def resident(self) -> Row:
        """A VM that stays from case to case; whoever uses it finds it running or stopped."""
        return self.deployed(start=False)

    def deployed(self, **fields: Any) -> Row:
        return self.cloud.vm(self.template, host=self.host.id, pool=self.pool["id"], **fields)

    def now(self, vm: Row) -> Row:
        row: Row = self.cloud.client.get(f"vms/{vm['id']}/")
        return row

    def pause(self, vm: Row) -> None:
        """As a person at the host would: nobody here is asked."""
        connection = libvirt.open(self.host.hypervisor.uri)
        try:
            connection.lookupByUUIDString(vm["id"]).suspend()
        finally:
            connection.close()

    def disks(self, vm: Row) -> set[str]:
        """The volumes that the running VM has as disks."""
        connection = libvirt.open(self.host.hypervisor.uri)
        try:
            document = connection.lookupByUUIDString(vm["id"]).XMLDesc()
        finally:
            connection.close()
        return set(re.findall("<serial>(.*)</serial>", document))

    # --- the agent ---------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        return int(self.cloud.host(self.host.name)["epoch"])

    def begin(self) -> None:
        """Before a case: nothing is armed, nothing is said, and what is there now is remembered."""
        self.points.disarm()
        self.wait_quiet()
        self._alarms = {alarm["id"] for alarm in self._all_alarms()}
        self._epoch = self.epoch

    def wait_quiet(self, commands: int = 0) -> None:
        """Returns when the agent has no other commands than so many."""
        poll(lambda: len(list(self.host.journal.glob("*.json"))) == commands, 20, f"{commands} commands at the agent")

    def wait_back(self, restarts: int = 1) -> None:
        """Returns when the agent has been started so many times since begin(), and is taken in."""
        row = f"hosts/{self.host.id}/"
        wanted = self._epoch + restarts
        self.cloud.client.wait(row, lambda host: host["epoch"] >= wanted and host["state"] == "up", BACK_SECONDS)

    def wait_heard(self, since: str | None) -> None:
        """Returns when a ping was taken in that is not the one of ``since``."""
        self.cloud.client.wait(f"hosts/{self.host.id}/", lambda host: host["last_ping"] != since, BACK_SECONDS)

    @property
    def last_ping(self) -> str | None:
        text: str | None = self.cloud.host(self.host.name)["last_ping"]
        return text

    def journal_of(self, operation: Row) -> Path:
        """The journal's file of the one command that the operation has at the agent now."""
        commands = {command["id"] for command in self.cloud.commands(operation)}
        (path,) = [path for path in self.host.journal.glob("*.json") if path.stem in commands]
        return path

    # --- what comes of it --------------------------------------------------------------------------------------

    def assert_whole(self, *alarms: str, restarts: int | None = None) -> None:
        """After a case: the world agrees with the database, only these alarms rang, epochs rose by the restarts."""
        self.points.disarm()
        assert_consistent(self.lab)
        rung = sorted(alarm["kind"] for alarm in self._all_alarms() if alarm["id"] not in self._alarms)
        assert rung == sorted(alarms)
        if restarts is not None:
            assert self.epoch == self._epoch + restarts

    def how(self, operation: Row, kind: str) -> str:
        """How the commands of this kind ended, for the table."""
        ended = [command for command in self.cloud.commands(operation) if command["kind"] == kind]
        return ", ".join(dict.fromkeys(map(_way, ended)))

    def _all_alarms(self) -> list[Row]:
        return list(self.cloud.client.list("events/", level="alarm"))


def _way(command: Row) -> str:
    if command["state"] == "RECONCILED":
        return f"{command['outcome']} by evidence"
    word = {"COMPLETED": "answered", "FAILED": "failed by its own word", "CANCELLED": "cancelled"}[command["state"]]
    return word if command["attempt"] == 1 else f"{word} at attempt {command['attempt']}"


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began
