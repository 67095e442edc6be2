"""What is asked for while something is killed: the kinds of work, how each is prepared and what must come of it."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from agents.common.image_header import read_qcow2_header
from tests.crash.scene import SETTLE_SECONDS, Scene
from tests.lab.waiting import poll
from tests.scenarios.cloud import Row

START_SECONDS = 4.0
"""The start of a guest under plain emulation, beside other tests."""


class Job(ABC):
    """One request. Between set_up() and the end of what ask() began, the agent does nothing else."""

    name: ClassVar[str]
    kind: ClassVar[str]
    """The kind of command that is in the middle of it."""
    midway: ClassVar[str]
    """A crash point half-way through that command."""
    outcome: ClassVar[str] = "succeeded"

    work_seconds: ClassVar[float] = 0.0
    """What comes after that command in the same operation, such as the start of a guest: work, not settling."""
    waiting: ClassVar[int] = 0
    """Commands that the agent has when everything is prepared."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.cloud = scene.cloud

    def set_up(self) -> None:
        """Everything before the request. When it returns, the agent is as it was before, and nothing more is said."""
        self.scene.begin()
        self.prepare()
        self.scene.wait_quiet(self.waiting)

    @abstractmethod
    def prepare(self) -> None:
        """What set_up() does for this job."""

    @abstractmethod
    def ask(self) -> Row:
        """The request. Returns the operation."""

    @abstractmethod
    def check(self, operation: Row) -> None:
        """It was done, whole and once, and the guest boots."""

    def settled(self, operation: Row) -> Row:
        """The operation, which settles by itself, all parts being back: at the next sweep and two seconds."""
        return self.cloud.settled(operation, SETTLE_SECONDS + self.work_seconds, self.outcome)

    def check_undone(self, operation: Row) -> None:
        """It was given up, and may be asked for again."""
        assert all(operation["error"][part] for part in ("cause", "consequence", "remedy"))


class Download(Job):
    name, kind, midway = "download", "template.download", "template_download.midway"
    most_downloads = 1

    def prepare(self) -> None:
        self.template = self.cloud.template()

    def ask(self) -> Row:
        return self.cloud.prepare(self.template, self.scene.pool)

    def check(self, operation: Row) -> None:
        placement = self.cloud.placement(self.template, self.scene.pool)
        assert placement["state"] == "ready"
        content = Path(placement["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == self.scene.lab.template.sha256
        assert len(self.cloud.downloads(self.template)) <= self.most_downloads
        where = {"host": self.scene.host.id, "pool": self.scene.pool["id"]}
        vm = self.cloud.booted(self.cloud.vm(self.template, **where))
        self.cloud.settled(self.cloud.destroy(vm))

    def check_undone(self, operation: Row) -> None:
        super().check_undone(operation)
        assert self.cloud.placement(self.template, self.scene.pool)["state"] == "failed"
        self.most_downloads = 3


class VolumeCreate(Job):
    name, kind, midway = "volume create", "volume.create", "volume_create.during_create"
    work_seconds = START_SECONDS

    def prepare(self) -> None:
        self.template = self.scene.template

    def ask(self) -> Row:
        where = {"host": self.scene.host.id, "pool": self.scene.pool["id"]}
        return self.cloud.deploy(self.template, **where)

    def check(self, operation: Row) -> None:
        vm = self.cloud.booted({"id": operation["target"]["id"]})
        self.cloud.settled(self.cloud.destroy(vm))

    def check_undone(self, operation: Row) -> None:
        super().check_undone(operation)
        vm = self.scene.now(operation["target"])
        assert vm["state"] == "error"
        self.cloud.settled(self.cloud.destroy(vm))


class SeedCreate(Job):
    name, kind, midway = "seed", "seed.create", "seed_create.before_rename"
    work_seconds = START_SECONDS
    user_data = "#!/bin/sh\nexit 7\n"

    def prepare(self) -> None:
        self.template = self.scene.template

    def ask(self) -> Row:
        where = {"host": self.scene.host.id, "pool": self.scene.pool["id"]}
        return self.cloud.deploy(self.template, user_data=self.user_data, **where)

    def check(self, operation: Row) -> None:
        vm = self.cloud.booted({"id": operation["target"]["id"]})
        poll(lambda: "user-data left with 7" in self._console(vm), 30, "the guest has run its user data")
        self.cloud.settled(self.cloud.destroy(vm))

    def _console(self, vm: Row) -> str:
        text: str = self.cloud.settled(self.cloud.console(vm))["result"]["text"]
        return text

    def check_undone(self, operation: Row) -> None:
        super().check_undone(operation)
        vm = self.scene.now(operation["target"])
        assert vm["state"] == "error"
        self.cloud.settled(self.cloud.destroy(vm))


class Start(Job):
    name, kind, midway = "start", "vm.start", "vm_start.before_define"

    def prepare(self) -> None:
        if self.scene.now(self.scene.resident)["state"] == "running":
            self.cloud.settled(self.cloud.stop(self.scene.resident, force=True))

    def ask(self) -> Row:
        return self.cloud.start(self.scene.resident)

    def check(self, operation: Row) -> None:
        self.cloud.booted(self.scene.resident)

    def check_undone(self, operation: Row) -> None:
        super().check_undone(operation)
        assert self.scene.now(self.scene.resident)["state"] == "stopped"


class Stop(Job):
    name, kind, midway = "stop", "vm.stop", "vm_stop.before_request"

    def prepare(self) -> None:
        if self.scene.now(self.scene.resident)["state"] == "stopped":
            self.cloud.settled(self.cloud.start(self.scene.resident))

    def ask(self) -> Row:
        return self.cloud.stop(self.scene.resident, force=True)

    def check(self, operation: Row) -> None:
        assert self.scene.now(self.scene.resident)["state"] == "stopped"
        self.cloud.settled(self.cloud.start(self.scene.resident))
        self.cloud.booted(self.scene.resident)

    def check_undone(self, operation: Row) -> None:
        super().check_undone(operation)
        self.cloud.booted(self.scene.resident)


class Reboot(Job):
    name, kind, midway = "reboot", "vm.reboot", "vm_reboot.after_request"

    def prepare(self) -> None:
        if self.scene.now(self.scene.resident)["state"] == "stopped":
            self.cloud.settled(self.cloud.start(self.scene.resident))
        self.cloud.booted(self.scene.resident)

    def ask(self) -> Row:
        return self.cloud.reboot(self.scene.resident, force=True)

    def check(self, operation: Row) -> None:
        assert operation["result"] == {"forced": True}
        self.cloud.booted(self.scene.resident)

    def check_undone(self, operation: Row) -> None:
        super().check_undone(operation)
        self.cloud.booted(self.scene.resident)


class Resume(Job):
    name, kind, midway = "resume", "vm.resume", "vm_resume.before_request"

    def prepare(self) -> None:
        if self.scene.now(self.scene.resident)["state"] == "stopped":
            self.cloud.settled(self.cloud.start(self.scene.resident))
        self.cloud.booted(self.scene.resident)
        self.scene.pause(self.scene.resident)
        self.cloud.client.wait_vm(self.scene.resident["id"], 10, power_state="paused")
        # The pause is an alarm, and is not this job's.
        self.scene.begin()

    def ask(self) -> Row:
        return self.cloud.resume(self.scene.resident)

    def check(self, operation: Row) -> None:
        assert self.scene.now(self.scene.resident)["power_state"] == "running"
        self.cloud.booted(self.scene.resident)

    def check_undone(self, operation: Row) -> None:
        super().check_undone(operation)
        assert self.scene.now(self.scene.resident)["power_state"] == "paused"


class Console(Job):
    name, kind, midway = "console", "vm.console", "vm_console.before_read"

    def prepare(self) -> None:
        if self.scene.now(self.scene.resident)["last_host"] is None:
            self.cloud.settled(self.cloud.start(self.scene.resident))

    def ask(self) -> Row:
        return self.cloud.console(self.scene.resident)

    def check(self, operation: Row) -> None:
        assert set(operation["result"]) == {"text", "truncated"}


class DiskJob(Job):
    """About a volume of its own, and a guest that is up."""

    def prepare(self) -> None:
        if self.scene.now(self.scene.resident)["state"] == "stopped":
            self.cloud.settled(self.cloud.start(self.scene.resident))
        self.cloud.booted(self.scene.resident)
        self.volume = self.cloud.volume(pool=self.scene.pool["id"])

    def check(self, operation: Row) -> None:
        """The guest, the database and the file agree; then the volume goes."""
        self.check_volume()
        volume = self.cloud.volume_now(self.volume)
        assert (volume["id"] in self.scene.disks(self.scene.resident)) == (volume["vm"] is not None)
        if volume["vm"] is not None:
            self.cloud.settled(self.cloud.detach(volume))
        assert read_qcow2_header(volume["path"]).virtual_size_bytes == volume["size_bytes"]
        self.cloud.settled(self.cloud.delete_volume(volume))

    @abstractmethod
    def check_volume(self) -> None:
        """What was asked for is the case."""

    def check_undone(self, operation: Row) -> None:
        super().check_undone(operation)
        volume = self.cloud.volume_now(self.volume)
        assert (volume["vm"], volume["size_bytes"]) == (self.volume["vm"], self.volume["size_bytes"])


class Attach(DiskJob):
    name, kind, midway = "attach", "volume.attach", "volume_attach.before_attach"

    def ask(self) -> Row:
        return self.cloud.attach(self.volume, self.scene.resident)

    def check_volume(self) -> None:
        assert self.cloud.volume_now(self.volume)["vm"] == self.scene.resident["id"]


class Detach(DiskJob):
    name, kind, midway = "detach", "volume.detach", "volume_detach.before_request"

    def prepare(self) -> None:
        super().prepare()
        self.cloud.settled(self.cloud.attach(self.volume, self.scene.resident))
        self.volume = self.cloud.volume_now(self.volume)

    def ask(self) -> Row:
        return self.cloud.detach(self.volume)

    def check_volume(self) -> None:
        assert self.cloud.volume_now(self.volume)["vm"] is None


class Resize(DiskJob):
    name, kind, midway = "resize", "volume.resize", "volume_resize.before_resize"

    def ask(self) -> Row:
        return self.cloud.resize(self.volume, 2 * self.volume["size_bytes"])

    def check_volume(self) -> None:
        assert self.cloud.volume_now(self.volume)["size_bytes"] == 2 * self.volume["size_bytes"]


class ResizeLive(Resize):
    name, midway = "resize of a running VM", "volume_resize_live.before_request"

    def prepare(self) -> None:
        super().prepare()
        self.cloud.settled(self.cloud.attach(self.volume, self.scene.resident))
        self.volume = self.cloud.volume_now(self.volume)


class Destroy(Job):
    name, kind, midway = "destroy", "volume.remove", "volume_remove.before_removal"

    def prepare(self) -> None:
        self.vm = self.scene.deployed(start=False)
        (volume,) = self.vm["volumes"]
        self.path = Path(self.cloud.client.get(f"volumes/{volume}/")["path"])
        assert self.path.exists()

    def ask(self) -> Row:
        return self.cloud.destroy(self.vm)

    def check(self, operation: Row) -> None:
        assert self.scene.now(self.vm)["state"] == "expunged"
        assert not self.path.exists()


class Discard(Job):
    """A second copy that turned out to have other bytes than the first is removed again."""

    name, kind, midway = "discard of a copy", "template.remove", "template_remove.before_removal"
    outcome, waiting = "failed", 1

    def prepare(self) -> None:
        content = self.scene.lab.template.path.read_bytes()
        name = self.cloud.serve(content)
        self.template = self.cloud.template(name, checksum="")
        self.scene.points.arm("template_download.before_verify", "hold")
        self.second = self.cloud.prepare(self.template, self.scene.pool)
        self.scene.points.wait_held("template_download.before_verify")
        self.scene.lab.mirror.add(name, content + bytes(512))
        self.cloud.settled(self.cloud.prepare(self.template, self.cloud.pool("shared")))

    def ask(self) -> Row:
        self.scene.points.release("template_download.before_verify")
        return self.second

    def check(self, operation: Row) -> None:
        assert operation["error"]["code"] == "content_changed"
        assert self.cloud.placement(self.template, self.scene.pool)["state"] == "failed"
        assert not [path for path in Path(self.scene.pool["path"]).iterdir() if self.template["id"] in path.name]


JOBS: Mapping[str, type[Job]] = {
    job.name: job
    for job in (
        *(Download, VolumeCreate, SeedCreate, Start, Stop, Reboot, Resume, Console),
        *(Attach, Detach, Resize, ResizeLive, Destroy, Discard),
    )
}
KINDS = tuple(name for name in JOBS if name != Discard.name)
"""Those that a user asks for; once a kind means once for each of them."""
