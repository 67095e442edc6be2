"""The connection to libvirt: its calls, what its errors mean, what it does when nobody answers."""

import inspect
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from agents.common.errors import CannotTell, Interrupted
from agents.hypervisor import connection, domain_xml
from agents.hypervisor import errors as e
from agents.hypervisor.connection import Change, DomainEvent, Hypervisor
from agents.hypervisor.guest import Guest
from agents.hypervisor.libvirt_calls import LibvirtConnection, LibvirtDomain, LibvirtNetwork
from tests.lab.waiting import poll
from tests.unit.agents.hypervisor.embedded import small_spec

CALLS = [
    (ours, theirs, name)
    for ours, theirs in (
        (LibvirtDomain, libvirt.virDomain),
        (LibvirtNetwork, libvirt.virNetwork),
        (LibvirtConnection, libvirt.virConnect),
    )
    for name in vars(ours)
    if not name.startswith("_")
]


@pytest.mark.parametrize(("ours", "theirs", "name"), CALLS, ids=[name for _, _, name in CALLS])
def test_libvirt_has_each_call_with_these_arguments(ours: type, theirs: type, name: str) -> None:
    expected, found = (inspect.signature(getattr(cls, name)).parameters.values() for cls in (ours, theirs))
    assert [(one.name, one.default) for one in expected] == [(one.name, one.default) for one in found]


RPC, REMOTE, QEMU, DOMAIN = (
    libvirt.VIR_FROM_RPC,
    libvirt.VIR_FROM_REMOTE,
    libvirt.VIR_FROM_QEMU,
    libvirt.VIR_FROM_DOMAIN,
)
MEANINGS = [
    (None, None, e.HypervisorUnreachable),
    *((code, domain, e.HypervisorUnreachable) for code in (1, 5, 6, 38, 39) for domain in (RPC, REMOTE)),
    *((code, QEMU, e.HypervisorRefused) for code in (1, 8, 9, 38, 67)),
    (42, QEMU, e.DomainNotFound),
    (55, QEMU, e.WrongState),
    (68, QEMU, e.DomainBusy),
    (80, DOMAIN, e.NoMetadata),
    (43, libvirt.VIR_FROM_NETWORK, e.NetworkNotFound),
    (86, QEMU, e.GuestAgentSilent),
]


@pytest.mark.parametrize(("code", "domain", "meaning"), MEANINGS)
def test_each_error_has_one_meaning(code: int | None, domain: int | None, meaning: type[e.HypervisorError]) -> None:
    error = libvirt.libvirtError("it happened")
    error.err = None if code is None else (code, domain, "it happened", 2, "", "", "", 0, 0)
    translated = e.translate(error)
    assert type(translated) is meaning
    assert "it happened" in str(translated)


def test_errors_that_were_not_expected_are_left_to_evidence() -> None:
    for kind in (e.HypervisorUnreachable, e.DomainBusy, e.WrongState):
        with pytest.raises(Interrupted), e.unknown_outcome_interrupts():
            raise kind("x")
        with pytest.raises(CannotTell), e.for_evidence():
            raise kind("x")


def test_a_libvirt_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(e.HypervisorUnreachable):
        Hypervisor("qemu+unix:///system?socket=/nowhere").connection()
    with pytest.raises(e.HypervisorUnreachable):
        Hypervisor("nonsense:///").connection()


@pytest.fixture
def silent_socket(tmp_path: Path) -> Iterator[Path]:
    """Takes connections and says nothing, as a libvirtd that is stopped does."""
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield path
        while (connected := _accept(listener)) is not None:
            connected.close()


def _accept(listener: socket.socket) -> socket.socket | None:
    listener.setblocking(False)
    try:
        return listener.accept()[0]
    except BlockingIOError:
        return None


def test_a_libvirt_that_does_not_answer_keeps_nobody_waiting(
    silent_socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "OPEN_SECONDS", 0.2)
    hypervisor = Hypervisor(f"qemu+unix:///system?socket={silent_socket}")
    started = time.monotonic()
    for _ in range(3):
        with pytest.raises(e.HypervisorUnreachable, match="did not answer"):
            hypervisor.connection()
    assert time.monotonic() - started < 5
    assert [thread.name for thread in threading.enumerate()].count("libvirt-open") == 1


def test_one_connection_serves_all_threads(hypervisor: Hypervisor) -> None:
    connections: list[object] = []
    threads = [threading.Thread(target=lambda: connections.append(hypervisor.connection())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert connections == [hypervisor.connection()] * 8


def test_events_of_a_vm_reach_the_listeners(hypervisor: Hypervisor, tmp_path: Path) -> None:
    heard: list[DomainEvent] = []
    hypervisor.listen(heard.append)
    spec = small_spec(tmp_path)
    guest = Guest.start(hypervisor, domain_xml.build(spec, "web"))
    poll(lambda: DomainEvent(spec.vm_id, Change.STARTED) in heard, 10, "the start is heard")
    domain: Any = hypervisor.connection().lookupByUUIDString(spec.vm_id)
    domain.suspend()
    poll(lambda: heard[-1] == DomainEvent(spec.vm_id, Change.OTHER), 10, "the pause is heard")
    guest.force_off()
    poll(lambda: heard[-1] == DomainEvent(spec.vm_id, Change.STOPPED), 10, "the stop is heard")
