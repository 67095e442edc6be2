"""What ``cloudctl doctor --host`` looks at on the machine that it runs on."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from agents.hypervisor.kvm_probe import probe_kvm
from cloudctl.cli.findings import Finding, bad, doubtful, good
from cloudctl.cli.output import size

ANSWER_SECONDS = 10.0
ROOM_LOW_PERCENT = 10


def look_at_machine(libvirt_uri: str, paths: tuple[Path, ...]) -> Iterator[Finding]:
    """libvirt, qemu-img, KVM, and the room at each path."""
    yield program(
        ["virsh", "--connect", libvirt_uri, "version", "--daemon"],
        "Install libvirt-daemon-system and libvirt-clients, start libvirtd, and use a user that may connect to it.",
    )
    yield program(["qemu-img", "--version"], "Install qemu-utils.")
    yield acceleration("qemu-system-x86_64")
    yield from map(room, paths)


def program(command: list[str], remedy: str) -> Finding:
    """Whether it runs and ends well, with the first line of what it says."""
    shown = " ".join(command)
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return bad(f"{shown} says nothing for {ANSWER_SECONDS:g} s.", remedy)
    except OSError as error:
        return bad(f"{command[0]} cannot be started: {error.strerror}.", remedy)
    said = [line for line in (done.stdout if done.returncode == 0 else done.stderr).splitlines() if line]
    if done.returncode != 0:
        return bad(f"{shown} ended with {done.returncode}: {said[0] if said else 'it said nothing'}", remedy)
    return good(f"{command[0]}: {said[0] if said else 'runs'}")


def acceleration(qemu: str) -> Finding:
    """Whether guest code really runs under KVM here."""
    found = probe_kvm(qemu)
    if found.accelerator == "kvm":
        return good(f"KVM: {found.reason}.")
    return doubtful(
        f"Guests run without KVM: {found.reason}.",
        "Switch virtualization on in the firmware (nested: on the outer host), load kvm_intel or kvm_amd, "
        "and install qemu-system-x86. Without it all works, slowly.",
    )


def room(path: Path) -> Finding:
    """Whether a file system has room left."""
    try:
        usage = shutil.disk_usage(path)
    except OSError as error:
        return bad(f"{path} cannot be looked at: {error.strerror}.", "Correct --room.")
    what = f"{path}: {size(usage.free)} of {size(usage.total)} free."
    if usage.free * 100 < usage.total * ROOM_LOW_PERCENT:
        return bad(what, "Free some room or make the file system larger, before downloads and disks fail.")
    return good(what)
