"""What a ping's look at libvirt changes: power state, the guest agent's answer, and VMs that went off by themselves."""

from functools import partial
from typing import Any

from django.db import transaction

from agents.protocol.messages import Ping, VmFact
from compute_app import accounting
from compute_app.actions import vm_restart_after_boot
from compute_app.models import OFF, VM
from compute_app.rules import Sight, read_sight
from core_app import events
from core_app.transitions import transition
from infra_app.models import Agent
from operations_app.models import Reservation

_ABSENT: dict[str, Any] = {"power_state": "off", "guest_agent": "unknown", "reason": "the domain is gone"}


def take_ping(agent: Agent, ping: Ping) -> None:
    """Compare a host's VMs with what it saw; a look that could not be made says nothing."""
    if ping.vms is None:
        return
    seen = {fact.vm_id: fact for fact in ping.vms}
    ours = VM.objects.filter(host=agent.pk, state=VM.State.RUNNING) | VM.objects.filter(pk__in=list(seen))
    vms = {str(vm.pk): vm for vm in ours}
    for vm_id, vm in vms.items():
        _compare(agent, vm, seen.get(vm_id) or VmFact(vm_id=vm_id, **_ABSENT), (ping.epoch, ping.facts_number))
    for vm_id in sorted(seen.keys() - vms.keys()):
        text = f"{agent} runs a VM {vm_id}, which is not known here; nothing was touched"
        events.alarm_once("vm.unknown", agent, text)


def _compare(agent: Agent, vm: VM, fact: VmFact, look: tuple[int, int]) -> None:
    """Judged twice, the second time with the VM locked: an operation begins and ends under that lock."""
    sight = _sight(agent, vm, fact, look)
    if sight is Sight.NOTHING or (sight is Sight.AS_RECORDED and not _changes(agent, vm, fact)):
        return
    with transaction.atomic():
        vm = VM.objects.select_for_update(no_key=True).get(pk=vm.pk)
        if Reservation.objects.filter(resource_type="vm", resource_id=vm.pk, exclusive=True).exists():
            return
        sight = _sight(agent, vm, fact, look)
        if sight is Sight.AS_RECORDED:
            changes = _changes(agent, vm, fact)
            VM.objects.filter(pk=vm.pk).update(**changes)
            if "power_state" in changes:
                _tell_power(vm, fact)
        elif sight is Sight.STOPPED:
            _went_off(agent, vm, fact, look)
        elif sight is Sight.STRANGER:
            text = f"{agent} runs {vm}, which is {vm.state} here; nothing was touched"
            events.alarm_once("vm.runs_unexpectedly", vm, text)


def _sight(agent: Agent, vm: VM, fact: VmFact, look: tuple[int, int]) -> Sight:
    """What the look means; nothing if it began before what is recorded was known."""
    if agent.pk == vm.last_host_id and look <= (vm.facts_epoch, vm.facts_number):
        return Sight.NOTHING
    return read_sight(vm.state, seen_power_state=fact.power_state, on_its_host=vm.host_id == agent.pk)


def _changes(agent: Agent, vm: VM, fact: VmFact) -> dict[str, Any]:
    now = {
        "power_state": fact.power_state,
        "guest_agent": fact.guest_agent,
        "power_reason": fact.reason[:255],
        "addresses": list(fact.addresses),
        "host_boot_id": agent.boot_id,
    }
    return {name: value for name, value in now.items() if getattr(vm, name) != value}


def _tell_power(vm: VM, fact: VmFact) -> None:
    """Nobody here pauses a VM, so one that is paused has a trouble that somebody should look at."""
    if fact.power_state == "paused":
        events.record("vm.paused", vm, f"it is paused: {fact.reason or 'nobody knows why'}", level="alarm")
    else:
        events.record("vm.resumed", vm, "it runs again")


def _went_off(agent: Agent, vm: VM, fact: VmFact, look: tuple[int, int]) -> None:
    """By itself, or with its host: one that ran in an earlier boot of it did not stop of its own will."""
    booted = vm.host_boot_id not in ("", agent.boot_id)
    restart_due = booted and vm.restart_after_boot
    told = {"power_reason": fact.reason[:255], "restart_due": restart_due}
    looked = {"facts_epoch": look[0], "facts_number": look[1]}
    message = f"{agent} was booted anew" if booted else f"it went off by itself: {fact.reason}"
    transition(vm, VM.State.STOPPED, event="vm.went_off", message=message, sets=OFF | told | looked, level="warning")
    if restart_due:
        transaction.on_commit(partial(vm_restart_after_boot, vm), robust=True)
    accounting.vm_moved(vm)
