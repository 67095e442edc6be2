"""What an account may have: taken and given back with the things themselves."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections, transaction

from accounts_app import limits
from accounts_app.actions import account_create
from accounts_app.models import Account, Resource
from core_app.errors import InvalidInput, LimitExceeded
from core_app.models import Event
from tests.unit.people import Person


def used(account: Account) -> dict[str, int]:
    """What is used, without what is not."""
    return {row.resource: row.used for row in account.limit_rows.exclude(used=0)}


def test_what_is_taken_counts_and_what_is_given_back_does_not(acme: Account) -> None:
    limits.take(acme, {"volumes": 2, "primary_storage_bytes": 100})
    assert used(acme) == {"volumes": 2, "primary_storage_bytes": 100}
    limits.give_back(acme, {"volumes": 1, "primary_storage_bytes": 100})
    assert used(acme) == {"volumes": 1}


def test_it_is_taken_up_to_the_limit_and_all_or_nothing(acme: Account) -> None:
    limits.put(acme, {"volumes": 2})
    limits.take(acme, {"volumes": 2})
    with pytest.raises(LimitExceeded, match="acme may have 2 volumes, has 2, and asks for 1 more"):
        limits.take(acme, {"primary_storage_bytes": 5, "volumes": 1})
    assert used(acme) == {"volumes": 2}
    limits.put(acme, {"volumes": None})
    limits.take(acme, {"volumes": 1})


def test_an_account_spends_its_own_limit_only(acme: Account) -> None:
    other = account_create("other")
    limits.put(acme, {"vms": 1})
    limits.take(acme, {"vms": 1})
    limits.take(other, {"vms": 5})
    assert (used(acme), used(other)) == ({"vms": 1}, {"vms": 5})


def test_a_limit_below_what_is_used_takes_nothing_away(acme: Account) -> None:
    limits.take(acme, {"vms": 3})
    limits.put(acme, {"vms": 1})
    with pytest.raises(LimitExceeded):
        limits.take(acme, {"vms": 1})
    limits.give_back(acme, {"vms": 3})
    limits.take(acme, {"vms": 1})


def test_mistakes_in_code_are_told(acme: Account) -> None:
    with pytest.raises(ValueError, match="vm"):
        limits.take(acme, {"vm": 1})
    with pytest.raises(ValueError, match="negative"):
        limits.take(acme, {"vms": -1})
    with pytest.raises(InvalidInput) as refusal:
        limits.put(acme, {"vm": 1, "vms": -1, "volumes": 7})
    assert set(refusal.value.errors) == {"vm", "vms"}
    assert not acme.limit_rows.exclude(maximum=None)


def test_what_drifted_is_mended_and_told(acme: Account) -> None:
    limits.take(acme, {"vms": 2, "snapshots": 1})
    limits.check()
    assert used(acme) == {"snapshots": 1}, "nothing here counts snapshots, so nothing knows better"
    (event,) = Event.objects.filter(kind="account.usage_mended")
    assert (event.level, event.message) == ("alarm", "vms of acme were written as 2 and are 0; that is mended")
    limits.check()
    assert Event.objects.filter(kind="account.usage_mended").count() == 1


def test_operators_see_and_set_limits(olga: Person, alice: Person, acme: Account) -> None:
    path = f"/api/v1/accounts/{acme.pk}/"
    assert set(olga.get(path).json()["limits"]) == set(olga.get(path).json()["usage"]) == set(Resource.values)
    answer = olga.patch(path, {"limits": {"vms": 3, "templates": None}})
    assert (answer.status_code, answer.json()["limits"]["vms"]) == (200, 3)
    assert alice.get(path).json()["limits"]["vms"] == 3
    assert alice.patch(path, {"limits": {"vms": 4}}).status_code == 403
    refused = olga.patch(path, {"limits": {"vm": 3, "vms": 4}})
    assert (refused.status_code, list(refused.json()["errors"])) == (400, ["limits.vm"])
    assert olga.get(path).json()["limits"]["vms"] == 3


def _count_both(account: Account, number: int) -> bool:
    """In its own connection: two resources, in the order of the number."""
    names = ["volumes", "vms"] if number % 2 else ["vms", "volumes"]
    try:
        with transaction.atomic():
            for name in names:
                limits.take(account, {name: 1})
    except LimitExceeded:
        return False
    else:
        return True
    finally:
        connections.close_all()


def test_a_hundred_at_once_do_not_exceed_it(transactional_db: None) -> None:
    acme = account_create("acme")
    limits.put(acme, {"vms": 10})
    with ThreadPoolExecutor(20) as threads:
        taken = list(threads.map(_count_both, [acme] * 100, range(100)))
    assert taken.count(True) == 10
    assert used(acme) == {"vms": 10, "volumes": 10}
