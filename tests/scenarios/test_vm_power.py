"""What is done to a VM as a whole beside starting and stopping: its console, reboots, second thoughts."""

from collections.abc import Callable
from typing import Any

from tests.lab.guest import READY_LINE
from tests.lab.waiting import poll
from tests.scenarios.cloud import Cloud, Row


def console(cloud: Cloud, vm: Row, **fields: Any) -> Row:
    result: Row = cloud.settled(cloud.console(vm, **fields))["result"]
    return result


def boots(cloud: Cloud, vm: Row) -> int:
    """How often the guest has come up since its machine was switched on."""
    text: str = console(cloud, vm, lines=1000)["text"]
    return text.count(READY_LINE)


def test_a_guest_reboots_when_it_is_asked_and_when_it_is_forced(cloud: Cloud) -> None:
    vm = cloud.booted(cloud.vm(cloud.template()))
    assert boots(cloud, vm) == 1

    assert cloud.settled(cloud.reboot(vm, force=False))["result"] == {"forced": False}
    poll(lambda: boots(cloud, vm) == 2, 60, "the guest is up again")
    cloud.booted(vm)
    assert cloud.settled(cloud.reboot(vm, force=True))["result"] == {"forced": True}
    poll(lambda: boots(cloud, vm) == 3, 60, "the guest is up again")

    last = console(cloud, vm, lines=1)
    assert (len(last["text"].splitlines()), last["truncated"]) == (1, True)
    cloud.settled(cloud.stop(cloud.booted(vm), force=False, timeout_seconds=30))
    assert READY_LINE in console(cloud, vm)["text"]
    cloud.settled(cloud.destroy(vm))


def test_a_guest_that_does_not_listen_loses_its_power_in_the_end(cloud: Cloud) -> None:
    """It is asked while it is still in its BIOS, which hears nothing."""
    vm = cloud.vm(cloud.template())
    cloud.settled(cloud.stop(vm, force=False, timeout_seconds=1))
    assert cloud.client.get(f"vms/{vm['id']}/")["state"] == "stopped"
    cloud.settled(cloud.destroy(vm))


def test_a_destroyed_vm_is_recovered_and_a_forgotten_one_is_expunged(
    cloud: Cloud, setting: Callable[[str, Any], None]
) -> None:
    vm = cloud.booted(cloud.vm(cloud.template()))
    cloud.settled(cloud.destroy(vm, expunge=False))
    recovered = cloud.client.post(f"vms/{vm['id']}/recover/")
    assert (recovered["state"], recovered["volumes"]) == ("stopped", vm["volumes"])
    cloud.settled(cloud.start(vm))
    cloud.booted(vm)

    cloud.settled(cloud.destroy(vm, expunge=False))
    assert cloud.client.get(f"vms/{vm['id']}/")["state"] == "destroyed"
    setting("expunge.delay", 0)
    cloud.client.wait_vm(vm["id"], 60, state="expunged")
