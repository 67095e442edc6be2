"""A real libvirt with real QEMU inside this process (``qemu:///embed``): no daemon, no guest system."""

import contextlib
import ctypes
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from agents.hypervisor.connection import Hypervisor
from agents.hypervisor.domain_xml import ChainFile, DiskSpec, DomainSpec
from agents.hypervisor.guest import Guest
from agents.hypervisor.kvm_probe import Acceleration
from tests.lab.guest import cache_dir

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)

QEMU_CONF = """stdio_handler = "file"
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
cgroup_controllers = []
"""


class EmbeddedHypervisor(Hypervisor):
    """Plain emulation, whatever this machine can do: the tests are the same everywhere."""

    acceleration = Acceleration("tcg", "the tests say so")


@contextlib.contextmanager
def embedded_hypervisor() -> Iterator[EmbeddedHypervisor]:
    """libvirt allows one a process."""
    # Short: sockets lie below it.
    root = Path(tempfile.mkdtemp(prefix="cchv", dir="/tmp"))
    (root / "etc").mkdir()
    (root / "etc/qemu.conf").write_text(QEMU_CONF)
    # Probing QEMU takes seconds, once a machine; kept where the lab keeps it.
    kept, probed = cache_dir() / "qemu-capabilities", root / "cache/qemu/capabilities"
    if kept.is_dir():
        shutil.copytree(kept, probed)
    hypervisor = EmbeddedHypervisor(f"qemu:///embed?root={root}")
    hypervisor.connection().getVersion()
    shutil.copytree(probed, kept, dirs_exist_ok=True)
    try:
        with _reaping(root / "run/qemu"):
            yield hypervisor
            for guest in Guest.all(hypervisor):
                guest.force_off()
    finally:
        shutil.rmtree(root)


@contextlib.contextmanager
def _reaping(pid_files: Path) -> Iterator[None]:
    """libvirt waits for the processes that it ends, and some machines' first process is slow to reap them."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    done = threading.Event()
    thread = threading.Thread(target=_reap, args=(pid_files, done))
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _reap(pid_files: Path, done: threading.Event) -> None:
    while not done.wait(0.02):
        for file in pid_files.glob("*.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.waitpid(int(file.read_text()), os.WNOHANG)


def small_spec(folder: Path, *chain: ChainFile, **changes: object) -> DomainSpec:
    """A machine of 64 MiB without a system, its console in ``folder``."""
    fields: dict[str, object] = {
        "vm_id": str(uuid.uuid4()),
        "accelerator": "tcg",
        "cpus": 1,
        "memory_mib": 64,
        "disks": (DiskSpec("vda", chain),) if chain else (),
        "console_path": str(folder / "console.log"),
        **changes,
    }
    return DomainSpec(**fields)  # type: ignore[arg-type]
