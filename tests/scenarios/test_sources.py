"""Where templates come from: servers that are down, cut or not to be trusted, and how a download goes on."""

from collections.abc import Iterator

import pytest

from tests.lab.broker import free_port
from tests.lab.lab import Lab
from tests.scenarios.cloud import Cloud


@pytest.fixture
def three_hosts(database: str) -> Iterator[Cloud]:
    with Lab(hosts=3, database=database, ping_interval=1.0, reconcile_interval=1.0) as lab:
        yield Cloud(lab)


def test_a_url_that_no_host_reaches_fails_with_the_reason_of_three(three_hosts: Cloud) -> None:
    cloud = three_hosts
    operation = cloud.settled(cloud.register(f"http://127.0.0.1:{free_port()}/image"), state="failed")
    template = cloud.client.get(cloud.target(operation))
    assert template["state"] == "failed"
    assert {reason["host"] for reason in template["error"]["hosts"]} == {"host1", "host2", "host3"}
    assert all("127.0.0.1" in reason["reason"] for reason in template["error"]["hosts"])
    assert all(template["error"][part] for part in ("cause", "consequence", "remedy"))


def test_a_certificate_of_an_unknown_authority_is_refused_by_name(cloud: Cloud) -> None:
    url = cloud.lab.mirror.url(cloud.serve(), scheme="https")
    template = cloud.client.get(cloud.target(cloud.settled(cloud.register(url), state="failed")))
    assert template["state"] == "failed"
    assert template["error"]["code"] == "source_untrusted"
    assert all(template["error"][part] for part in ("cause", "consequence", "remedy"))


@pytest.mark.parametrize("percent", [0, 1, 50, 99])
def test_a_cut_download_goes_on_where_it_was(cloud: Cloud, percent: int) -> None:
    size = cloud.lab.template.path.stat().st_size
    template, pool = cloud.template(), cloud.pool("shared")
    name = template["url"].rsplit("/", 1)[-1]
    cloud.lab.mirror.fault(name, "drop", at=size * percent // 100, times=1)
    cloud.settled(cloud.prepare(template, pool))
    served = sum(request.bytes for request in cloud.lab.mirror.requests(name) if request.method == "GET")
    whole = cloud.downloads(template)
    # With nothing received there is nothing to go on from.
    assert len(whole) == (2 if percent == 0 else 1)
    # The check read the head, at most 64 KiB; the cut cost nothing.
    assert served <= size + 2 * 65536
    assert cloud.placement(template, pool)["state"] == "ready"


def test_a_second_preparation_downloads_nothing(cloud: Cloud) -> None:
    template, pool = cloud.template(), cloud.pool("shared")
    operations = [cloud.prepare(template, pool) for _ in range(2)]
    for operation in operations:
        cloud.settled(operation)
    assert operations[0]["id"] == operations[1]["id"]
    assert len(cloud.downloads(template)) == 1
