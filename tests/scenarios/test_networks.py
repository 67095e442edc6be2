"""VMs in networks: a real bridge of this machine, and a libvirt network on it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import libvirt
import pytest

from tests.lab.client import ApiError
from tests.lab.inside import inside
from tests.scenarios.cloud import Cloud, Row

# For documentation only, RFC 5737: nothing else on this machine is there.
HOST, GUEST = "198.51.100.1", "198.51.100.7"
USER_DATA = f"#!/bin/sh\nip address add {GUEST}/24 dev eth0\n"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def bridge() -> Iterator[str]:
    name = f"cc{uuid4().hex[:8]}"
    ip("link", "add", name, "type", "bridge")
    try:
        ip("address", "add", f"{HOST}/24", "dev", name)
        ip("link", "set", name, "up")
        yield name
    finally:
        ip("link", "delete", name)


@contextmanager
def libvirt_network(cloud: Cloud, bridge: str) -> Iterator[str]:
    """On every host of the lab; none of them makes anything new of it."""
    document = f"<network><name>{bridge}</name><forward mode='bridge'/><bridge name='{bridge}'/></network>"
    connections = [libvirt.open(host.hypervisor.uri) for host in cloud.lab.hosts]
    networks = [connection.networkCreateXML(document) for connection in connections]
    try:
        yield bridge
    finally:
        for network, connection in zip(networks, connections, strict=True):
            network.destroy()
            connection.close()


@contextmanager
def network(cloud: Cloud, kind: str, source: str) -> Iterator[Row]:
    body = {"name": f"net-{uuid4().hex[:8]}", "zone": cloud.zone, "kind": kind, "source": source}
    made: Row = cloud.client.post("networks/", body)
    yield made
    cloud.client.delete(f"networks/{made['id']}/")


def test_a_guest_is_reached_on_a_bridge_and_on_a_libvirt_network(cloud: Cloud, bridge: str) -> None:
    template = cloud.template()
    with libvirt_network(cloud, bridge) as name:
        for kind in ("bridge", "libvirt"):
            with network(cloud, kind, name) as made:
                vm = cloud.booted(cloud.vm(template, networks=[made["id"]], user_data=USER_DATA))
                ((mac, of),) = [(nic["mac"], nic["network"]) for nic in vm["nics"]]
                assert of == made["id"]
                vm = cloud.client.wait_vm(vm["id"], 30, addresses=[GUEST])
                with inside(cloud.lab, vm) as guest:
                    assert guest.read("/sys/class/net/eth0/address").decode().strip() == mac
                    guest.run("/bin/ping", "-c", "1", "-W", "5", HOST)
                with pytest.raises(ApiError) as refused:
                    cloud.client.delete(f"networks/{made['id']}/")
                assert refused.value.status == 409
                cloud.settled(cloud.destroy(vm))


def test_a_host_without_the_network_says_so(cloud: Cloud) -> None:
    template = cloud.template()
    for kind in ("bridge", "libvirt"):
        with network(cloud, kind, "nowhere") as made:
            operation = cloud.deploy(template, networks=[made["id"]])
            error = cloud.settled(operation, state="failed")["error"]
            assert (error["code"], "nowhere" in error["cause"]) == ("network_missing", True)
            cloud.settled(cloud.destroy({"id": operation["target"]["id"]}))
