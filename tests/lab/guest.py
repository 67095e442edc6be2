"""The tiny guest: a bootable qcow2 of some 20 MB, built once a recipe and kept in the user's cache.

A FAT disk without partitions holds syslinux, the kernel of Debian's cloud image and an initramfs of busybox, the
virtio modules and qemu-ga. Nothing is installed on the machine for it: the kernel's package is only unpacked.
"""

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

VIRTUAL_SIZE_BYTES = 64 * 1024**2
READY_LINE = "cloudctl guest: ready"
AGENT_CHANNEL = "org.qemu.guest_agent.0"

# The virtio order matters to the kernel; what each one needs itself is added in front of it by _module_order().
MODULES = (
    *("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk"),
    *("virtio_console", "failover", "net_failover", "virtio_net", "virtio_scsi"),
    *("sr_mod", "isofs", "nls_cp437", "nls_ascii", "nls_utf8", "vfat", "button", "evdev"),
)

INIT = r"""#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in $(cat /lib/modules/order); do
    # A drive that is looked for in the background may not be there yet when the seed is wanted.
    [ $module = scsi_mod ] && insmod /lib/modules/$module.ko scan=sync || insmod /lib/modules/$module.ko
done
# The drive's own driver is asynchronous too: where there is a drive, it is waited for, three seconds at most.
for drive in /sys/class/scsi_device/*; do
    [ -e "$drive" ] || continue
    tries=300
    while [ ! -b /dev/sr0 ] && [ $tries -gt 0 ]; do usleep 10000; tries=$((tries - 1)); done
done

say() { echo "cloudctl guest: $*" > /dev/ttyS0; }

mkdir -p /dev/virtio-ports /var/run /data /seed /root/.ssh
for port in /sys/class/virtio-ports/*; do
    [ -e "$port/name" ] && ln -sf "/dev/${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
done
for card in /sys/class/net/eth*; do
    [ -e "$card" ] && ip link set "${card##*/}" up
done

# One disk may carry a seed (the whole of it, or its first partition); the first other one is for data.
seed=$(findfs LABEL=cidata 2>/dev/null || findfs LABEL=CIDATA 2>/dev/null)
data=
for disk in /dev/vd[b-z]; do
    [ -b "$disk" ] && [ "$disk" != "${seed%1}" ] && [ -z "$data" ] && data=$disk
done
if [ -n "$data" ]; then
    # Only an empty disk is formatted: what is on it must be there again after a reboot or a revert.
    [ -n "$(head -c 65536 "$data" | tr -d '\0')" ] || mke2fs -F "$data" > /dev/null
    mount -t ext4 "$data" /data || data=
fi

acpid -d -l /dev/null > /dev/null 2>&1 &
qemu-ga -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /var/run > /var/run/qemu-ga.log 2>&1 &
say ready

if [ -n "$seed" ] && mount -o ro "$seed" /seed; then
    cat /seed/user-data /seed/meta-data 2>/dev/null | grep -oE '(ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/=]+.*' \
        | sed 's/"[],]*$//' > /root/.ssh/authorized_keys
    say "seed: $(wc -l < /root/.ssh/authorized_keys) ssh keys"
    if [ "$(head -c 2 /seed/user-data)" = '#!' ]; then
        cp /seed/user-data /var/run/user-data
        chmod 700 /var/run/user-data
        /var/run/user-data > /dev/ttyS0 2>&1
        say "seed: user-data left with $?"
    fi
fi

count=$([ -n "$data" ] && tail -n 1 /data/counter 2>/dev/null)
while :; do
    count=$((${count:-0} + 1))
    [ -n "$data" ] && { echo "$count" >> /data/counter; sync /data/counter; }
    sleep 1
done
"""

# qemu-ga's guest-shutdown runs this program; a power button pressed over ACPI ends here too.
SHUTDOWN = """#!/bin/sh
sync
case "$*" in *-r*) exec reboot -f ;; *) exec poweroff -f ;; esac
"""

SYSLINUX = """DEFAULT guest
LABEL guest
  KERNEL vmlinuz
  INITRD initrd.gz
  APPEND console=ttyS0 quiet loglevel=3 panic=1 tsc=reliable no_timer_check
"""


@dataclass(frozen=True)
class Template:
    """A bootable qcow2 file; `sha256` is of the file, `virtual_size_bytes` is what a guest sees."""

    path: Path
    sha256: str
    virtual_size_bytes: int

    @property
    def checksum(self) -> str:
        """The checksum as the API takes it: `{SHA-256}` and the hexadecimal digest."""
        return "{SHA-256}" + self.sha256


def cache_dir() -> Path:
    """Where built guests and QEMU's probed capabilities are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cloudctl"


def template() -> Template:
    """The guest, built if this recipe was not built yet (20 s, needs the package mirror); else taken from the cache."""
    kernel = _kernel_package()
    path = cache_dir() / f"guest-{_recipe_digest(kernel)}.qcow2"
    if not path.exists():
        _build(kernel, path)
    return Template(path, _file_sha256(path), VIRTUAL_SIZE_BYTES)


def _kernel_package() -> tuple[str, str]:
    """Name and version of the newest cloud kernel the package lists know; they are fetched if they know none."""
    kernel = _known_kernel()
    if kernel is None:
        _run(["apt-get", "update", "-qq"])
        kernel = _known_kernel()
    if kernel is None:
        raise RuntimeError(
            "The package lists name no linux-image-cloud-amd64, so the guest has no kernel; "
            "add Debian's main archive to the apt sources."
        )
    return kernel


def _known_kernel() -> tuple[str, str] | None:
    shown = subprocess.run(
        ["apt-cache", "show", "--no-all-versions", "linux-image-cloud-amd64"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    found = re.search(r"^Depends: (linux-image-\S+) \(= ([^)]+)\)", shown, re.MULTILINE)
    return (found[1], found[2]) if found else None


def _recipe_digest(kernel: tuple[str, str]) -> str:
    digest = hashlib.sha256()
    parts = [INIT, SHUTDOWN, SYSLINUX, " ".join(MODULES), str(VIRTUAL_SIZE_BYTES), *kernel]
    for part in parts:
        digest.update(part.encode() + b"\0")
    for program in (_program("busybox"), _program("qemu-ga")):
        digest.update(_file_sha256(program).encode())
    return digest.hexdigest()[:16]


def _build(kernel: tuple[str, str], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="guest-build-", dir=target.parent) as folder:
        work = Path(folder)
        unpacked = _unpack_kernel(kernel, work)
        (work / "initrd.gz").write_bytes(gzip.compress(_initramfs(unpacked, work / "root"), mtime=0))
        (work / "syslinux.cfg").write_text(SYSLINUX)
        (vmlinuz,) = unpacked.glob("boot/vmlinuz-*")
        image = work / "disk.img"
        _make_disk(image, {"vmlinuz": vmlinuz, "initrd.gz": work / "initrd.gz", "syslinux.cfg": work / "syslinux.cfg"})
        built = work / "guest.qcow2"
        _run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", str(image), str(built)])
        # Two labs may build at once: each publishes a whole file, and both are right.
        built.rename(target)


def _unpack_kernel(kernel: tuple[str, str], work: Path) -> Path:
    download = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", "=".join(kernel)]
    if subprocess.run(download, cwd=work, capture_output=True, check=False).returncode != 0:
        # A list older than the archive names a version that is gone.
        _run(["apt-get", "update", "-qq"])
        name, _ = _kernel_package()
        _run([*download[:-1], name], cwd=work)
    (package,) = work.glob("*.deb")
    _run(["dpkg", "-x", str(package), str(work / "kernel")])
    return work / "kernel"


def _initramfs(kernel: Path, root: Path) -> bytes:
    for folder in ("bin", "sbin", "dev", "proc", "sys", "lib/modules", "etc/acpi", "tmp", "root"):
        (root / folder).mkdir(parents=True)
    shutil.copy(_program("busybox"), root / "bin/busybox")
    for applet in _output(["busybox", "--list"]).split():
        (root / "bin" / applet).symlink_to("busybox") if applet != "busybox" else None
    _copy_with_libraries(_program("qemu-ga"), root)
    _copy_modules(kernel, root / "lib/modules")
    _script(root / "init", INIT)
    _script(root / "sbin/shutdown", SHUTDOWN)
    (root / "etc/acpi/PWRF").mkdir()
    _script(root / "etc/acpi/PWRF/00000080", SHUTDOWN)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    return subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet", "--reproducible", "-R", "0:0"],
        cwd=root,
        input=names.encode(),
        capture_output=True,
        check=True,
    ).stdout


def _copy_with_libraries(program: Path, root: Path) -> None:
    shutil.copy(program, root / "bin" / program.name)
    for library in re.findall(r"(/\S+) \(0x", _output(["ldd", str(program)])):
        place = root / library.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)


def _copy_modules(kernel: Path, target: Path) -> None:
    files = {path.stem.replace("-", "_"): path for path in kernel.glob("lib/modules/**/*.ko")}
    order = _module_order(MODULES, files)
    for name in order:
        shutil.copy(files[name], target / f"{name}.ko")
    (target / "order").write_text("\n".join(order) + "\n")


def _module_order(wanted: Iterable[str], files: dict[str, Path]) -> list[str]:
    """The wanted modules, each after those its own `depends=` line names (the package carries no modules.dep)."""
    order: list[str] = []

    def add(name: str) -> None:
        if name in order:
            return
        found = re.search(rb"\0depends=([^\0]*)\0", files[name].read_bytes())
        for needed in found[1].decode().split(",") if found and found[1] else ():
            add(needed.replace("-", "_"))
        order.append(name)

    for name in wanted:
        add(name)
    return order


def _make_disk(image: Path, files: dict[str, Path]) -> None:
    with image.open("wb") as disk:
        disk.truncate(VIRTUAL_SIZE_BYTES)
    _run(["mformat", "-i", str(image), "-v", "GUEST", "-h", "64", "-s", "32", "-t", "64", "::"])
    for name, source in files.items():
        _run(["mcopy", "-i", str(image), str(source), f"::{name}"])
    _run(["syslinux", "--install", str(image)])


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _program(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is not installed, so the guest cannot be built; run scripts/install.")
    return Path(found)


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _run(command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} left with {done.returncode}: {done.stderr.strip()}")
