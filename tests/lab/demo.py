"""The main job, told as it happens: a template straight onto primary storage, a VM from it, a guest that answers."""

import argparse
import signal
import sys
import threading
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from tests.lab.client import SETTLED, ApiError, Client
from tests.lab.lab import KEEP, TEMPLATE, Lab
from tests.lab.waiting import poll

MIB = 1024**2
_DOWNLOAD_SECONDS = 120.0
_DEPLOY_SECONDS = 180.0
_GUEST_SECONDS = 180.0
_CONSOLE_LINES = 12
_MIRROR_RATE = 4 * MIB
_PING_SECONDS = 2.0

console = Console(highlight=False, soft_wrap=True)


class NotDoneError(Exception):
    """A step of the story failed; the text says cause, consequence, remedy."""


def main() -> int:
    """Exit code 0 only if the guest answered. Without `--exit` all stays up until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="cloudctl on this machine, from nothing to a VM.")
    parser.add_argument("--exit", action="store_true", help="leave when the VM has answered")
    leave = parser.parse_args().exit
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(130))
    console.print("[bold]cloudctl[/bold]: a libvirt host, a mirror, a broker, a management server, an agent …")
    started = time.monotonic()
    with Lab(hosts=1, ping_interval=_PING_SECONDS) as lab:
        console.print(f"All of it answers after {time.monotonic() - started:.0f} s.")
        try:
            tell(lab)
        except (ApiError, NotDoneError, TimeoutError) as error:
            console.print(
                f"{error}\nThe logs are in {lab.log_dir}; set {KEEP}=1 to keep them when this ends.", style="red"
            )
            return 1
        if not leave:
            console.print("Ctrl-C stops it all.")
            threading.Event().wait()
    return 0


def tell(lab: Lab) -> None:
    """Template, VM, guest; then where to look."""
    client = lab.client
    template = register(client, lab)
    vm = deploy(client, lab, template)
    wait_guest(client, vm)
    show_console(lab)
    server = lab.servers[0]
    console.print(f"\nAdmin site: [bold]{server.url}/admin/[/bold]")
    console.print(f"  user {lab.made['admin_user']}, password {lab.made['admin_password']}")
    console.print(f"API: {server.url}/api/docs/, header `Authorization: Token {lab.made['token']}`")


def register(client: Client, lab: Lab) -> dict[str, Any]:
    """Registers the template: nothing is downloaded yet."""
    size = lab.template.path.stat().st_size
    console.print(f"\n[bold]1.[/bold] Register a template of {size / MIB:.0f} MiB by its URL, {lab.template_url}")
    body = {
        "name": "tiny guest",
        "url": lab.template_url,
        "format": "qcow2",
        "zones": [lab.made["zone"]],
        "checksum": lab.template.checksum,
        "direct_download": True,
    }
    answer = client.post("templates/", body)
    template = answer["target"]["id"]
    row: dict[str, Any] = client.wait(
        f"templates/{template}/", lambda row: row["state"] in ("ready", "failed"), _DOWNLOAD_SECONDS
    )
    if row["state"] != "ready":
        raise NotDoneError(f"The template cannot be used: {row['error']}")
    console.print("   A host has looked at the URL: the template is ready, and not one byte of it is stored.")
    return row


def deploy(client: Client, lab: Lab, template: dict[str, Any]) -> str:
    """Deploys a VM, which downloads the template straight onto its pool; returns the VM's id."""
    console.print("\n[bold]2.[/bold] Deploy a VM: the host downloads the template onto its own pool and starts it")
    console.print(f"   (the mirror is slowed down to {_MIRROR_RATE // MIB} MiB/s, so that there is something to see)")
    lab.mirror.fault(TEMPLATE, "throttle", rate=_MIRROR_RATE)
    body = {
        "name": "first",
        "template": template["id"],
        "zone": lab.made["zone"],
        "cpus": 1,
        "memory_bytes": 192 * MIB,
        "data_disks": [{"size_bytes": 64 * MIB}],
        "pool": lab.pools[0]["id"],
    }
    operation = client.post("vms/", body)
    done = watch(client, template["id"], operation["id"])
    if done["state"] != "succeeded":
        raise NotDoneError(f"The deployment {done['state']}: {done['error']}")
    return str(done["target"]["id"])


def watch(client: Client, template: str, operation: str) -> dict[str, Any]:
    """Shows the download's bytes and the deployment's steps until nothing more happens to it."""
    columns = (
        TextColumn("   {task.description:<24}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=console) as bars:
        download = bars.add_task("download", total=100, note="")
        deployment = bars.add_task("deployment", total=100, note="")

        def look() -> dict[str, Any] | None:
            row: dict[str, Any] = client.get(f"operations/{operation}/")
            for placement in client.list(f"templates/{template}/placements/"):
                if placement["kind"] == "pool":
                    bars.update(download, completed=placement["percent"], note=_rate(placement["progress"] or {}))
            bars.update(deployment, completed=row["percent"], note=row["step"] or row["state"])
            return row if row["state"] in SETTLED else None

        return poll(look, _DEPLOY_SECONDS, "the deployment ends")


def _rate(progress: dict[str, Any]) -> str:
    done, rate = progress.get("done_bytes") or 0, progress.get("rate") or 0
    return f"{done / MIB:.1f} MiB, {rate / MIB:.1f} MiB/s" if done else ""


def wait_guest(client: Client, vm: str) -> None:
    """Waits until the guest's own agent answers: then it has booted for sure."""
    console.print("\n[bold]3.[/bold] Wait for the guest: it boots from its disk, and its agent has to answer")
    started = time.monotonic()
    client.wait_vm(vm, _GUEST_SECONDS, guest_agent="answering")
    row = client.get(f"vms/{vm}/")
    console.print(f"   The guest answered after {time.monotonic() - started:.0f} s; the VM is {row['state']}.")


def show_console(lab: Lab) -> None:
    """The last lines of the VM's serial console, from the host's file."""
    console.print("\nThe last lines of its serial console:")
    for file in sorted((lab.hosts[0].state_dir / "console").iterdir()):
        for line in file.read_text(errors="replace").splitlines()[-_CONSOLE_LINES:]:
            console.print(f"   | {line}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
