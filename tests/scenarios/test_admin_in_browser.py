"""The main job as an operator does it, in a browser, and the pages as they are on a phone and without scripts."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.lab.browser import DESKTOP, PHONE, Browser
from tests.scenarios.cloud import BOOT_SECONDS, Cloud

READY = "cloudctl guest: ready"
PAGES = (
    "/admin/",
    "/admin/operations_app/operation/",
    "/admin/compute_app/vm/",
    "/admin/compute_app/vm/do/deploy/",
    "/admin/infra_app/host/",
    "/admin/infra_app/storagepool/",
    "/admin/templates_app/template/do/register/",
    "/admin/core_app/event/",
    "/admin/core_app/setting/",
)


@pytest.fixture
def desk(cloud: Cloud) -> Iterator[Browser]:
    """A browser with an admin logged in."""
    with Browser(cloud.lab.servers[0].url) as browser:
        browser.log_in(cloud.lab.made["admin_user"], cloud.lab.made["admin_password"])
        yield browser


def test_the_main_job_is_done_in_the_browser(cloud: Cloud, desk: Browser) -> None:
    name, file = f"guest-{uuid4().hex[:8]}", cloud.serve()
    desk.open("/admin/")
    desk.wait_text("hosts up", 10)

    desk.open("/admin/templates_app/template/do/register/")
    desk.fill(name=name, url=cloud.lab.mirror.url(file), format="qcow2", checksum=cloud.lab.template.checksum)
    desk.press("Register template")
    desk.wait_text("Download to a pool", 30)  # the button of a ready template

    cloud.lab.mirror.fault(file, "throttle", rate=4_000_000)
    desk.press("Download to a pool")
    desk.fill(pool=cloud.lab.pools[0]["name"])
    desk.press("Download to a pool")
    desk.wait_text(" MiB of ", 30)
    cloud.lab.mirror.heal()
    desk.wait_text("100 %", 60)

    desk.open("/admin/compute_app/vm/do/deploy/")
    desk.fill(name=name, template=name, memory_bytes="192 MiB", pool=cloud.lab.pools[0]["name"])
    desk.press("Deploy VM")
    desk.wait_text("Power off", 60)  # the button of a running VM
    desk.wait_text("answering", BOOT_SECONDS)
    desk.press("Read console")
    desk.wait_text(READY, 30)

    desk.press("Expunge")
    desk.wait_text("removed, for good", 10)
    desk.press("Expunge")
    desk.wait_text("succeeded", 60)
    desk.press(name)
    desk.wait_text("expunged", 10)
    assert desk.complaints() == []


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_pages_fit_and_their_console_is_silent(desk: Browser, size: tuple[int, int]) -> None:
    desk.resize(size)
    for path in PAGES:
        desk.open(path)
        assert desk.evaluate("return document.documentElement.scrollWidth") <= size[0], path
        assert desk.complaints() == [], path


def test_everything_is_there_without_scripts(cloud: Cloud) -> None:
    with Browser(cloud.lab.servers[0].url, scripts=False, size=PHONE) as browser:
        browser.log_in(cloud.lab.made["admin_user"], cloud.lab.made["admin_password"])
        assert "Needs a person" in browser.text or "Nothing needs a person" in browser.text
        for path in PAGES:
            browser.open(path)
            assert len(browser.text) > 50, path
        name = f"zone-{uuid4().hex[:8]}"
        browser.open("/admin/infra_app/zone/do/create/")
        browser.fill(name=name)
        browser.press("New zone")
        browser.wait_text(name, 10)
