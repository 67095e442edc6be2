"""Whether guests really run under KVM here.

``/dev/kvm`` may open, and even create a machine, on hosts where every guest then dies. So code of a guest is run: a
boot sector that writes 16 to QEMU's ``isa-debug-exit`` device, which ends QEMU with 2 * 16 + 1 = 33.
"""

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Accelerator = Literal["kvm", "tcg"]

PROBE_SECONDS = 5.0
_GUEST_RAN = 33
_BOOT_SECTOR = bytes(
    [
        *(0xBA, 0x01, 0x05),  # mov dx, 0x501
        *(0xB0, 0x10),  # mov al, 16
        0xEE,  # out dx, al
        0xF4,  # hlt
        *(0xEB, 0xFD),  # jmp to the hlt
    ]
).ljust(510, b"\0") + bytes([0x55, 0xAA])


@dataclass(frozen=True, slots=True)
class Acceleration:
    """What this host's guests run on when nothing else is asked for, and why."""

    accelerator: Accelerator
    reason: str


def probe_kvm(qemu: str = "qemu-system-x86_64", accelerator: Accelerator = "kvm") -> Acceleration:
    """Run the guest code once (0.1 s where it works, at most :data:`PROBE_SECONDS`).

    ``accelerator`` is what the code is tried on; anything but KVM is for the probe's own test.
    """
    with tempfile.TemporaryDirectory(prefix="cloudctl-kvm-") as folder:
        image = Path(folder) / "boot.img"
        image.write_bytes(_BOOT_SECTOR)
        failure = _run(qemu, accelerator, image)
    if failure is None:
        return Acceleration(accelerator, f"a guest ran under {accelerator.upper()}")
    return Acceleration("tcg", f"plain emulation, because {failure}")


def _run(qemu: str, accelerator: Accelerator, image: Path) -> str | None:
    """Why the guest did not run; None when it did."""
    machine = ["-M", "pc", "-m", "16", "-display", "none", "-monitor", "none", "-serial", "none", "-nodefaults"]
    exit_device = ["-no-reboot", "-device", "isa-debug-exit,iobase=0x501,iosize=1"]
    drive = ["-drive", f"file={image},format=raw,snapshot=on"]
    command = [qemu, "-accel", accelerator, "-cpu", "max", *machine, *exit_device, *drive]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"a guest under {accelerator.upper()} did nothing for {PROBE_SECONDS:g} s"
    except OSError as error:
        return f"{qemu} cannot be started: {error.strerror}"
    if done.returncode == _GUEST_RAN:
        return None
    said = done.stderr.strip().splitlines()
    return f"QEMU with {accelerator.upper()} ended with {done.returncode}: {said[0] if said else 'it said nothing'}"
