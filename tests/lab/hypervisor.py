"""Several libvirt hosts on one machine: a virtlogd and a libvirtd each, in a mount namespace of their own.

The namespace is kept by a process of its own, so that a libvirtd that was killed comes back to the same folders. In it
libvirt's fixed paths are folders of the host; everything else of the file system is shared, so a folder that two hosts
use is a shared mount point.
"""

import contextlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import libvirt

from tests.lab.guest import cache_dir
from tests.lab.keeper import Part
from tests.lab.supervisor import Supervisor

_BOUND = {"run": "/run/libvirt", "etc": "/etc/libvirt", "lib": "/var/lib/libvirt", "cache": "/var/cache/libvirt"}
_BOUND |= {"log": "/var/log/libvirt"}
_SOCKET_PATH_BYTES = 107  # sun_path without its final zero, unix(7)
_CONNECT_SECONDS = 30.0

# libvirt prints every error besides raising it.
libvirt.registerErrorHandler(lambda _context, _error: None, None)

# host_uuid: two daemons on one machine otherwise take each other for themselves and refuse to migrate.
LIBVIRTD_CONF = """host_uuid = "{uuid}"
unix_sock_dir = "/run/libvirt"
unix_sock_group = "root"
auth_unix_rw = "none"
auth_unix_ro = "none"
"""

QEMU_CONF = """security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
cgroup_controllers = []
namespaces = []
"""


@dataclass(frozen=True)
class Hypervisor:
    """One libvirt host. Its parts are `libvirtd-NAME` and `virtlogd-NAME`; both can be killed and come back."""

    name: str
    folder: Path
    supervisor: Supervisor

    @property
    def uri(self) -> str:
        """Where libvirt-python connects from outside of the namespace."""
        return f"qemu+unix:///system?socket={self.folder}/run/libvirt-sock"

    @property
    def part(self) -> str:
        """The name of its libvirtd among the supervisor's parts."""
        return f"libvirtd-{self.name}"

    def path(self, inside: str) -> Path:
        """Where a file that libvirt names by one of its own folders lies for everybody else."""
        for name, bound in _BOUND.items():
            if Path(inside).is_relative_to(bound):
                return self.folder / name / Path(inside).relative_to(bound)
        return Path(inside)

    def start(self) -> None:
        """Starts the host and returns when its libvirtd answers and knows what its QEMU can do."""
        self._prepare()
        holder = self.supervisor.start(Part(f"namespace-{self.name}", ["unshare", "-m", "bash", "-c", self._mounts()]))
        log = f"namespace-{self.name}"
        self.supervisor.ready(log, lambda: "mounted" in self.supervisor.log_tail(log), 10)
        # With its root: entering a mount namespace leaves any chroot.
        inside = ["nsenter", f"--mount=/proc/{holder}/ns/mnt", f"--root=/proc/{holder}/root", "--"]
        for daemon in ("virtlogd", "libvirtd"):
            config, pid_file = f"/etc/libvirt/{daemon}.conf", f"/run/libvirt/{daemon}.pid"
            command = [*inside, daemon, "-f", config, "-p", pid_file]
            self.supervisor.start(Part(f"{daemon}-{self.name}", command))
        self.wait_answering()

    def wait_answering(self, timeout: float = _CONNECT_SECONDS) -> None:
        """Returns when libvirtd answers, also after it was killed."""
        self.supervisor.ready(self.part, self._answers, timeout)

    def publish_capabilities(self) -> None:
        """Probing QEMU takes seconds, once a machine: what this host found out is kept for the next ones."""
        kept = _capabilities_cache()
        kept.mkdir(parents=True, exist_ok=True)
        for found in self._capabilities().glob("*.xml"):
            with tempfile.NamedTemporaryFile(dir=kept, prefix=".", delete=False) as copy:
                copy.write(found.read_bytes())
            Path(copy.name).rename(kept / found.name)

    def _prepare(self) -> None:
        if len(f"{self.folder}/run/libvirt-sock-ro") > _SOCKET_PATH_BYTES:
            raise RuntimeError(f"{self.folder} is too long for the path of a socket; give the lab a shorter folder.")
        for name in _BOUND:
            (self.folder / name).mkdir(parents=True)
        uuid = Path("/proc/sys/kernel/random/uuid").read_text().strip()
        (self.folder / "etc/libvirtd.conf").write_text(LIBVIRTD_CONF.format(uuid=uuid))
        (self.folder / "etc/qemu.conf").write_text(QEMU_CONF)
        (self.folder / "etc/virtlogd.conf").write_text("")
        if _capabilities_cache().is_dir():
            shutil.copytree(_capabilities_cache(), self._capabilities())

    def _mounts(self) -> str:
        binds = [f"mkdir -p {bound}; mount --bind '{self.folder}/{name}' {bound}" for name, bound in _BOUND.items()]
        return "; ".join(["set -e", "mount --make-rprivate /", *binds, "echo mounted", "exec sleep infinity"])

    def _capabilities(self) -> Path:
        return self.folder / "cache/qemu/capabilities"

    def _answers(self) -> bool:
        with contextlib.suppress(libvirt.libvirtError):
            connection = libvirt.open(self.uri)
            connection.getCapabilities()
            connection.close()
            return True
        return False


def _capabilities_cache() -> Path:
    return cache_dir() / "qemu-capabilities"
