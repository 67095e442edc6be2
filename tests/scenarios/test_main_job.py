"""The main job: a template is registered, a VM deployed from it, and the VM lives its whole life."""

import time
from pathlib import Path

import libvirt
import libvirt_qemu

from tests.lab.client import ApiError
from tests.lab.waiting import poll
from tests.scenarios.cloud import MEBIBYTE, Cloud, Row

PING_SECONDS = 1.0


def power_off_from_inside(cloud: Cloud, vm: Row) -> None:
    """The guest powers itself off; returns when its domain is gone."""
    host = next(host for host in cloud.lab.hosts if host.id == vm["host"])
    connection = libvirt.open(host.hypervisor.uri)
    try:
        domain = connection.lookupByUUIDString(vm["id"])
        # Nothing answers guest-shutdown by its design, so libvirt says that the agent is silent.
        libvirt_qemu.qemuAgentCommand(
            domain, '{"execute": "guest-exec", "arguments": {"path": "/sbin/shutdown", "arg": ["-h"]}}', 5, 0
        )
        poll(lambda: vm["id"] not in [one.UUIDString() for one in connection.listAllDomains()], 20, "the guest is off")
    finally:
        connection.close()


def test_a_vm_lives_its_whole_life(cloud: Cloud) -> None:
    template = cloud.template()
    assert template["size_bytes"] == cloud.lab.template.path.stat().st_size
    assert template["virtual_size_bytes"] == cloud.lab.template.virtual_size_bytes

    deployed = cloud.settled(cloud.deploy(template, data_disks=[{"size_bytes": 32 * MEBIBYTE}]))
    vm = cloud.booted({"id": deployed["target"]["id"]})
    volumes = [cloud.client.get(f"volumes/{volume}/") for volume in vm["volumes"]]
    assert sorted(volume["size_bytes"] for volume in volumes) == [32 * MEBIBYTE, 64 * MEBIBYTE]
    assert [download.status for download in cloud.downloads(template)] == [200]

    power_off_from_inside(cloud, vm)
    gone = time.monotonic()
    cloud.client.wait_vm(vm["id"], 10, state="stopped", power_state="off", host=None)
    assert time.monotonic() - gone < 2 * PING_SECONDS

    cloud.settled(cloud.start(vm))
    cloud.booted(vm)
    cloud.settled(cloud.stop(vm, force=True))
    assert cloud.client.get(f"vms/{vm['id']}/")["state"] == "stopped"

    cloud.settled(cloud.destroy(vm))
    assert cloud.client.get(f"vms/{vm['id']}/")["state"] == "expunged"
    assert [path for volume in volumes for path in [Path(volume["path"])] if path.exists()] == []


def test_a_guest_that_is_asked_shuts_down(cloud: Cloud) -> None:
    vm = cloud.booted(cloud.vm(cloud.template()))
    cloud.settled(cloud.stop(vm, force=False))
    assert cloud.client.get(f"vms/{vm['id']}/")["state"] == "stopped"
    cloud.settled(cloud.destroy(vm))


def test_what_a_vms_state_forbids_is_refused_and_says_why(cloud: Cloud) -> None:
    vm = cloud.vm(cloud.template(), start=False)
    refusals = []
    for path, body in (("stop", {"force": True}), ("start", None), ("start", None)):
        try:
            operation = cloud.client.post(f"vms/{vm['id']}/{path}/", body)
        except ApiError as error:
            refusals.append((path, error.status, error.problem.get("operation")))
    assert [refusal[:2] for refusal in refusals] == [("stop", 409), ("start", 409)]
    # The second start meets the first one, and names it.
    assert refusals[1][2] == operation["id"]
    cloud.settled(operation)
    cloud.settled(cloud.destroy(vm))
