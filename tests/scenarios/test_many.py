"""Twenty VMs at once."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.lab.client import ApiError
from tests.scenarios.cloud import GUEST_BYTES, Cloud, Row

VMS = 20
ANSWER_SECONDS = 300.0


@pytest.mark.alone
@pytest.mark.timeout(600)
def test_twenty_vms_from_one_template_over_two_hosts(cloud: Cloud, setting: Callable[[str, Any], None]) -> None:
    hosts = [cloud.host(host.name) for host in cloud.lab.hosts]
    # Exactly ten fit on each host; the setting's lowest value is a tenth, so on a large machine they are larger.
    memory = max(GUEST_BYTES, max(host["memory_bytes"] for host in hosts) // 90)
    setting("host.memory.overcommit", (VMS // 2 + 0.5) * memory / hosts[0]["memory_bytes"])
    template = cloud.template()
    began = time.monotonic()

    def deploy(number: int) -> Row:
        return Cloud(cloud.lab).deploy(template, name=f"many-{number}", memory_bytes=memory)

    with ThreadPoolExecutor(VMS) as users:
        operations = list(users.map(deploy, range(VMS)))
    with pytest.raises(ApiError) as full:
        cloud.deploy(template, memory_bytes=memory)
    assert full.value.status == 409
    vms = [{"id": operation["target"]["id"]} for operation in operations]
    for operation in operations:
        cloud.settled(operation, ANSWER_SECONDS)
    left = ANSWER_SECONDS - (time.monotonic() - began)
    vms = [cloud.client.wait_vm(vm["id"], left, guest_agent="answering") for vm in vms]
    assert time.monotonic() - began < ANSWER_SECONDS

    assert Counter(vm["host"] for vm in vms) == {host["id"]: VMS // 2 for host in hosts}
    volumes = [cloud.client.get(f"volumes/{vm['volumes'][0]}/") for vm in vms]
    assert len(cloud.downloads(template)) == len({volume["pool"] for volume in volumes})
    for pool in cloud.client.list("storage-pools/"):
        promised = sum(volume["size_bytes"] for volume in volumes if volume["pool"] == pool["id"])
        assert promised <= pool["capacity_bytes"]

    for operation in [cloud.destroy(vm) for vm in vms]:
        cloud.settled(operation, 120)
