"""vm.reboot and vm.resume on a real libvirt. These machines have no system, so none ever hears what it is asked."""

import threading
from pathlib import Path
from typing import Any

import pytest

from agents.common.errors import CommandError, Interrupted
from agents.handlers.vm_reboot import VmRebootHandler
from agents.handlers.vm_resume import VmResumeHandler
from agents.handlers.vm_stop import VmStopHandler
from agents.hypervisor import domain_xml
from agents.hypervisor.connection import Change, DomainEvent, Hypervisor
from agents.hypervisor.guest import Guest
from agents.protocol.kinds import VmReboot, VmRebootAnswer, VmRebootEvidence, VmResume, VmResumeAnswer, VmStop
from tests.lab.waiting import poll
from tests.unit.agents.fake_context import FakeContext
from tests.unit.agents.hypervisor.embedded import small_spec

NOBODY = "6b1c5c5e-0000-4000-8000-00000000000f"


@pytest.fixture
def handler(hypervisor: Hypervisor) -> VmRebootHandler:
    return VmRebootHandler(hypervisor)


@pytest.fixture
def vm_id(hypervisor: Hypervisor, tmp_path: Path) -> str:
    """A VM that runs."""
    spec = small_spec(tmp_path)
    Guest.start(hypervisor, domain_xml.build(spec, "web"))
    return spec.vm_id


def domain(hypervisor: Hypervisor, vm_id: str) -> Any:
    return hypervisor.connection().lookupByUUIDString(vm_id)


def graceful(vm_id: str, **changes: Any) -> VmReboot:
    return VmReboot(vm_id=vm_id, mode="graceful", timeout_seconds=0, **changes)


def forced(vm_id: str) -> VmReboot:
    return VmReboot(vm_id=vm_id, mode="force")


def refused(handler: Any, payload: Any, context: FakeContext | None = None) -> str:
    with pytest.raises(CommandError) as caught:
        handler.run(context or FakeContext(), payload)
    return caught.value.problem.code


class TestReboot:
    def test_force_resets_the_machine(self, handler: VmRebootHandler, hypervisor: Hypervisor, vm_id: str) -> None:
        heard: list[DomainEvent] = []
        hypervisor.listen(heard.append)
        context = FakeContext()
        assert handler.run(context, forced(vm_id)) == VmRebootAnswer(forced=True)
        assert context.points == ["vm_reboot.before_request", "vm_reboot.after_reboot"]
        poll(lambda: DomainEvent(vm_id, Change.REBOOTED) in heard, 5, "libvirt tells of the reset")
        assert Guest.find(hypervisor, vm_id) is not None

    def test_what_was_noted_is_not_done_twice(self, handler: VmRebootHandler, vm_id: str) -> None:
        context = FakeContext()
        before = handler.probe(context.notes, forced(vm_id))
        handler.run(context, forced(vm_id))
        again = FakeContext(attempt=2, notes=context.notes)
        assert handler.run(again, forced(vm_id)) == VmRebootAnswer(forced=True)
        assert again.points == []
        assert before == VmRebootEvidence(power_state="running", accelerator="tcg")
        after = handler.probe(context.notes, forced(vm_id))
        assert after == before.model_copy(update={"rebooted": True, "forced": True})

    def test_a_guest_that_does_not_listen_runs_on(self, handler: VmRebootHandler, vm_id: str) -> None:
        context = FakeContext()
        assert refused(handler, graceful(vm_id), context) == "guest_did_not_reboot"
        assert "forced" not in context.notes

    def test_force_follows_where_it_was_asked_for(self, handler: VmRebootHandler, vm_id: str) -> None:
        assert handler.run(FakeContext(), graceful(vm_id, then_force=True)) == VmRebootAnswer(forced=True)

    def test_a_guest_that_reboots_by_itself_is_seen(
        self, handler: VmRebootHandler, hypervisor: Hypervisor, vm_id: str
    ) -> None:
        # In the guest's place: it resets itself a moment later.
        timer = threading.Timer(0.2, domain(hypervisor, vm_id).reset)
        timer.start()
        payload = VmReboot(vm_id=vm_id, mode="graceful", timeout_seconds=20)
        assert handler.run(FakeContext(), payload) == VmRebootAnswer(forced=False)
        timer.join()

    @pytest.mark.parametrize("make", [graceful, forced])
    def test_one_that_is_off_or_paused_is_not_rebooted(
        self, handler: VmRebootHandler, hypervisor: Hypervisor, vm_id: str, make: Any
    ) -> None:
        assert refused(handler, make(NOBODY)) == "vm_off"
        domain(hypervisor, vm_id).suspend()
        context = FakeContext()
        assert refused(handler, make(vm_id), context) == "vm_paused"
        assert not context.committed

    def test_a_libvirt_that_cannot_be_asked_is_no_failure(self) -> None:
        handler = VmRebootHandler(Hypervisor("qemu+unix:///system?socket=/nowhere"))
        with pytest.raises(Interrupted):
            handler.run(FakeContext(), forced(NOBODY))


class TestResume:
    @pytest.fixture
    def handler(self, hypervisor: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> VmResumeHandler:
        monkeypatch.setattr("agents.handlers.vm_resume.WATCH_SECONDS", 0.1)
        return VmResumeHandler(hypervisor)

    def test_a_paused_one_goes_on(self, handler: VmResumeHandler, hypervisor: Hypervisor, vm_id: str) -> None:
        domain(hypervisor, vm_id).suspend()
        assert handler.probe({}, VmResume(vm_id=vm_id)).power_state == "paused"
        context = FakeContext()
        assert handler.run(context, VmResume(vm_id=vm_id)) == VmResumeAnswer()
        assert (context.points, context.committed) == (["vm_resume.before_request"], True)
        assert handler.probe({}, VmResume(vm_id=vm_id)).power_state == "running"

    def test_a_running_one_is_left_alone(self, handler: VmResumeHandler, vm_id: str) -> None:
        context = FakeContext()
        handler.run(context, VmResume(vm_id=vm_id))
        assert context.points == []

    def test_one_that_is_off_cannot_be_resumed(self, handler: VmResumeHandler) -> None:
        assert refused(handler, VmResume(vm_id=NOBODY)) == "vm_off"

    def test_one_that_is_paused_again_at_once_is_told(
        self, handler: VmResumeHandler, hypervisor: Hypervisor, vm_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("agents.handlers.vm_resume.WATCH_SECONDS", 10)
        domain(hypervisor, vm_id).suspend()
        timer = threading.Timer(0.2, domain(hypervisor, vm_id).suspend)
        timer.start()
        assert refused(handler, VmResume(vm_id=vm_id)) == "vm_paused_again"
        timer.join()


class TestStopThenForce:
    @pytest.mark.parametrize("paused", [False, True])
    def test_a_guest_that_does_not_stop_in_time_loses_its_power(
        self, hypervisor: Hypervisor, vm_id: str, paused: bool
    ) -> None:
        if paused:
            domain(hypervisor, vm_id).suspend()
        payload = VmStop(vm_id=vm_id, mode="graceful", timeout_seconds=0, then_force=True)
        assert VmStopHandler(hypervisor).run(FakeContext(), payload).was_running
        assert Guest.find(hypervisor, vm_id) is None
