"""The lab as its user sees it: what he asks for, what he waits for."""

from typing import Any
from uuid import uuid4

from tests.lab.lab import Lab
from tests.lab.mirror_server import Request
from tests.lab.waiting import poll

MEBIBYTE = 1 << 20
GUEST_BYTES = 192 * MEBIBYTE
BOOT_SECONDS = 90.0
"""For up to four guests at once under emulation on two busy cores; alone it takes 6 s."""

Row = dict[str, Any]


class Cloud:
    """One user's requests. Methods named as an action return the operation, which may still be under way."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.client = lab.client
        self.zone = lab.made["zone"]

    # --- templates ---------------------------------------------------------------------------------------------

    def serve(self, content: bytes | None = None) -> str:
        """A name on the mirror that nobody has asked for yet, with this content or the tiny guest."""
        name = f"{uuid4()}.qcow2"
        self.lab.mirror.add(name, self.lab.template.path if content is None else content)
        return name

    def register(self, url: str, **fields: Any) -> Row:
        body = {"name": url.rsplit("/", 1)[-1], "url": url, "format": "qcow2", "zones": "all", **fields}
        operation: Row = self.client.post("templates/", body)
        return operation

    def template(self, name: str | None = None, **fields: Any) -> Row:
        """A template that is ready: of a file of the mirror, or of a copy of the tiny guest nobody asked for yet."""
        checksum = {"checksum": self.lab.template.checksum} if name is None else {}
        url = self.lab.mirror.url(name or self.serve())
        template: Row = self.client.get(self.target(self.settled(self.register(url, **checksum | fields))))
        assert template["state"] == "ready"
        return template

    def pool(self, name: str) -> Row:
        found: Row = next(pool for pool in self.lab.pools if pool["name"] == name)
        return found

    def prepare(self, template: Row, pool: Row) -> Row:
        operation: Row = self.client.post(f"templates/{template['id']}/prepare/", {"pool": pool["id"]})
        return operation

    def placement(self, template: Row, pool: Row) -> Row:
        """The template's row for this pool."""
        rows = self.client.list(f"templates/{template['id']}/placements/")
        found: Row = next(row for row in rows if row["target"] and row["target"]["id"] == pool["id"])
        return found

    def downloads(self, template: Row) -> list[Request]:
        """Requests for the template's whole body, from its beginning; a check asks for a range with an end."""
        name = template["url"].rsplit("/", 1)[-1]
        asked = [request for request in self.lab.mirror.requests(name) if request.method == "GET"]
        return [request for request in asked if request.range in (None, "bytes=0-")]

    # --- VMs ---------------------------------------------------------------------------------------------------

    def deploy(self, template: Row, **fields: Any) -> Row:
        body = {"name": f"vm-{uuid4().hex[:8]}", "cpus": 1, "memory_bytes": GUEST_BYTES}
        operation: Row = self.client.post("vms/", body | {"template": template["id"], "zone": self.zone} | fields)
        return operation

    def vm(self, template: Row, **fields: Any) -> Row:
        """A VM that was deployed."""
        vm: Row = self.client.get(self.target(self.settled(self.deploy(template, **fields))))
        return vm

    def start(self, vm: Row) -> Row:
        operation: Row = self.client.post(f"vms/{vm['id']}/start/")
        return operation

    def stop(self, vm: Row, *, force: bool, **fields: Any) -> Row:
        operation: Row = self.client.post(f"vms/{vm['id']}/stop/", {"force": force, **fields})
        return operation

    def reboot(self, vm: Row, *, force: bool, **fields: Any) -> Row:
        operation: Row = self.client.post(f"vms/{vm['id']}/reboot/", {"force": force, **fields})
        return operation

    def resume(self, vm: Row) -> Row:
        operation: Row = self.client.post(f"vms/{vm['id']}/resume/")
        return operation

    def console(self, vm: Row, **fields: Any) -> Row:
        operation: Row = self.client.post(f"vms/{vm['id']}/console/", fields)
        return operation

    def destroy(self, vm: Row, *, expunge: bool = True) -> Row:
        operation: Row = self.client.delete(f"vms/{vm['id']}/", expunge=str(expunge).lower())
        return operation

    # --- volumes -----------------------------------------------------------------------------------------------

    def create_volume(self, **fields: Any) -> Row:
        body = {"name": f"volume-{uuid4().hex[:8]}", "zone": self.zone, "size_bytes": 32 * MEBIBYTE}
        operation: Row = self.client.post("volumes/", body | fields)
        return operation

    def volume(self, **fields: Any) -> Row:
        """A volume that was created."""
        return self.volume_now(self.settled(self.create_volume(**fields))["target"])

    def volume_now(self, volume: Row) -> Row:
        row: Row = self.client.get(f"volumes/{volume['id']}/")
        return row

    def attach(self, volume: Row, vm: Row) -> Row:
        operation: Row = self.client.post(f"volumes/{volume['id']}/attach/", {"vm": vm["id"]})
        return operation

    def detach(self, volume: Row) -> Row:
        operation: Row = self.client.post(f"volumes/{volume['id']}/detach/")
        return operation

    def resize(self, volume: Row, size_bytes: int) -> Row:
        operation: Row = self.client.post(f"volumes/{volume['id']}/resize/", {"size_bytes": size_bytes})
        return operation

    def delete_volume(self, volume: Row) -> Row:
        operation: Row = self.client.delete(f"volumes/{volume['id']}/")
        return operation

    def booted(self, vm: Row) -> Row:
        """The VM when its guest answers."""
        answering: Row = self.client.wait_vm(vm["id"], BOOT_SECONDS, state="running", guest_agent="answering")
        return answering

    # --- waiting -----------------------------------------------------------------------------------------------

    def settled(self, operation: Row, timeout: float = 60.0, state: str | None = "succeeded") -> Row:
        """The operation when it has ended, as ``state`` (None: in any way)."""
        row: Row = self.client.wait_operation(operation["id"], timeout, state)
        return row

    def target(self, operation: Row) -> str:
        """The path of what an operation is about."""
        return f"{operation['target']['type'].replace('_', '-')}s/{operation['target']['id']}/"

    def commands(self, operation: Row) -> list[Row]:
        """Its commands, the first one first."""
        return sorted(self.client.list("commands/", operation=operation["id"]), key=lambda row: int(row["seq"]))

    def host(self, name: str) -> Row:
        row: Row = self.client.find("hosts/", name=name)
        return row

    def set(self, name: str, value: object) -> None:
        self.client.put(f"settings/{name}/", {"value": value})

    def alarms(self, kind: str, target: str) -> list[Row]:
        """Events of this kind about this object."""
        return list(self.client.list("events/", kind=kind, target=target))

    def wait_pings(self, host: str, count: int = 1, timeout: float = 15.0) -> None:
        """Returns when so many pings of the host have been taken in after this moment."""
        for _ in range(count):
            before = self.host(host)["last_ping"]
            poll(lambda before=before: self.host(host)["last_ping"] != before, timeout, f"a ping of {host}")  # type: ignore[misc]
