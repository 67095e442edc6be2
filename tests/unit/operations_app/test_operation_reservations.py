"""Reservations: all or none, one winner, and the loser is told who holds."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction

from core_app.errors import Busy
from infra_app.models import Zone
from operations_app import registry
from operations_app.actions import cancel, reserve
from operations_app.models import Operation, Reservation
from tests.unit.operations_app.toys import HostVoice, begin, the_command


@pytest.fixture(autouse=True)
def zones_can_be_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_lockable", {**registry._lockable, "zone": Zone})


@pytest.fixture
def three(zone: Zone) -> list[tuple[str, UUID]]:
    others = [Zone.objects.create(name=f"zone{number}") for number in (2, 3)]
    return [("zone", row.pk) for row in (zone, *others)]


def _wins(work: Sequence[Mapping[str, object]], zone: Zone, host: HostVoice) -> list[str]:
    """All at once, each in a thread of its own; what became of each."""

    def one(reservations: Mapping[str, object]) -> str:
        try:
            return str(begin("toy.shared", zone, host, **reservations).pk)
        except Busy as busy:
            return f"busy {busy.operation}"
        finally:
            connection.close()

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(one, work))


def test_of_twenty_at_once_one_wins_and_the_others_are_told_who(host: HostVoice, zone: Zone) -> None:
    results = _wins([{"exclusive": [("zone", zone.pk)]}] * 20, zone, host)
    winners = [result for result in results if not result.startswith("busy")]
    assert len(winners) == 1
    assert set(results) == {winners[0], f"busy {winners[0]}"}
    assert Operation.objects.count() == Reservation.objects.count() == 1, "nothing is left of the others"


def test_of_twenty_at_once_one_wins_also_where_there_is_no_row_to_lock(host: HostVoice, zone: Zone) -> None:
    results = _wins([{"exclusive": [("idea", UUID(int=1))]}] * 20, zone, host)
    assert len([result for result in results if not result.startswith("busy")]) == 1


def test_what_is_taken_in_opposite_orders_never_ends_in_a_deadlock(
    host: HostVoice, zone: Zone, three: list[tuple[str, UUID]]
) -> None:
    orders = [{"exclusive": list(order)[:2], "shared": list(order)[2:]} for order in permutations(three)] * 3
    results = _wins(orders, zone, host)
    winners = {result for result in results if not result.startswith("busy")}
    assert len(winners) == 1
    assert all(result.removeprefix("busy ") in winners for result in results)


def test_shared_and_exclusive_at_once_never_hold_together(host: HostVoice, zone: Zone) -> None:
    work = [{"exclusive": [("zone", zone.pk)]}, {"shared": [("zone", zone.pk)]}] * 6
    _wins(work, zone, host)
    held = list(Reservation.objects.values_list("exclusive", flat=True))
    assert held in ([True], [False] * len(held)), held
    assert len(held) in (1, 6)


def test_many_share_and_none_of_them_keeps_another_out(host: HostVoice, zone: Zone) -> None:
    results = _wins([{"shared": [("zone", zone.pk)]}] * 5, zone, host)
    assert not any(result.startswith("busy") for result in results)
    with pytest.raises(Busy):
        begin("toy.shared", zone, host, exclusive=[("zone", zone.pk)])


def test_all_or_none(host: HostVoice, zone: Zone, three: list[tuple[str, UUID]]) -> None:
    holder = begin("toy.shared", zone, host, exclusive=[three[2]])
    with pytest.raises(Busy) as busy:
        begin("toy.shared", zone, host, exclusive=three[:2], shared=three[2:])
    assert busy.value.operation == str(holder.pk)
    assert "toy.shared of zone1 is under way" in busy.value.cause
    assert Reservation.objects.count() == 1


def test_they_are_kept_until_it_is_settled_also_while_it_goes_back(host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.shared", zone, host, exclusive=[("zone", zone.pk)])
    cancel(operation.pk)
    host.says(the_command(operation), "CANCELLED")
    assert Reservation.objects.count() == 1
    host.says(the_command(operation), "COMPLETED")
    assert not Reservation.objects.exists()
    begin("toy.shared", zone, host, exclusive=[("zone", zone.pk)])


def test_a_step_may_take_more_and_what_it_has_it_keeps(
    host: HostVoice, zone: Zone, three: list[tuple[str, UUID]]
) -> None:
    operation = begin("toy.shared", zone, host, exclusive=three[:1])
    for _ in range(2):
        with transaction.atomic():
            reserve(operation, exclusive=three[:2], shared=three[2:])
    held = operation.reservations.order_by("exclusive").values_list("exclusive", flat=True)
    assert list(held) == [False, True, True]


def test_the_same_both_exclusive_and_shared_is_exclusive(host: HostVoice, zone: Zone) -> None:
    operation = begin("toy.shared", zone, host, exclusive=[("zone", zone.pk)], shared=[("zone", zone.pk)])
    assert operation.reservations.get().exclusive


def test_sharing_what_cannot_be_locked_is_a_mistake_in_code(host: HostVoice, zone: Zone) -> None:
    with pytest.raises(LookupError, match="idea is not registered as lockable"):
        begin("toy.shared", zone, host, shared=[("idea", uuid4())])
    assert not Operation.objects.exists()
