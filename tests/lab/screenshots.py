"""`scripts/screenshots`: the README's pictures, taken while a lab does the main job."""

from pathlib import Path

from tests.lab.browser import DESKTOP, Browser
from tests.lab.lab import Lab

IMAGES = Path(__file__).parents[2] / "docs" / "images"
_MIB = 1 << 20
_BYTES_A_SECOND = 1_500_000
_TEMPLATE = "debian-12"
_VMS = ("web-1", "web-2", "db-1")


def main() -> None:
    """Writes ``fleet.png`` (the first page) and ``operation.png`` (a download on two lanes)."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with Lab(hosts=2, ping_interval=1.0, reconcile_interval=2.0) as lab, Browser(lab.servers[0].url) as browser:
        browser.log_in(lab.made["admin_user"], lab.made["admin_password"])
        template = _registered(lab)
        for number, name in enumerate(_VMS[:2]):
            lab.client.wait_operation(_deploy(lab, template, name, number))
        lab.mirror.fault(_TEMPLATE, "throttle", rate=_BYTES_A_SECOND)
        _deploy(lab, template, _VMS[2], 2)
        browser.open("/admin/")
        browser.wait_text(" MiB of ", 30)
        _take(browser, "fleet.png")
        (download,) = lab.client.list("operations/", kind="template.download", state="running")
        browser.open(f"/admin/operations_app/operation/{download['id']}/change/")
        browser.wait_text("MiB/s", 30)
        _take(browser, "operation.png")


def _registered(lab: Lab) -> str:
    url = lab.mirror.add(_TEMPLATE, lab.template.path)
    body = {"name": _TEMPLATE, "url": url, "format": "qcow2", "checksum": lab.template.checksum}
    operation = lab.client.post("templates/", body)
    return str(lab.client.wait_operation(operation["id"])["target"]["id"])


def _deploy(lab: Lab, template: str, name: str, pool: int) -> str:
    where = {"zone": lab.made["zone"], "pool": lab.pools[pool]["id"]}
    body = {"name": name, "template": template, "memory_bytes": 192 * _MIB, **where}
    return str(lab.client.post("vms/", body)["id"])


def _take(browser: Browser, name: str) -> None:
    browser.resize((DESKTOP[0], min(int(browser.evaluate("return document.documentElement.scrollHeight")), 1100)))
    browser.screenshot(IMAGES / name)


if __name__ == "__main__":
    main()
