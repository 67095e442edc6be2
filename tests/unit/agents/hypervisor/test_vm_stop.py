"""vm.stop on a real libvirt. These machines have no system, so none ever hears that it is asked to shut down."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agents.common.errors import CannotTell, CommandError, Interrupted
from agents.handlers.vm_stop import VmStopHandler
from agents.hypervisor import domain_xml
from agents.hypervisor.connection import Hypervisor
from agents.hypervisor.guest import Guest
from agents.protocol.kinds import VmEvidence, VmStop, VmStopAnswer
from tests.unit.agents.fake_context import FakeContext
from tests.unit.agents.hypervisor.embedded import small_spec


@pytest.fixture
def handler(hypervisor: Hypervisor) -> VmStopHandler:
    return VmStopHandler(hypervisor)


@pytest.fixture
def vm_id(hypervisor: Hypervisor, tmp_path: Path) -> str:
    """A VM that runs."""
    spec = small_spec(tmp_path)
    Guest.start(hypervisor, domain_xml.build(spec, "web"))
    return spec.vm_id


def force(vm_id: str) -> VmStop:
    return VmStop(vm_id=vm_id, mode="force")


def test_force_takes_the_power_away(handler: VmStopHandler, hypervisor: Hypervisor, vm_id: str) -> None:
    context = FakeContext()
    assert handler.probe({}, force(vm_id)) == VmEvidence(power_state="running", accelerator="tcg")
    assert handler.run(context, force(vm_id)) == VmStopAnswer(was_running=True)
    assert context.points == ["vm_stop.before_request"]
    assert Guest.find(hypervisor, vm_id) is None
    assert handler.probe({}, force(vm_id)) == VmEvidence(power_state="off")


def test_a_second_run_knows_that_the_first_one_stopped_it(handler: VmStopHandler, vm_id: str) -> None:
    context = FakeContext()
    handler.run(context, force(vm_id))
    again = FakeContext(attempt=2, notes=context.notes)
    assert handler.run(again, force(vm_id)).was_running is True
    assert again.points == []


def test_one_that_is_off_was_not_running(handler: VmStopHandler, vm_id: str) -> None:
    other = force("6b1c5c5e-0000-4000-8000-00000000000f")
    assert handler.run(FakeContext(), other).was_running is False


def test_force_stops_a_paused_one_too(handler: VmStopHandler, hypervisor: Hypervisor, vm_id: str) -> None:
    paused(hypervisor, vm_id)
    assert handler.run(FakeContext(), force(vm_id)).was_running is True


def test_a_paused_guest_cannot_be_asked(handler: VmStopHandler, hypervisor: Hypervisor, vm_id: str) -> None:
    paused(hypervisor, vm_id)
    context = FakeContext()
    with pytest.raises(CommandError, match="paused by a person") as caught:
        handler.run(context, VmStop(vm_id=vm_id, mode="graceful"))
    assert caught.value.problem.code == "guest_cannot_be_asked"
    assert not context.committed


def test_a_guest_that_does_not_listen_still_runs(handler: VmStopHandler, hypervisor: Hypervisor, vm_id: str) -> None:
    started = time.monotonic()
    with pytest.raises(CommandError) as caught:
        handler.run(FakeContext(), VmStop(vm_id=vm_id, mode="graceful", timeout_seconds=1))
    assert caught.value.problem.code == "guest_did_not_stop"
    assert "force" in caught.value.problem.remedy
    assert 1 <= time.monotonic() - started < 5
    assert Guest.find(hypervisor, vm_id) is not None


def test_a_graceful_stop_ends_when_the_vm_does(handler: VmStopHandler, hypervisor: Hypervisor, vm_id: str) -> None:
    guest = Guest.find(hypervisor, vm_id)
    assert guest is not None
    # In the guest's place: it powers off a moment later.
    timer = threading.Timer(0.5, guest.force_off)
    timer.start()
    assert handler.run(FakeContext(), VmStop(vm_id=vm_id, mode="graceful", timeout_seconds=20)).was_running is True
    timer.join()


def test_an_agent_that_stops_does_not_wait_for_the_guest(handler: VmStopHandler, vm_id: str) -> None:
    context = FakeContext()

    def stop(_: str) -> None:
        if context.committed:
            raise Interrupted

    context.before = stop
    with pytest.raises(Interrupted):
        handler.run(context, VmStop(vm_id=vm_id, mode="graceful", timeout_seconds=20))


def test_a_libvirt_that_cannot_be_asked_is_no_failure() -> None:
    handler = VmStopHandler(Hypervisor("qemu+unix:///system?socket=/nowhere"))
    with pytest.raises(Interrupted):
        handler.run(FakeContext(), force("6b1c5c5e-0000-4000-8000-00000000000f"))
    with pytest.raises(CannotTell):
        handler.probe({}, force("6b1c5c5e-0000-4000-8000-00000000000f"))


def paused(hypervisor: Hypervisor, vm_id: str) -> None:
    domain: Any = hypervisor.connection().lookupByUUIDString(vm_id)
    domain.suspend()
