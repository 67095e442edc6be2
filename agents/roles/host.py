"""The role of a KVM host. The only module of the agent's core that reaches libvirt."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast

from agents.handlers.seed_create import SeedCreateHandler
from agents.handlers.template_check import TemplateCheckHandler
from agents.handlers.template_download import TemplateDownloadHandler
from agents.handlers.template_remove import TemplateRemoveHandler
from agents.handlers.vm_console import VmConsoleHandler
from agents.handlers.vm_reboot import VmRebootHandler
from agents.handlers.vm_resume import VmResumeHandler
from agents.handlers.vm_start import VmStartHandler
from agents.handlers.vm_stop import VmStopHandler
from agents.handlers.volume_attach import VolumeAttachHandler
from agents.handlers.volume_create import VolumeCreateHandler
from agents.handlers.volume_detach import VolumeDetachHandler
from agents.handlers.volume_remove import VolumeRemoveHandler
from agents.handlers.volume_resize import VolumeResizeHandler
from agents.hypervisor.connection import Hypervisor
from agents.hypervisor.errors import HypervisorError, translated
from agents.hypervisor.events import EventWatch, GuestWatcher
from agents.hypervisor.facts import host_facts, vm_facts
from agents.protocol.messages import VmFact
from agents.roles.base import Role
from agents.state import StateError

_HOST_UUID = re.compile(r"<host>\s*<uuid>([0-9a-f-]{36})</uuid>")
"""Of libvirt's capabilities document, https://libvirt.org/formatcaps.html; libvirt writes it in this order."""


class HostRole:
    """Templates, volumes and VMs. A host whose libvirtd is down has an agent all the same."""

    def __init__(self, libvirt_uri: str, console_folder: Path) -> None:
        self._hypervisor = Hypervisor(libvirt_uri)
        self._guests = GuestWatcher(self._hypervisor)
        self._events: EventWatch | None = None
        self._console_folder = console_folder

    def role(self) -> Role:
        return Role(
            handlers={
                "template.check": TemplateCheckHandler(),
                "template.download": TemplateDownloadHandler(),
                "template.remove": TemplateRemoveHandler(),
                "volume.create": VolumeCreateHandler(),
                "volume.remove": VolumeRemoveHandler(),
                "volume.attach": VolumeAttachHandler(self._hypervisor),
                "volume.detach": VolumeDetachHandler(self._hypervisor),
                "volume.resize": VolumeResizeHandler(self._hypervisor),
                "seed.create": SeedCreateHandler(),
                "vm.start": VmStartHandler(self._hypervisor, self._console_folder),
                "vm.stop": VmStopHandler(self._hypervisor),
                "vm.reboot": VmRebootHandler(self._hypervisor),
                "vm.resume": VmResumeHandler(self._hypervisor),
                "vm.console": VmConsoleHandler(self._console_folder),
            },
            host_facts=lambda: host_facts(self._hypervisor),
            vm_facts=self._vm_facts,
            start=self._start,
            stop=self._stop,
        )

    def _vm_facts(self) -> tuple[VmFact, ...]:
        return self._guests.complete(vm_facts(self._hypervisor))

    def _start(self, on_change: Callable[[], None]) -> None:
        self._console_folder.mkdir(exist_ok=True)
        self._guests.start()
        self._events = EventWatch(self._hypervisor, self._guests, on_change)
        self._events.start()

    def _stop(self) -> None:
        self._guests.stop()
        if self._events is not None:
            self._events.stop()


class _Capable(Protocol):
    def getCapabilities(self) -> str: ...  # noqa: N802  (libvirt's name)


def host_uuid(libvirt_uri: str) -> str:
    """The uuid by which libvirt knows this host. Raises StateError when it cannot be asked or has none."""
    try:
        connection = cast("_Capable", Hypervisor(libvirt_uri).connection())
        with translated():
            capabilities = connection.getCapabilities()
    except HypervisorError as error:
        raise StateError(
            f"libvirt does not answer at {libvirt_uri}: {error}. This agent has not joined. "
            f"Check that libvirtd runs, and --libvirt-uri."
        ) from None
    found = _HOST_UUID.search(capabilities)
    if found is None:
        raise StateError(
            f"libvirt at {libvirt_uri} has no uuid for this host. This agent has not joined. "
            f"Give --libvirt-uri the one of the host's QEMU driver."
        )
    return found[1]
