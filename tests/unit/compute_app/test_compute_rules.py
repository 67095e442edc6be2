"""Pure decisions, over everything that can be given to them."""

import itertools
from typing import Any, get_args
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.protocol.kinds import (
    KINDS,
    Data,
    DiskEvidence,
    RemoveEvidence,
    SeedCreateEvidence,
    TemplateDownloadAnswer,
    TemplateDownloadEvidence,
    VmEvidence,
    VmRebootEvidence,
    VolumeCreateAnswer,
    VolumeCreateEvidence,
    VolumeResizeEvidence,
)
from compute_app import rules
from compute_app.models import VM
from compute_app.rules import HostRoom, Need, NoPlace, Place, PoolRoom, Sight, choose_host, choose_place, read_sight
from operations_app import registry
from operations_app.rules import Judgement, Verdict

# --- where a VM goes -----------------------------------------------------------------------------------------------

SIZES = st.integers(-3, 8)
NEEDS = st.builds(Need, st.integers(0, 8), st.integers(1, 8), st.integers(0, 4))
IDS = [UUID(int=number) for number in range(1, 5)]


@st.composite
def rooms(draw: st.DrawFn) -> tuple[list[HostRoom], list[PoolRoom]]:
    hosts = [HostRoom(pk, f"h{pk.int}", draw(SIZES)) for pk in IDS[: draw(st.integers(0, 4))]]
    ids = st.frozensets(st.sampled_from(IDS))
    pools = [
        PoolRoom(UUID(int=100 + number), f"p{number}", draw(SIZES), draw(ids), draw(st.booleans()))
        for number in range(draw(st.integers(0, 4)))
    ]
    return hosts, pools


def fits(host: HostRoom, pool: PoolRoom, need: Need) -> bool:
    disk = need.disk_bytes + (0 if pool.has_template else need.template_bytes)
    return host.id in pool.host_ids and has_memory(host, need) and pool.free_bytes >= disk


def has_memory(host: HostRoom, need: Need) -> bool:
    """What needs none is not turned away where more is promised than there is."""
    return need.memory_bytes == 0 or host.free_memory_bytes >= need.memory_bytes


@settings(max_examples=300, deadline=None)
@given(rooms(), NEEDS)
def test_it_finds_a_place_where_there_is_one_and_only_there(
    given_rooms: tuple[list[HostRoom], list[PoolRoom]], need: Need
) -> None:
    hosts, pools = given_rooms
    possible = {Place(h.id, p.id) for h, p in itertools.product(hosts, pools) if fits(h, p, need)}
    chosen = choose_place(hosts, pools, need)
    if not possible:
        assert isinstance(chosen, NoPlace)
        assert all(chosen.reasons)
        assert chosen.reasons
        return
    assert chosen in possible
    memory = {host.id: host.free_memory_bytes for host in hosts}
    room = {pool.id: pool.free_bytes for pool in pools}
    assert isinstance(chosen, Place)
    assert memory[chosen.host_id] == max(memory[place.host_id] for place in possible)
    assert room[chosen.pool_id] == max(room[p.pool_id] for p in possible if p.host_id == chosen.host_id)
    assert choose_place(hosts[::-1], pools[::-1], need) == chosen


@settings(max_examples=100, deadline=None)
@given(rooms(), st.lists(NEEDS, max_size=30))
def test_however_many_ask_nothing_is_promised_twice(
    given_rooms: tuple[list[HostRoom], list[PoolRoom]], needs: list[Need]
) -> None:
    """Each placing takes its room away before the next one looks, as under the zone's lock."""
    hosts = {host.id: host for host in given_rooms[0]}
    pools = {pool.id: pool for pool in given_rooms[1]}
    for need in needs:
        place = choose_place(list(hosts.values()), list(pools.values()), need)
        if isinstance(place, NoPlace):
            continue
        host, pool = hosts[place.host_id], pools[place.pool_id]
        disk = need.disk_bytes + (0 if pool.has_template else need.template_bytes)
        hosts[host.id] = HostRoom(host.id, host.name, host.free_memory_bytes - need.memory_bytes)
        pools[pool.id] = PoolRoom(pool.id, pool.name, pool.free_bytes - disk, pool.host_ids, has_template=True)
        assert hosts[host.id].free_memory_bytes >= min(0, host.free_memory_bytes)
        assert pools[pool.id].free_bytes >= 0


@settings(max_examples=200, deadline=None)
@given(rooms(), st.integers(0, 8))
def test_a_host_for_a_vm_reaches_all_its_pools(
    given_rooms: tuple[list[HostRoom], list[PoolRoom]], memory_bytes: int
) -> None:
    hosts, pool_rooms = given_rooms
    reached = {pk: {pool.id for pool in pool_rooms if pk in pool.host_ids} for pk in IDS}
    wanted = {pool.id for pool in pool_rooms[:2]}
    need = Need(memory_bytes, 0)
    possible = {h.id: h.free_memory_bytes for h in hosts if has_memory(h, need) and wanted <= reached[h.id]}
    chosen = choose_host(hosts, wanted, reached, memory_bytes)
    if possible:
        assert isinstance(chosen, UUID)
        assert possible[chosen] == max(possible.values())
    else:
        assert isinstance(chosen, NoPlace)
        assert len(chosen.reasons) == max(1, len(hosts))


def test_the_reasons_name_what_is_missing_where() -> None:
    h1, h2, h3 = (HostRoom(pk, f"h{pk.int}", memory) for pk, memory in zip(IDS, (1, 9, 9), strict=False))
    pools = [PoolRoom(UUID(int=9), "p", 3, frozenset({h1.id, h2.id}))]
    place = choose_place([h1, h2, h3], pools, Need(5, 4, 1))
    assert isinstance(place, NoPlace)
    assert place.reasons == (
        "host h1: 1 bytes of memory are free, 5 are needed",
        "pool p: 3 bytes are free, 5 are needed",
        "host h3: reaches none of the pools",
    )


# --- verdicts ------------------------------------------------------------------------------------------------------

TEMPLATE = TemplateDownloadAnswer(path="/p/t", size_bytes=1, virtual_size_bytes=2, sha256="0" * 64)
VOLUME = VolumeCreateAnswer(path="/p/v", virtual_size_bytes=1, allocated_bytes=1)
POWER = get_args(VmEvidence.model_fields["power_state"].annotation)


def every_evidence() -> list[tuple[str, Data, Judgement]]:
    """All combinations of what evidence can show that a rule may tell apart, with the verdict."""
    done, undone, redo, retry = Judgement.DONE, Judgement.UNDONE, Judgement.REDO, Judgement.RETRY
    rows: list[tuple[str, Data, Judgement]] = [("template.check", Data(), redo)]
    for final, unverified, offset in itertools.product((None, TEMPLATE), (False, True), (0, 7)):
        evidence = TemplateDownloadEvidence(final=final, unverified_final=unverified, verified_offset=offset)
        rows.append(("template.download", evidence, done if final else undone if unverified else redo))
    for made, mismatch in itertools.product((None, VOLUME), ("", "another size")):
        found = VolumeCreateEvidence(final=made, mismatch=mismatch)
        rows.append(("volume.create", found, done if made else undone if mismatch else redo))
    for kind, left in itertools.product(("template.remove", "volume.remove"), ((), ("a",), ("a", "b"))):
        rows.append((kind, RemoveEvidence(left=left), redo if left else done))
    for power, attached, mismatch in itertools.product(("running", "paused", "off"), (False, True), ("", "other")):
        disk = DiskEvidence(power_state=power, attached=attached, mismatch=mismatch)
        rows.append(("volume.attach", disk, retry if mismatch else done if attached or power == "off" else redo))
        rows.append(("volume.detach", disk, redo if attached else done))
    for size, live in itertools.product((1, 2, 3), (False, True)):
        sized = VolumeResizeEvidence(virtual_size_bytes=size, live=live)
        rows.append(("volume.resize", sized, done if size == 2 else redo))
    started = {"running": done, "paused": done, "off": redo, "unknown": retry}
    stopped = {"running": redo, "paused": redo, "off": done, "unknown": retry}
    for path, refused in itertools.product(("", "/p/seed.iso"), ("", "it is a link")):
        found_seed = SeedCreateEvidence(path=path, refused=refused)
        rows.append(("seed.create", found_seed, done if path else undone if refused else redo))
    rebooted = {"running": redo, "paused": redo, "off": undone, "unknown": retry}
    resumed = {"running": done, "paused": redo, "off": undone, "unknown": retry}
    rows.append(("vm.console", Data(), redo))
    for power, reason in itertools.product(POWER, ("", "I/O error")):
        evidence_of_vm = VmEvidence(power_state=power, reason=reason)
        rows += [("vm.start", evidence_of_vm, started[power]), ("vm.stop", evidence_of_vm, stopped[power])]
        rows.append(("vm.resume", evidence_of_vm, resumed[power]))
        for noted in (False, True):
            seen = VmRebootEvidence(power_state=power, reason=reason, rebooted=noted)
            rows.append(("vm.reboot", seen, done if noted else rebooted[power]))
    return rows


@pytest.mark.parametrize(("kind", "evidence", "judgement"), every_evidence())
def test_every_evidence_has_its_verdict(kind: str, evidence: Data, judgement: Judgement) -> None:
    verdict = registry.judge(kind, {"virtual_size_bytes": 2}, evidence)
    assert verdict.judgement is judgement
    assert verdict.reason
    if judgement is Judgement.DONE:
        KINDS[kind].answer.model_validate(verdict.answer)


def test_every_kind_is_judged_and_every_power_state_was_shown() -> None:
    assert registry.judged_kinds() == set(KINDS)
    assert set(POWER) == {"running", "paused", "off", "unknown"}
    assert {kind for kind, _, _ in every_evidence()} == set(KINDS)


@pytest.mark.parametrize(
    "rule", [rules.judge_vm_start, rules.judge_vm_stop, rules.judge_vm_reboot, rules.judge_vm_resume]
)
def test_what_libvirt_does_not_say_touches_nothing(rule: Any) -> None:
    verdict = rule({}, VmRebootEvidence(power_state="unknown", reason="the daemon is gone"))
    assert verdict == Verdict(Judgement.RETRY, "the daemon is gone")


# --- sights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [*VM.State.values])
@pytest.mark.parametrize("seen", ["running", "paused", "off"])
@pytest.mark.parametrize("on_its_host", [True, False])
def test_every_sight(state: str, seen: str, on_its_host: bool) -> None:
    sight = read_sight(state, seen_power_state=seen, on_its_host=on_its_host)
    if state == "running" and on_its_host:
        assert sight is (Sight.STOPPED if seen == "off" else Sight.AS_RECORDED)
    else:
        assert sight is (Sight.NOTHING if seen == "off" else Sight.STRANGER)
