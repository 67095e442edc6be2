"""vm.start: compares the disks with what is recorded, starts a transient domain, reads back what runs."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from agents.common.crash import crash_point
from agents.common.errors import CommandError
from agents.common.files import inside
from agents.handlers.base import Context
from agents.hypervisor.chain import check_chain
from agents.hypervisor.connection import Hypervisor
from agents.hypervisor.domain_xml import DomainSpec, NicSpec, build, differences, disk_spec, memory_mib
from agents.hypervisor.errors import (
    DomainNotFound,
    HypervisorRefused,
    WrongState,
    for_evidence,
    unknown_outcome_interrupts,
)
from agents.hypervisor.evidence import vm_evidence
from agents.hypervisor.guest import Guest
from agents.hypervisor.networks import check_networks
from agents.protocol.kinds import VmEvidence, VmStart, VmStartAnswer


class VmStartHandler:
    """A VM runs as described, or not at all."""

    def __init__(self, hypervisor: Hypervisor, console_folder: Path) -> None:
        self._hypervisor = hypervisor
        self._console_folder = console_folder

    def run(self, context: Context, payload: VmStart) -> VmStartAnswer:
        """Start it, or find it running as described."""
        with unknown_outcome_interrupts():
            spec = self._spec(payload)
            if (guest := self._running(payload.vm_id)) is not None:
                return _runs_already(guest, payload, spec)
            for disk in payload.disks:
                check_chain(disk.chain)
            _check_seed(payload.seed_path)
            check_networks(self._hypervisor, payload.nics)
            _check_room(payload.memory_bytes)
            context.commit("vm_start.before_define")
            guest = self._start(spec, payload.name)
            crash_point("vm_start.after_start")
            _read_back(guest, spec)
            return VmStartAnswer(accelerator=spec.accelerator)

    def cancel(self, context: Context, payload: VmStart) -> None:
        """Nothing to put back: before the start nothing was done, and a start that failed left nothing."""

    def probe(self, notes: Mapping[str, Any], payload: VmStart) -> VmEvidence:
        """Does it run, and as described?"""
        evidence = vm_evidence(self._hypervisor, payload.vm_id, hoped_for="running")
        with for_evidence():
            guest = Guest.find(self._hypervisor, payload.vm_id)
            if guest is None or evidence.power_state != "running":
                return evidence
            found = guest.description()
        wrong = differences(_as_found(payload, self._spec(payload), found), found)
        return evidence.model_copy(update={"reason": "; ".join(wrong) or evidence.reason})

    def _spec(self, payload: VmStart) -> DomainSpec:
        accelerator = payload.accelerator
        return DomainSpec(
            vm_id=payload.vm_id,
            accelerator=self._hypervisor.acceleration.accelerator if accelerator == "auto" else accelerator,
            cpus=payload.cpus,
            memory_mib=memory_mib(payload.memory_bytes),
            disks=tuple(disk_spec(disk) for disk in payload.disks),
            console_path=str(inside(self._console_folder, payload.console_name)),
            seed_path=payload.seed_path,
            nics=tuple(NicSpec(nic.mac, nic.kind, nic.source) for nic in payload.nics),
        )

    def _running(self, vm_id: str) -> Guest | None:
        """The VM's domain when it is not off; something asked of it before is awaited."""
        guest = Guest.find(self._hypervisor, vm_id)
        if guest is None:
            return None
        guest.wait_idle()
        power = guest.power()
        if power.state == "paused":
            raise CommandError(
                "vm_paused",
                f"The VM is on this host already, {power.reason or 'paused'}.",
                "It was left as it is.",
                "Resume it, or stop it by force and start it again.",
            )
        return guest if power.state == "running" else None

    def _start(self, spec: DomainSpec, title: str) -> Guest:
        try:
            return Guest.start(self._hypervisor, build(spec, title))
        except WrongState:
            guest = Guest.find(self._hypervisor, spec.vm_id)
            if guest is None:
                raise _start_failed("its domain ended while it was being started") from None
            return guest
        except HypervisorRefused as error:
            raise _start_failed(str(error)) from error


def _as_found(payload: VmStart, asked: DomainSpec, found: DomainSpec) -> DomainSpec:
    """Who left the choice of the accelerator to the host asked for whatever it runs on."""
    return replace(asked, accelerator=found.accelerator) if payload.accelerator == "auto" else asked


def _runs_already(guest: Guest, payload: VmStart, spec: DomainSpec) -> VmStartAnswer:
    try:
        found = guest.description()
        wrong = differences(_as_found(payload, spec, found), found)
    except ValueError as error:
        wrong = (str(error),)
    if wrong:
        raise CommandError(
            "vm_runs_differently",
            f"The VM runs on this host already, but not as described: {'; '.join(wrong)}.",
            "It was left running as it is.",
            "Stop it, then start it again.",
        )
    return VmStartAnswer(accelerator=found.accelerator)


def _read_back(guest: Guest, spec: DomainSpec) -> None:
    """What libvirt made of the document is what runs; anything else is ended at once."""
    try:
        wrong = differences(spec, guest.description())
    except DomainNotFound:
        raise _start_failed("its QEMU ended right after the start") from None
    except ValueError as error:
        wrong = (str(error),)
    if wrong:
        guest.force_off()
        raise CommandError(
            "vm_not_as_asked",
            f"What libvirt started is not what was asked for: {'; '.join(wrong)}.",
            "It was ended at once.",
            "Compare the host's libvirt with that of other hosts; report this.",
            elsewhere=True,
        )


def _check_room(memory_bytes: int) -> None:
    available = psutil.virtual_memory().available
    if memory_bytes > available:
        raise CommandError(
            "no_memory",
            f"The VM needs {memory_bytes} bytes of memory, the host has {available} left.",
            "It was not started.",
            "Stop or move other VMs, or start it on another host.",
            elsewhere=True,
        )


def _check_seed(seed_path: str) -> None:
    path = Path(seed_path)
    if seed_path and (path.is_symlink() or not path.is_file()):
        raise CommandError(
            "seed_missing",
            f"The VM's cloud-init seed {path} is not there.",
            "The VM was not started: it would come up without its user data.",
            "Start it again: the seed is made anew.",
        )


def _start_failed(why: str) -> CommandError:
    return CommandError(
        "vm_start_failed",
        f"The VM could not be started: {why}",
        "It is off.",
        "Look at the VM's log of QEMU on the host, or start it on another host.",
        elsewhere=True,
    )
