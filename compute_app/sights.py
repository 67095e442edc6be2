"""What a ping's look at libvirt changes: power state, the guest agent's answer, and VMs that went off by themselves."""

from agents.protocol.messages import Ping, VmFact
from compute_app.models import VM
from compute_app.rules import Sight, read_sight
from core_app import events
from core_app.transitions import transition
from infra_app.models import Agent
from operations_app.models import Reservation

_ABSENT = {"power_state": "off", "guest_agent": "unknown", "reason": "the domain is gone"}


def take_ping(agent: Agent, ping: Ping) -> None:
    """Compare a host's VMs with what it saw; a look that could not be made says nothing."""
    if ping.vms is None:
        return
    seen = {fact.vm_id: fact for fact in ping.vms}
    ours = VM.objects.filter(host=agent.pk, state=VM.State.RUNNING) | VM.objects.filter(pk__in=list(seen))
    vms = list(ours.distinct())
    held = Reservation.objects.filter(resource_type="vm", resource_id__in=[vm.pk for vm in vms], exclusive=True)
    busy = set(held.values_list("resource_id", flat=True))
    for vm in vms:
        if (ping.epoch, ping.facts_number) > (vm.facts_epoch, vm.facts_number) or vm.host_id != agent.pk:
            _compare(agent, vm, seen.get(str(vm.pk)) or VmFact(vm_id=str(vm.pk), **_ABSENT), busy=vm.pk in busy)


def _compare(agent: Agent, vm: VM, fact: VmFact, *, busy: bool) -> None:
    on_its_host = vm.host_id == agent.pk
    sight = read_sight(vm.state, busy=busy, seen_power_state=fact.power_state, on_its_host=on_its_host)
    if sight is Sight.STOPPED:
        off = {"host": None, "power_state": "off", "guest_agent": "unknown", "power_reason": fact.reason[:255]}
        where = {"host": agent.pk}
        message = f"it went off by itself: {fact.reason}"
        transition(vm, VM.State.STOPPED, event="vm.went_off", message=message, sets=off, where=where, level="warning")
    elif sight is Sight.STRANGER:
        text = f"{agent} runs {vm}, which is {vm.state} here; nothing was touched"
        events.alarm_once("vm.runs_unexpectedly", vm, text)
    elif on_its_host and not busy:
        _update(vm, fact)


def _update(vm: VM, fact: VmFact) -> None:
    now = {"power_state": fact.power_state, "guest_agent": fact.guest_agent, "power_reason": fact.reason[:255]}
    if any(getattr(vm, name) != value for name, value in now.items()):
        VM.objects.filter(pk=vm.pk, state=VM.State.RUNNING, host=vm.host_id).update(**now)
