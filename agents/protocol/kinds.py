"""Every kind of command: its payload, its answer, its evidence, and how it behaves.

One table, :data:`KINDS`, read by both sides. Sizes are bytes, times are seconds, paths are absolute.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ImageFormat = Literal["qcow2", "raw", "iso"]


class Data(BaseModel):
    """Base of all messages: immutable. Unknown fields are ignored: a neighbour one version ahead is understood."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class WorkClass(StrEnum):
    """Kinds of one class share a limit on how many run at once on an agent."""

    DOWNLOAD = "download"
    DISK = "disk"
    SHORT = "short"


class OnStop(StrEnum):
    """What happens to a running command when its agent is told to stop."""

    HAND_OVER = "hand_over"
    """QEMU or libvirtd carries it on alone; it is followed after the start."""
    INTERRUPT = "interrupt"
    """Our own work stops at the next step and is marked INTERRUPTED."""


# --- template ------------------------------------------------------------------------------------------------------


class Source(Data):
    """Where an image comes from. ``secret_headers`` travel in the envelope's sealed part, never here."""

    url: str
    headers: dict[str, str] = Field(default_factory=dict)
    follow_redirects: bool = True
    format: ImageFormat
    checksum: str | None = None
    """``{ALG}hex`` as the user gave it."""


class DownloadLimits(Data):
    """Bounds of one download; the settings ``download.*`` of the server."""

    connect_timeout_seconds: float = 10
    read_timeout_seconds: float = 30
    stall_bytes_per_second: int = 1024
    stall_seconds: float = 60
    total_timeout_seconds: float = 10800
    allowed_networks: tuple[str, ...] = ()
    """Networks (CIDR) that are reachable although private or loopback."""


class TemplateCheck(Data):
    """Can this host reach the URL, and does the body look like the declared format?"""

    template_id: str
    source: Source
    limits: DownloadLimits


class TemplateCheckAnswer(Data):
    size_bytes: int
    """-1 when the server does not say."""
    virtual_size_bytes: int
    """What a guest sees; equals the size for raw and ISO."""
    resumable: bool


class TemplateDownload(Data):
    """Download into a pool: verified, inspected, then under its final name at once."""

    template_id: str
    pool_id: str
    pool_path: str
    file_name: str
    """Final name inside the pool."""
    source: Source
    limits: DownloadLimits
    pinned_sha256: str | None = None
    """Hash of the first verified copy of this template; other bytes are refused as changed content."""
    max_virtual_size_bytes: int = 1 << 50


class TemplateDownloadAnswer(Data):
    path: str
    size_bytes: int
    virtual_size_bytes: int
    sha256: str
    resumed_from_bytes: int = 0
    """Offset at which this attempt went on; 0 when it began anew."""


class TemplateDownloadEvidence(Data):
    """``final`` is only set when the file under the final name is the verified one (its hash is journaled)."""

    final: TemplateDownloadAnswer | None = None
    unverified_final: bool = False
    """A file is under the final name, but no journal says that it was verified."""
    verified_offset: int = 0
    """Bytes on disk from which a redo goes on."""
    temporary_files: tuple[str, ...] = ()


class TemplateRemove(Data):
    """Remove a template's file from a pool, with everything an unfinished download left there."""

    template_id: str
    pool_path: str
    file_name: str
    keep_final: bool = False
    """Remove only what is unfinished: who made the final file is not known."""


class RemoveAnswer(Data):
    removed: tuple[str, ...] = ()


class RemoveEvidence(Data):
    left: tuple[str, ...] = ()
    """Files that are still there."""


# --- volume --------------------------------------------------------------------------------------------------------


class ImageFile(Data):
    """One file of a disk's chain, as the database records it."""

    path: str
    format: Literal["qcow2", "raw"]


class VolumeCreate(Data):
    """Make an empty qcow2 volume, or an overlay when ``backing`` is given."""

    volume_id: str
    pool_path: str
    file_name: str
    virtual_size_bytes: int
    backing: ImageFile | None = None


class VolumeCreateAnswer(Data):
    path: str
    virtual_size_bytes: int
    allocated_bytes: int


class VolumeCreateEvidence(Data):
    final: VolumeCreateAnswer | None = None
    """The file under its final name, when size, format and backing are exactly as asked."""
    mismatch: str = ""
    """Why a file under the final name is not the one that was asked for."""
    temporary_files: tuple[str, ...] = ()


class VolumeRemove(Data):
    """Remove a volume's files (and temporary ones of its unfinished creation)."""

    volume_id: str
    pool_path: str
    file_names: tuple[str, ...]
    keep_final: bool = False
    """Remove only what is unfinished: who made the final files is not known."""


class VolumeResize(Data):
    """Let a volume grow: in the running VM that has it, else in its file. It never shrinks."""

    volume_id: str
    vm_id: str | None
    """The VM that may run with it on this host."""
    chain: tuple[ImageFile, ...]
    """As in :class:`Disk`; the first file grows."""
    virtual_size_bytes: int
    """A multiple of 512."""


class VolumeResizeAnswer(Data):
    virtual_size_bytes: int
    live: bool
    """A running guest was told of it."""


class VolumeResizeEvidence(Data):
    virtual_size_bytes: int
    """As QEMU says where it has the volume open, else as the file's header says."""
    live: bool = False


class SeedCreate(Data):
    """Make a VM's cloud-init seed (NoCloud), a small ISO; user data and SSH keys travel in the sealed part."""

    vm_id: str
    pool_path: str
    file_name: str
    local_hostname: str


class SeedCreateAnswer(Data):
    path: str


class SeedCreateEvidence(Data):
    path: str = ""
    """Where the seed lies; empty when it does not. Under its final name it is whole."""
    refused: str = ""
    """Why what has the final name is no seed."""


# --- vm ------------------------------------------------------------------------------------------------------------


class Disk(Data):
    """A disk of a VM; ``chain[0]`` is the file the guest writes to, then its backing files, downwards."""

    volume_id: str
    target: str
    """Device name in the guest: ``vda``, ``vdb``, …"""
    chain: tuple[ImageFile, ...]
    read_only: bool = False


class VolumeAttach(Data):
    """Give a running VM another disk. One that is off gets it with its next start: nothing is to be done here."""

    vm_id: str
    disk: Disk


class VolumeDetach(Data):
    """Take a disk from a running VM: its guest is asked to let go, and is waited for."""

    vm_id: str
    volume_id: str
    timeout_seconds: int = 30


class DiskAnswer(Data):
    live: bool
    """A running VM was changed; false where it was off."""


class DiskEvidence(Data):
    """What libvirt says of one volume in the domain with the VM's UUID."""

    power_state: Literal["running", "paused", "off"]
    reason: str = ""
    attached: bool = False
    mismatch: str = ""
    """How the disk that it has is not the one that was asked for."""


class Nic(Data):
    """A network card of a VM; ``source`` is the host's bridge, or its libvirt network, by name."""

    mac: str
    kind: Literal["bridge", "libvirt"]
    source: str


class VmStart(Data):
    """Define and start a transient domain. A domain of this UUID that already runs as described counts as done."""

    vm_id: str
    name: str
    cpus: int
    memory_bytes: int
    disks: tuple[Disk, ...]
    console_name: str
    """File name of the serial console's log, in the host's console folder."""
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    seed_path: str = ""
    """An ISO that the guest has as a CD-ROM; empty: none."""
    nics: tuple[Nic, ...] = ()


class VmStartAnswer(Data):
    power_state: Literal["running"] = "running"
    accelerator: str


class VmEvidence(Data):
    """What libvirt says of the domain with the VM's UUID."""

    power_state: Literal["running", "paused", "off", "unknown"]
    reason: str = ""
    accelerator: str = ""


class VmStop(Data):
    """Stop a domain: ``graceful`` asks the guest, ``force`` takes the power away.

    A guest that was asked and still runs after the timeout has its power taken away if ``then_force``, else it runs on.
    """

    vm_id: str
    mode: Literal["graceful", "force"]
    timeout_seconds: int = 60
    then_force: bool = False


class VmStopAnswer(Data):
    power_state: Literal["off"] = "off"
    was_running: bool


class VmReboot(Data):
    """Let a running guest boot anew: ``graceful`` asks it, ``force`` resets its machine.

    A guest that was asked and did not reboot within the timeout is reset if ``then_force``, else it runs on.
    """

    vm_id: str
    mode: Literal["graceful", "force"]
    timeout_seconds: int = 60
    then_force: bool = False


class VmRebootAnswer(Data):
    forced: bool
    """Its machine was reset; else the guest did it itself."""


class VmRebootEvidence(VmEvidence):
    rebooted: bool = False
    """The journal says that it was seen to reboot, or was reset."""
    forced: bool = False


class VmResume(Data):
    """Let a paused guest go on, such as one whose storage had no room."""

    vm_id: str


class VmResumeAnswer(Data):
    power_state: Literal["running"] = "running"


class VmConsole(Data):
    """Read the last lines of a VM's serial console."""

    vm_id: str
    console_name: str
    """As in :class:`VmStart`."""
    lines: int = 100


class VmConsoleAnswer(Data):
    text: str
    """The last lines, the oldest first. Nothing in it is a control character but line ends and tabs."""
    truncated: bool
    """There are older lines than these."""


# --- the table -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of command behaves; read by dispatcher, executor, reconciliation and tests alike."""

    name: str
    payload: type[Data]
    answer: type[Data]
    evidence: type[Data]
    work_class: WorkClass
    deadline_seconds: int
    """From STARTED to the final answer; a setting may change it."""
    point_of_no_return: str
    """The step from which on a cancel comes too late; in words for people."""
    on_stop: OnStop = OnStop.INTERRUPT

    @property
    def task_name(self) -> str:
        """Name of the Celery task that accepts this kind."""
        return f"agents.{self.name}"


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "template.check", TemplateCheck, TemplateCheckAnswer, Data, WorkClass.SHORT, 120, "none: it changes nothing"
        ),
        Kind(
            "template.download",
            TemplateDownload,
            TemplateDownloadAnswer,
            TemplateDownloadEvidence,
            WorkClass.DOWNLOAD,
            10800,
            "the rename to the final name",
        ),
        Kind(
            "template.remove",
            TemplateRemove,
            RemoveAnswer,
            RemoveEvidence,
            WorkClass.SHORT,
            120,
            "the removal of the first file",
        ),
        Kind(
            "volume.create",
            VolumeCreate,
            VolumeCreateAnswer,
            VolumeCreateEvidence,
            WorkClass.DISK,
            600,
            "the rename to the final name",
        ),
        Kind(
            "volume.remove",
            VolumeRemove,
            RemoveAnswer,
            RemoveEvidence,
            WorkClass.DISK,
            600,
            "the removal of the first file",
        ),
        Kind(
            "volume.attach",
            VolumeAttach,
            DiskAnswer,
            DiskEvidence,
            WorkClass.SHORT,
            120,
            "the request to libvirt",
        ),
        Kind(
            "volume.detach",
            VolumeDetach,
            DiskAnswer,
            DiskEvidence,
            WorkClass.SHORT,
            300,
            "the request to the guest",
        ),
        Kind(
            "volume.resize",
            VolumeResize,
            VolumeResizeAnswer,
            VolumeResizeEvidence,
            WorkClass.DISK,
            600,
            "the first change of its size",
        ),
        Kind(
            "seed.create",
            SeedCreate,
            SeedCreateAnswer,
            SeedCreateEvidence,
            WorkClass.SHORT,
            120,
            "the rename to the final name",
        ),
        Kind("vm.start", VmStart, VmStartAnswer, VmEvidence, WorkClass.SHORT, 300, "the start of the domain"),
        Kind("vm.stop", VmStop, VmStopAnswer, VmEvidence, WorkClass.SHORT, 300, "the request to libvirt"),
        Kind("vm.reboot", VmReboot, VmRebootAnswer, VmRebootEvidence, WorkClass.SHORT, 300, "the request to libvirt"),
        Kind("vm.resume", VmResume, VmResumeAnswer, VmEvidence, WorkClass.SHORT, 60, "the request to libvirt"),
        Kind("vm.console", VmConsole, VmConsoleAnswer, Data, WorkClass.SHORT, 60, "none: it changes nothing"),
    )
}
