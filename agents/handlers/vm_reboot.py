"""vm.reboot: asks the guest to boot anew and waits until it does, or presses the reset button."""

import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from agents.common.crash import crash_point
from agents.common.errors import CommandError
from agents.handlers.base import Context
from agents.hypervisor.connection import Change, DomainEvent, Hypervisor
from agents.hypervisor.errors import HypervisorRefused, WrongState, unknown_outcome_interrupts
from agents.hypervisor.evidence import vm_evidence
from agents.hypervisor.guest import Guest
from agents.protocol.kinds import VmReboot, VmRebootAnswer, VmRebootEvidence

POLL_SECONDS = 0.2


class VmRebootHandler:
    """A guest that was seen to reboot is noted before anything else, so only an agent that dies in that very moment
    asks it twice. QEMU does not count a machine's resets, so nothing else could tell."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._reboots = RebootCount()
        hypervisor.listen(self._reboots.hear)

    def run(self, context: Context, payload: VmReboot) -> VmRebootAnswer:
        """Reboot it, unless an earlier attempt did."""
        if "forced" in context.notes:
            return VmRebootAnswer(forced=context.notes["forced"])
        with unknown_outcome_interrupts():
            guest = self._running(payload.vm_id)
            seen = self._reboots.of(payload.vm_id)
            context.commit("vm_reboot.before_request")
            forced = payload.mode == "force" or not self._asked(context, guest, payload, seen)
            if forced:
                _reset(guest)
            crash_point("vm_reboot.after_request")
            context.step("vm_reboot.after_reboot", forced=forced)
            return VmRebootAnswer(forced=forced)

    def cancel(self, context: Context, payload: VmReboot) -> None:
        """Nothing to put back: before the request nothing was done."""

    def probe(self, notes: Mapping[str, Any], payload: VmReboot) -> VmRebootEvidence:
        """Does it run, and was it rebooted?"""
        found = vm_evidence(self._hypervisor, payload.vm_id, hoped_for="running")
        return VmRebootEvidence(**found.model_dump(), rebooted="forced" in notes, forced=notes.get("forced", False))

    def _running(self, vm_id: str) -> Guest:
        guest = Guest.find(self._hypervisor, vm_id)
        power = guest.power() if guest else None
        if guest is None or power is None or power.state == "off":
            raise CommandError("vm_off", "The VM is off.", "It was not rebooted.", "Start it.")
        if power.state == "paused":
            raise CommandError(
                "vm_paused",
                f"The VM is {power.reason or 'paused'}.",
                "It was left as it is.",
                "Resume it first, or stop it by force and start it again.",
            )
        return guest

    def _asked(self, context: Context, guest: Guest, payload: VmReboot, seen: int) -> bool:
        """Ask the guest. False when it did not reboot and is to be reset instead."""
        try:
            guest.ask_reboot()
        except (HypervisorRefused, WrongState) as error:
            return _give_up(payload, f"the guest cannot be asked: {error}")
        deadline = time.monotonic() + payload.timeout_seconds
        while self._reboots.of(payload.vm_id) == seen:
            context.check()
            self._running(payload.vm_id)
            if time.monotonic() > deadline:
                return _give_up(payload, f"it did not reboot within {payload.timeout_seconds} s")
            time.sleep(POLL_SECONDS)
        return True


class RebootCount:
    """How often each guest was seen to reboot, by libvirt's events."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def hear(self, event: DomainEvent) -> None:
        """Take note of an event; returns at once."""
        if event.change is Change.REBOOTED:
            with self._lock:
                self._counts[event.vm_id] += 1

    def of(self, vm_id: str) -> int:
        with self._lock:
            return self._counts[vm_id]


def _give_up(payload: VmReboot, why: str) -> bool:
    if payload.then_force:
        return False
    raise CommandError(
        "guest_did_not_reboot",
        f"The guest was not rebooted: {why}.",
        "The VM runs on; the guest may yet reboot.",
        "Reboot it by force, or from inside the guest.",
    )


def _reset(guest: Guest) -> None:
    try:
        guest.reset()
    except (HypervisorRefused, WrongState) as error:
        raise CommandError(
            "vm_not_reset", f"libvirt could not reset the VM: {error}", "It was left as it is.", "Stop and start it."
        ) from error
