"""The connection to the local libvirtd: opened when needed, opened anew when it died, its events passed on."""

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property

import libvirt

from agents.hypervisor.errors import HypervisorError, HypervisorRefused, HypervisorUnreachable, translated
from agents.hypervisor.kvm_probe import Acceleration, probe_kvm
from agents.hypervisor.libvirt_calls import LibvirtConnection, LibvirtDomain

KEEPALIVE_SECONDS = 5
KEEPALIVE_COUNT = 4
"""A libvirtd that is silent this often in a row is unreachable, and calls under way end."""
OPEN_SECONDS = 10.0


class Change(Enum):
    """What an event says about a domain. It only hastens a look: what is true is read from libvirt."""

    STARTED = auto()
    STOPPED = auto()
    REBOOTED = auto()
    OTHER = auto()
    AGENT_CONNECTED = auto()
    AGENT_DISCONNECTED = auto()


@dataclass(frozen=True, slots=True)
class DomainEvent:
    vm_id: str
    change: Change


Listener = Callable[[DomainEvent], None]

_LIFECYCLE = {
    libvirt.VIR_DOMAIN_EVENT_STARTED: Change.STARTED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED: Change.STOPPED,
}
_AGENT = {
    libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED: Change.AGENT_CONNECTED,
    libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_DISCONNECTED: Change.AGENT_DISCONNECTED,
}


class Hypervisor:
    """The libvirtd at a URI. Thread-safe.

    A connection that was inherited by a fork is neither used nor closed: either would break it for both processes.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._listeners: list[Listener] = []
        self._lives: dict[int, _Life] = {}

    def listen(self, listener: Listener) -> None:
        """Tell it every event from now on, also after a reconnect. Called in libvirt's thread: it may only enqueue."""
        self._listeners.append(listener)

    @cached_property
    def acceleration(self) -> Acceleration:
        """What guests run on here; the probe runs once a process, at the first question."""
        return probe_kvm()

    def connection(self) -> LibvirtConnection:
        """A living connection. Raises HypervisorUnreachable, at the latest after :data:`OPEN_SECONDS`."""
        life = self._lives.setdefault(os.getpid(), _Life())
        with life.lock:
            if life.opened is not None and life.opened.isAlive() == 1:
                return life.opened
            life.opened = None
            if life.opening is None:
                life.opening = self._open_in_thread()
            opening = life.opening
        try:
            connection = opening.result(OPEN_SECONDS)
        except FutureTimeoutError:
            raise HypervisorUnreachable(f"libvirtd did not answer within {OPEN_SECONDS:g} s") from None
        except HypervisorUnreachable:
            self._opened(life, opening, None)
            raise
        self._opened(life, opening, connection)
        return connection

    @staticmethod
    def _opened(life: "_Life", opening: "Future[LibvirtConnection]", connection: LibvirtConnection | None) -> None:
        with life.lock:
            if life.opening is opening:
                life.opening, life.opened = None, connection

    def _open_in_thread(self) -> "Future[LibvirtConnection]":
        # A libvirtd that is stopped or hangs lets open() wait for ever: keepalive only begins after it.
        opening: Future[LibvirtConnection] = Future()

        def run() -> None:
            try:
                opening.set_result(self._open())
            except HypervisorError as error:
                opening.set_exception(error)

        threading.Thread(target=run, name="libvirt-open", daemon=True).start()
        return opening

    def _open(self) -> LibvirtConnection:
        _ensure_event_loop()
        try:
            with translated():
                return self._open_and_listen()
        except HypervisorError as error:
            # Also a refusal of the connection itself says nothing about any domain.
            raise HypervisorUnreachable(str(error)) from error

    def _open_and_listen(self) -> LibvirtConnection:
        connection: LibvirtConnection = libvirt.open(self.uri)
        with contextlib.suppress(HypervisorRefused), translated():
            # Refused by a driver inside this process, which has no wire to keep alive.
            connection.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
        lifecycle, agent = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE
        connection.domainEventRegisterAny(None, lifecycle, self._told, _LIFECYCLE)
        connection.domainEventRegisterAny(None, agent, self._told, _AGENT)
        connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, self._told_of_reboot, None)
        return connection

    def _told(
        self, _connection: object, domain: LibvirtDomain, number: int, _detail: int, names: dict[int, Change]
    ) -> None:
        self._tell(DomainEvent(domain.UUIDString(), names.get(number, Change.OTHER)))

    def _told_of_reboot(self, _connection: object, domain: LibvirtDomain, _opaque: object) -> None:
        self._tell(DomainEvent(domain.UUIDString(), Change.REBOOTED))

    def _tell(self, event: DomainEvent) -> None:
        for listener in self._listeners:
            listener(event)


class _Life:
    """What one process has of the connection."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.opened: LibvirtConnection | None = None
        self.opening: Future[LibvirtConnection] | None = None


_loop_lock = threading.Lock()
_loop_pids: set[int] = set()


def _ensure_event_loop() -> None:
    """Run libvirt's event loop in this process; it has to be registered before the first open().

    Without it keepalive fails and a connection to a dead libvirtd counts as alive.
    """
    with _loop_lock:
        if os.getpid() in _loop_pids:
            return
        # libvirt prints every error besides raising it.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_loop, name="libvirt-events", daemon=True).start()
        _loop_pids.add(os.getpid())


def _loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()
