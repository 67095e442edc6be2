"""The hypervisor room on a lab host: a guest's whole life, and a libvirtd that dies, stops or forgets nothing."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agents.common.errors import CannotTell, Interrupted
from agents.handlers.vm_start import VmStartHandler
from agents.handlers.vm_stop import VmStopHandler
from agents.handlers.volume_create import VolumeCreateHandler
from agents.hypervisor import connection
from agents.hypervisor.connection import Change, DomainEvent, Hypervisor
from agents.hypervisor.errors import HypervisorUnreachable
from agents.hypervisor.events import EventWatch, GuestWatcher
from agents.hypervisor.facts import host_facts, vm_facts
from agents.hypervisor.guest import Guest
from agents.hypervisor.images import remove_image
from agents.protocol.kinds import Disk, ImageFile, VmStart, VmStop, VolumeCreate
from agents.protocol.messages import VmFact
from tests.lab import guest as tiny_guest
from tests.lab import process
from tests.lab.hypervisor import Hypervisor as LabHost
from tests.lab.supervisor import ROOT, Supervisor
from tests.lab.waiting import poll
from tests.unit.agents.fake_context import FakeContext

BOOT_SECONDS = 90
MIB = 1 << 20


@dataclass
class Host:
    lab: LabHost
    supervisor: Supervisor
    hypervisor: Hypervisor
    pool: Path
    consoles: Path

    def vm(self) -> VmStart:
        """A VM on a fresh overlay of the tiny guest."""
        vm_id = str(uuid.uuid4())
        template = ImageFile(path=str(self.pool / "template.qcow2"), format="qcow2")
        volume = VolumeCreateHandler().run(
            FakeContext(),
            VolumeCreate(
                volume_id=vm_id,
                pool_path=str(self.pool),
                file_name=f"{vm_id}.qcow2",
                virtual_size_bytes=tiny_guest.VIRTUAL_SIZE_BYTES,
                backing=template,
            ),
        )
        chain = (ImageFile(path=volume.path, format="qcow2"), template)
        return VmStart(
            vm_id=vm_id,
            name="tiny",
            cpus=1,
            memory_bytes=192 * MIB,
            disks=(Disk(volume_id=vm_id, target="vda", chain=chain),),
            console_name=f"{vm_id}.log",
            accelerator="tcg",
        )

    @property
    def start(self) -> VmStartHandler:
        return VmStartHandler(self.hypervisor, self.consoles)

    @property
    def stop(self) -> VmStopHandler:
        return VmStopHandler(self.hypervisor)

    def facts(self) -> dict[str, VmFact]:
        return {fact.vm_id: fact for fact in vm_facts(self.hypervisor)}


@pytest.fixture(scope="module")
def _host() -> Iterator[Host]:
    folder = Path(tempfile.mkdtemp(prefix="lab-"))
    supervisor = Supervisor(folder, folder / "logs")
    try:
        lab = LabHost("host1", folder / "host1", supervisor)
        lab.start()
        lab.publish_capabilities()
        for name in ("pool", "consoles"):
            (folder / name).mkdir()
        shutil.copy(tiny_guest.template().path, folder / "pool/template.qcow2")
        yield Host(lab, supervisor, Hypervisor(lab.uri), folder / "pool", folder / "consoles")
    finally:
        supervisor.stop_all()
        shutil.rmtree(folder)


@pytest.fixture
def host(_host: Host) -> Iterator[Host]:
    yield _host
    for guest in Guest.all(_host.hypervisor):
        guest.force_off()


@pytest.fixture
def quick_keepalive(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A libvirtd that is silent is given up after some 2 s, on a connection of its own."""
    monkeypatch.setattr(connection, "KEEPALIVE_SECONDS", 1)
    monkeypatch.setattr(connection, "KEEPALIVE_COUNT", 1)
    monkeypatch.setattr(connection, "OPEN_SECONDS", 2.0)
    monkeypatch.setattr(host, "hypervisor", Hypervisor(host.lab.uri))


def test_the_life_of_a_guest(host: Host) -> None:
    watcher, changes = GuestWatcher(host.hypervisor), list[int]()
    watch = EventWatch(host.hypervisor, watcher, lambda: changes.append(1))
    watcher.start()
    watch.start()
    payload = host.vm()
    host.start.run(FakeContext(), payload)
    assert changes

    def answers() -> bool:
        (fact,) = watcher.complete(host.facts().values())
        return fact.guest_agent == "answering" and (fact.answered_seconds_ago or 0) < BOOT_SECONDS

    poll(answers, BOOT_SECONDS, "the guest's agent answers")
    console = host.consoles / payload.console_name
    poll(lambda: tiny_guest.READY_LINE in console.read_text(errors="replace"), BOOT_SECONDS, "the console's ready line")
    assert console not in open_files(qemu_of(host, payload.vm_id)), "virtlogd has it, and bounds it"
    for file in payload.disks[0].chain:
        with pytest.raises(Exception, match="open as an image"):
            remove_image(Path(file.path), host.pool)

    stopped = host.stop.run(FakeContext(), VmStop(vm_id=payload.vm_id, mode="graceful", timeout_seconds=60))
    assert stopped.was_running
    assert host.facts() == {}
    assert host.stop.probe({}, VmStop(vm_id=payload.vm_id, mode="graceful")).power_state == "off"
    watch.stop()
    watcher.stop()


def test_a_killed_libvirtd_is_connected_to_again_and_its_events_are_heard(host: Host) -> None:
    heard: list[DomainEvent] = []
    host.hypervisor.listen(heard.append)
    payload = host.vm()
    host.start.run(FakeContext(), payload)
    before = host.hypervisor.connection()
    killed = host.supervisor.kill(host.lab.part)
    with pytest.raises(HypervisorUnreachable):
        poll(lambda: Guest.find(host.hypervisor, payload.vm_id) is None, 10, "the loss is noticed")
    host.supervisor.restarted(host.lab.part, after=killed)
    host.lab.wait_answering()
    assert host.hypervisor.connection() is not before
    assert host.facts()[payload.vm_id].power_state == "running"
    heard.clear()
    host.stop.run(FakeContext(), VmStop(vm_id=payload.vm_id, mode="force"))
    poll(lambda: DomainEvent(payload.vm_id, Change.STOPPED) in heard, 10, "the stop is heard")


@pytest.mark.usefixtures("quick_keepalive")
def test_a_start_whose_answer_is_lost_is_neither_failed_nor_forgotten(host: Host) -> None:
    payload, context = host.vm(), FakeContext()

    def stop_libvirtd(point: str) -> None:
        if point == "vm_start.before_define":
            host.supervisor.kill(host.lab.part, signal.SIGSTOP)

    context.before = stop_libvirtd
    try:
        with pytest.raises(Interrupted):
            host.start.run(context, payload)
        assert context.committed
        with pytest.raises(CannotTell):
            host.start.probe(context.notes, payload)
    finally:
        host.supervisor.kill(host.lab.part, signal.SIGCONT)
    # libvirtd has read the request of a connection that is long gone, and carries it out.
    assert host.start.probe(context.notes, payload).power_state == "running"
    again = FakeContext(attempt=2, notes=context.notes)
    host.start.run(again, payload)
    assert again.points == []


@pytest.mark.usefixtures("quick_keepalive")
def test_a_stop_that_meets_a_dead_libvirtd_is_left_to_evidence(host: Host) -> None:
    payload, context = host.vm(), FakeContext()
    host.start.run(FakeContext(), payload)
    stop = VmStop(vm_id=payload.vm_id, mode="force")

    def kill_libvirtd(point: str) -> None:
        if point == "vm_stop.before_request":
            killed.append(host.supervisor.kill(host.lab.part))
            poll(lambda: not process.is_alive(killed[0]), 10, "libvirtd is dead")

    killed: list[process.Identity] = []
    context.before = kill_libvirtd
    with pytest.raises(Interrupted):
        host.stop.run(context, stop)
    host.supervisor.restarted(host.lab.part, after=killed[0])
    host.lab.wait_answering()
    assert host.stop.probe(context.notes, stop).power_state == "running"
    assert host.stop.run(FakeContext(attempt=2, notes=context.notes), stop).was_running
    assert host.facts() == {}


AGENT = """
import sys
from pathlib import Path
from agents.handlers.vm_start import VmStartHandler
from agents.handlers.vm_stop import VmStopHandler
from agents.hypervisor.connection import Hypervisor
from agents.protocol.kinds import VmStart, VmStop
from tests.unit.agents.fake_context import FakeContext
kind, uri, consoles, payload = sys.argv[1:]
if kind == "vm_start":
    VmStartHandler(Hypervisor(uri), Path(consoles)).run(FakeContext(), VmStart.model_validate_json(payload))
else:
    VmStopHandler(Hypervisor(uri)).run(FakeContext(), VmStop.model_validate_json(payload))
"""
KILLS = {
    "vm_start.before_define": "off",
    "vm_start.after_start": "running",
    "vm_stop.before_request": "running",
    "vm_stop.after_request": "off",
}


@pytest.mark.parametrize("point", KILLS)
def test_an_agent_killed_at_any_point_is_survived(host: Host, tmp_path: Path, point: str) -> None:
    vm = host.vm()
    kind, command = point.partition(".")[0], VmStop(vm_id=vm.vm_id, mode="force")
    if kind == "vm_stop":
        host.start.run(FakeContext(), vm)
    (tmp_path / point).write_text("kill")
    payload = vm.model_dump_json() if kind == "vm_start" else command.model_dump_json()
    agent = subprocess.run(
        [sys.executable, "-c", AGENT, kind, host.lab.uri, str(host.consoles), payload],
        env={**os.environ, "CLOUDCTL_CRASH_DIR": str(tmp_path)},
        cwd=ROOT,
        check=False,
    )
    assert agent.returncode == -signal.SIGKILL
    evidence = host.start.probe({}, vm) if kind == "vm_start" else host.stop.probe({}, command)
    assert evidence.power_state == KILLS[point]
    assert (vm.vm_id in host.facts()) == (KILLS[point] == "running")
    if kind == "vm_start":
        host.start.run(FakeContext(attempt=2), vm)
        assert host.facts()[vm.vm_id].power_state == "running"
    else:
        host.stop.run(FakeContext(attempt=2), command)
        assert host.facts() == {}


FORK = """
import os, sys
from agents.hypervisor.connection import Hypervisor
hypervisor = Hypervisor(sys.argv[1])
mine = hypervisor.connection()
pid = os.fork()
if pid == 0:
    theirs = hypervisor.connection()
    os._exit(0 if theirs is not mine and theirs.listAllDomains(0) == [] else 1)
assert os.waitpid(pid, 0)[1] == 0
assert hypervisor.connection() is mine and mine.listAllDomains(0) == []
"""


def test_a_forked_process_opens_a_connection_of_its_own(host: Host) -> None:
    subprocess.run([sys.executable, "-c", FORK, host.lab.uri], cwd=ROOT, check=True, timeout=60)


def test_a_host_tells_its_versions(host: Host) -> None:
    facts = host_facts(host.hypervisor)
    assert facts.libvirt_version.split(".")[0].isdigit()
    assert facts.qemu_version.split(".")[0].isdigit()
    assert facts.accelerator in {"kvm", "tcg"}
    assert facts.accelerator_reason


def qemu_of(host: Host, vm_id: str) -> int:
    return int((host.lab.folder / f"run/qemu/vm-{vm_id}.pid").read_text())


def open_files(pid: int) -> set[Path]:
    return {link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
