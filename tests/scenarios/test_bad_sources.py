"""Servers that lie, stall and never end, and images that are not what they say: refused, and nothing is left."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.cloud import MEBIBYTE, Cloud, Row

REFUSAL_SECONDS = 90.0
"""Three attempts, each with its pauses between tries."""


def assert_refused(problem: Row | None, *codes: str) -> None:
    """For people: what happened, what it means, what to do."""
    assert problem is not None
    assert problem["code"] in codes, problem
    assert all(problem[part] for part in ("cause", "consequence", "remedy")), problem


def assert_nothing_left(pool: Row, template: Row) -> None:
    left = [path.name for path in Path(pool["path"]).iterdir() if template["unique_name"] in path.name]
    assert left == []


def refused_download(cloud: Cloud, template: Row, *codes: str, pool: str = "shared") -> Row:
    """Has the template on a pool, which must fail with one of the codes and leave nothing. Returns the operation."""
    place = cloud.pool(pool)
    operation = cloud.settled(cloud.prepare(template, place), REFUSAL_SECONDS, "failed")
    assert_refused(operation["error"], *codes)
    placement = cloud.placement(template, place)
    assert placement["state"] == "failed"
    assert_refused(placement["error"], *codes)
    assert_nothing_left(place, template)
    return operation


# --- servers -------------------------------------------------------------------------------------------------------


def test_a_wrong_checksum_is_final(cloud: Cloud) -> None:
    template = cloud.template(checksum="{SHA-256}" + 64 * "0")
    refused_download(cloud, template, "checksum_mismatch")
    assert len(cloud.downloads(template)) == 1


SERVERS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    # What is wrong with every answer to the download, and how it may be called.
    "truncated": ({"kind": "drop", "at": 100_000}, ("source_broken", "source_not_resumable")),
    "announces more than it sends": (
        {"kind": "lying_length", "length": 32 * MEBIBYTE},
        ("source_broken", "source_not_resumable"),
    ),
    "announces less than it has": ({"kind": "lying_length", "length": 5 * MEBIBYTE}, ("checksum_mismatch",)),
    "stalls": ({"kind": "stall", "at": 100_000}, ("source_stalled", "source_broken")),
    "never ends": ({"kind": "endless"}, ("image_too_large", "pool_full", "download_timeout", "checksum_mismatch")),
    "serves other bytes": ({"kind": "wrong_body"}, ("checksum_mismatch",)),
}


@pytest.mark.parametrize("wrong", SERVERS)
def test_a_server_that_cannot_be_relied_on(cloud: Cloud, setting: Callable[[str, Any], None], wrong: str) -> None:
    setting("download.read.timeout", 1)
    setting("download.stall.seconds", 1)
    setting("download.total.timeout", 10 if wrong == "never ends" else 60)
    fault, codes = SERVERS[wrong]
    template = cloud.template()
    name = template["url"].rsplit("/", 1)[-1]
    cloud.lab.mirror.fault(name, **fault)
    if wrong == "truncated":
        cloud.lab.mirror.fault(name, "ignore_range")
    refused_download(cloud, template, *codes)


def test_a_pool_takes_the_template_again_when_its_server_is_well(cloud: Cloud) -> None:
    template = cloud.template()
    name = template["url"].rsplit("/", 1)[-1]
    cloud.lab.mirror.fault(name, "wrong_body", times=1)
    refused_download(cloud, template, "checksum_mismatch")
    cloud.settled(cloud.prepare(template, cloud.pool("shared")))


@pytest.mark.parametrize("change", ["changed", "wrong_body"])
def test_content_that_changes_between_ranges_is_never_joined(cloud: Cloud, change: Any) -> None:
    """``changed`` says so by another ETag, ``wrong_body`` keeps silent about it."""
    template = cloud.template()
    name = template["url"].rsplit("/", 1)[-1]
    cloud.lab.mirror.fault(name, "drop", at=8 * MEBIBYTE, times=1)
    cloud.lab.mirror.fault(name, change, skip=1)
    refused_download(cloud, template, "checksum_mismatch")


def test_other_content_than_the_first_copys_is_refused(cloud: Cloud) -> None:
    template = cloud.template(cloud.serve(), checksum="")
    cloud.settled(cloud.prepare(template, cloud.pool("host1-local")))
    name = template["url"].rsplit("/", 1)[-1]
    other = cloud.lab.template.path.read_bytes() + b"\0"
    (cloud.lab.mirror.folder / "files" / name).unlink()
    cloud.lab.mirror.add(name, other)
    refused_download(cloud, template, "content_changed")


# --- images --------------------------------------------------------------------------------------------------------


def qemu_img(*arguments: object) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def plain(folder: Path) -> bytes:
    qemu_img("create", "-f", "qcow2", folder / "plain", "4M")
    return (folder / "plain").read_bytes()


def with_backing_file(folder: Path) -> bytes:
    qemu_img("create", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", folder / "overlay", "4M")
    return (folder / "overlay").read_bytes()


def with_data_file(folder: Path) -> bytes:
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={folder / 'data'},data_file_raw=on", folder / "image", "4M")
    return (folder / "image").read_bytes()


def with_unknown_feature(folder: Path) -> bytes:
    """Incompatible feature bit 60: bytes 72 to 79 of the header, docs/interop/qcow2.txt of QEMU."""
    image = bytearray(plain(folder))
    image[72] |= 1 << 4
    return bytes(image)


def with_huge_size(folder: Path) -> bytes:
    """A virtual size of 1 EiB: bytes 24 to 31 of the header."""
    image = bytearray(plain(folder))
    image[24:32] = (1 << 60).to_bytes(8, "big")
    return bytes(image)


IMAGES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    # What it is, made how, declared as what.
    "a qcow2 with a backing file": (with_backing_file, "qcow2"),
    "a qcow2 with a data file": (with_data_file, "qcow2"),
    "a qcow2 with an unknown feature": (with_unknown_feature, "qcow2"),
    "a qcow2 of 1 EiB": (with_huge_size, "qcow2"),
    "a raw image that is a qcow2": (plain, "raw"),
    "a qcow2 that is not one": (lambda _folder: b"not an image at all" * 4096, "qcow2"),
}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_refused_when_its_url_is_looked_at(cloud: Cloud, tmp_path: Path, image: str) -> None:
    make, declared = IMAGES[image]
    url = cloud.lab.mirror.url(cloud.serve(make(tmp_path)))
    operation = cloud.settled(cloud.register(url, format=declared), state="failed")
    assert_refused(operation["error"], "image_refused", "image_too_large")
    template = cloud.client.get(cloud.target(operation))
    assert template["state"] == "failed"
    # What is wrong with the image is wrong from everywhere.
    assert len(template["error"]["hosts"]) == 1


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_that_turned_bad_is_refused_before_qemu_opens_it(cloud: Cloud, tmp_path: Path, image: str) -> None:
    make, declared = IMAGES[image]
    name = cloud.serve(bytes(4 * MEBIBYTE) if declared == "raw" else plain(tmp_path))
    template = cloud.template(name, format=declared, checksum="")
    cloud.lab.mirror.add(name, make(tmp_path))
    refused_download(cloud, template, "image_refused", "image_too_large")


# --- pools ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_pool(cloud: Cloud) -> Iterator[str]:
    """The name of a pool with less room than the tiny guest needs."""
    folder = cloud.lab.dir / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=True)
    body = {"name": "small", "zone": cloud.zone, "type": "shared", "path": str(folder)}
    cloud.lab.pools.append(cloud.client.post("storage-pools/", body))
    for host in cloud.lab.hosts:
        cloud.wait_pings(host.name, 2)
    yield "small"
    subprocess.run(["umount", folder], check=True)


def test_a_full_pool_refuses_and_keeps_nothing(cloud: Cloud, small_pool: str) -> None:
    template = cloud.template()
    refused_download(cloud, template, "pool_full", pool=small_pool)
    assert "small" in cloud.placement(template, cloud.pool(small_pool))["error"]["cause"]
