"""Pure decisions: where a VM goes, what evidence about its commands means, what a look at libvirt means."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from agents.protocol.kinds import (
    Data,
    DiskEvidence,
    RemoveEvidence,
    SeedCreateEvidence,
    VmEvidence,
    VmRebootEvidence,
    VolumeCreateEvidence,
    VolumeResizeEvidence,
)
from operations_app.rules import Judgement, Verdict

# --- where a VM goes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HostRoom:
    """A host that may take a VM. ``free_memory_bytes``: not promised yet."""

    id: UUID
    name: str
    free_memory_bytes: int


@dataclass(frozen=True, slots=True)
class PoolRoom:
    """A pool and the hosts that reach it. ``free_bytes``: the smaller of what is not promised and what is free."""

    id: UUID
    name: str
    free_bytes: int
    host_ids: frozenset[UUID]
    has_template: bool = False


@dataclass(frozen=True, slots=True)
class Need:
    memory_bytes: int
    disk_bytes: int
    template_bytes: int = 0
    """Room for the template where a pool does not have it yet."""


@dataclass(frozen=True, slots=True)
class Place:
    host_id: UUID
    pool_id: UUID


@dataclass(frozen=True, slots=True)
class NoPlace:
    reasons: tuple[str, ...]


def choose_place(hosts: Sequence[HostRoom], pools: Sequence[PoolRoom], need: Need) -> Place | NoPlace:
    """The host with most free memory that fits, with the roomiest pool it reaches; ties by name: it is repeatable."""
    reasons = [f"host {host.name}: {why}" for host in hosts if (why := _lacks_memory(host, need))]
    fitting = [host for host in hosts if not _lacks_memory(host, need)]
    for host in sorted(fitting, key=lambda host: (-host.free_memory_bytes, host.name)):
        reachable = [pool for pool in pools if host.id in pool.host_ids]
        roomy = [pool for pool in reachable if not _lacks_room(pool, need)]
        if roomy:
            best = min(roomy, key=lambda pool: (-pool.free_bytes, pool.name))
            return Place(host.id, best.id)
        reasons += [f"host {host.name}: reaches none of the pools"] if not reachable else []
        reasons += [f"pool {pool.name}: {_lacks_room(pool, need)}" for pool in reachable]
    return NoPlace(tuple(dict.fromkeys(reasons)) or ("no host is up",))


def choose_host(
    hosts: Sequence[HostRoom], pools: AbstractSet[UUID], reached: Mapping[UUID, AbstractSet[UUID]], memory_bytes: int
) -> UUID | NoPlace:
    """The host with most free memory that fits and reaches all ``pools``; ties by name. ``reached``: pools by host."""
    need = Need(memory_bytes=memory_bytes, disk_bytes=0)
    reasons = []
    for host in sorted(hosts, key=lambda host: (-host.free_memory_bytes, host.name)):
        missing = pools - reached.get(host.id, frozenset())
        why = _lacks_memory(host, need) or (missing and f"does not reach {len(missing)} of the VM's pools")
        if not why:
            return host.id
        reasons.append(f"host {host.name}: {why}")
    return NoPlace(tuple(reasons) or ("no host is up",))


def _lacks_memory(host: HostRoom, need: Need) -> str:
    if need.memory_bytes == 0 or host.free_memory_bytes >= need.memory_bytes:
        return ""
    return f"{host.free_memory_bytes} bytes of memory are free, {need.memory_bytes} are needed"


def _lacks_room(pool: PoolRoom, need: Need) -> str:
    needed = need.disk_bytes + (0 if pool.has_template else need.template_bytes)
    return "" if pool.free_bytes >= needed else f"{pool.free_bytes} bytes are free, {needed} are needed"


# --- what a guest is told of itself --------------------------------------------------------------------------------


def hostname_of(name: str, vm_id: UUID) -> str:
    """A host name (RFC 1123, one label) made from a VM's name; where nothing of that can be kept, from its id."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    label = re.sub("[^a-z0-9]+", "-", plain)[:63].strip("-")
    return label or f"vm-{vm_id.hex[:12]}"


# --- verdicts ------------------------------------------------------------------------------------------------------


def judge_volume_create(_payload: Mapping[str, Any], evidence: VolumeCreateEvidence) -> Verdict:
    """The file as asked → done; another file in its place → a person's matter; else again."""
    if evidence.final is not None:
        return Verdict(Judgement.DONE, "the file is as asked", evidence.final.model_dump())
    if evidence.mismatch:
        return Verdict(Judgement.UNDONE, evidence.mismatch)
    return Verdict(Judgement.REDO, "the file is not there")


def judge_volume_remove(_payload: Mapping[str, Any], evidence: RemoveEvidence) -> Verdict:
    """Nothing left → done; else forward again: removing has no way back."""
    if not evidence.left:
        return Verdict(Judgement.DONE, "nothing is left", {"removed": []})
    return Verdict(Judgement.REDO, f"{len(evidence.left)} files are left")


def judge_volume_attach(_payload: Mapping[str, Any], evidence: DiskEvidence) -> Verdict:
    """The VM has it, or is off and has it with its next start → done; has it otherwise → a person's matter."""
    if evidence.mismatch:
        return Verdict(Judgement.RETRY, evidence.mismatch)
    if evidence.attached:
        return Verdict(Judgement.DONE, "the VM has the disk", {"live": True})
    if evidence.power_state == "off":
        return Verdict(Judgement.DONE, "the domain is off", {"live": False})
    return Verdict(Judgement.REDO, "the VM does not have the disk")


def judge_volume_detach(_payload: Mapping[str, Any], evidence: DiskEvidence) -> Verdict:
    """The VM has it no more, or is off → done; else the guest is asked again."""
    if evidence.attached:
        return Verdict(Judgement.REDO, "the guest has not let go of the disk")
    live = evidence.power_state != "off"
    return Verdict(Judgement.DONE, "the VM does not have the disk" if live else "the domain is off", {"live": live})


def judge_volume_resize(payload: Mapping[str, Any], evidence: VolumeResizeEvidence) -> Verdict:
    """Exactly the size that was asked for → done; else again: the agent itself refuses to shrink, and says why."""
    if evidence.virtual_size_bytes == payload["virtual_size_bytes"]:
        return Verdict(Judgement.DONE, "it has the size that was asked for", evidence.model_dump())
    return Verdict(Judgement.REDO, f"it has {evidence.virtual_size_bytes} bytes")


def judge_seed_create(_payload: Mapping[str, Any], evidence: SeedCreateEvidence) -> Verdict:
    """There → done; something else under its name → a person's matter; else again."""
    if evidence.path:
        return Verdict(Judgement.DONE, "the seed is there", {"path": evidence.path})
    if evidence.refused:
        return Verdict(Judgement.UNDONE, evidence.refused)
    return Verdict(Judgement.REDO, "the seed is not there")


def judge_vm_start(_payload: Mapping[str, Any], evidence: VmEvidence) -> Verdict:
    """Running or paused (by an I/O error, say) → done; off → again."""
    if evidence.power_state in ("running", "paused"):
        answer = {"power_state": "running", "accelerator": evidence.accelerator}
        return Verdict(Judgement.DONE, f"the domain is {evidence.power_state}", answer)
    if evidence.power_state == "off":
        return Verdict(Judgement.REDO, "the domain does not run")
    return Verdict(Judgement.RETRY, evidence.reason or "libvirt does not say")


def judge_vm_stop(_payload: Mapping[str, Any], evidence: VmEvidence) -> Verdict:
    """Off → done; running → again."""
    if evidence.power_state == "off":
        return Verdict(Judgement.DONE, "the domain is off", {"power_state": "off", "was_running": True})
    if evidence.power_state in ("running", "paused"):
        return Verdict(Judgement.REDO, f"the domain is {evidence.power_state}")
    return Verdict(Judgement.RETRY, evidence.reason or "libvirt does not say")


def judge_vm_reboot(_payload: Mapping[str, Any], evidence: VmRebootEvidence) -> Verdict:
    """Noted as rebooted → done; running or paused without a note → again; off → there is nothing to reboot."""
    if evidence.rebooted:
        return Verdict(Judgement.DONE, "its reboot was noted", {"forced": evidence.forced})
    if evidence.power_state in ("running", "paused"):
        return Verdict(Judgement.REDO, "nothing says that it was rebooted")
    if evidence.power_state == "off":
        return Verdict(Judgement.UNDONE, "the domain does not run")
    return Verdict(Judgement.RETRY, evidence.reason or "libvirt does not say")


def judge_vm_resume(_payload: Mapping[str, Any], evidence: VmEvidence) -> Verdict:
    """Running → done; paused → again; off → there is nothing to resume."""
    if evidence.power_state == "running":
        return Verdict(Judgement.DONE, "the domain is running", {"power_state": "running"})
    if evidence.power_state == "paused":
        return Verdict(Judgement.REDO, "the domain is paused")
    if evidence.power_state == "off":
        return Verdict(Judgement.UNDONE, "the domain does not run")
    return Verdict(Judgement.RETRY, evidence.reason or "libvirt does not say")


def judge_vm_console(_payload: Mapping[str, Any], _evidence: Data) -> Verdict:
    """Reading changes nothing, so it is simply done again."""
    return Verdict(Judgement.REDO, "the reading was interrupted and changes nothing")


# --- what a look at libvirt means ----------------------------------------------------------------------------------


class Sight(StrEnum):
    NOTHING = "nothing"
    AS_RECORDED = "as recorded"
    """It runs, or is paused, where it should."""
    STOPPED = "stopped"
    """It ran by our word and is gone: the guest powered off, or QEMU died."""
    STRANGER = "stranger"
    """It runs although it should not: an alarm, nothing is touched."""


def read_sight(state: str, *, seen_power_state: str, on_its_host: bool) -> Sight:
    """Compare a VM's state with what a host saw of it."""
    should_live = state == "running" and on_its_host
    if seen_power_state in ("running", "paused"):
        return Sight.AS_RECORDED if should_live else Sight.STRANGER
    return Sight.STOPPED if should_live else Sight.NOTHING
