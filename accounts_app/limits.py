"""How much an account has and may have, counted in the transactions that make its things or end them.

Each resource is one conditional ``UPDATE``, so that no number of requests at once goes beyond a limit. The account's
row is locked first: two transactions that count several resources never wait for each other, and :func:`check` sees
things and counts that belong together.
"""

import logging
from collections.abc import Callable, Mapping
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Greatest

from accounts_app.models import Account, Limit, Resource
from core_app import events
from core_app.errors import InvalidInput, LimitExceeded

logger = logging.getLogger("cloudctl.limits")

Amounts = Mapping[str, int]

_counts: dict[Resource, Callable[[UUID], int]] = {}


def take(account: Account, amounts: Amounts) -> None:
    """Count things that the account gets: ``{"volumes": 1, "primary_storage_bytes": n}``. All of it or nothing.

    Call it in the transaction that makes them, after it has locked the rows that were there before, and before it
    submits the operation. Raises LimitExceeded, naming the limit.
    """
    with transaction.atomic():
        for resource, amount in _locked(account, amounts):
            fits = Q(maximum=None) | Q(used__lte=F("maximum") - amount)
            row = Limit.objects.filter(account=account, resource=resource)
            if not row.filter(fits).update(used=F("used") + amount):
                raise _exceeded(row.get(), amount)


def give_back(account: Account, amounts: Amounts) -> None:
    """Count things that are gone for good, in the transaction that says so; the opposite of :func:`take`."""
    with transaction.atomic():
        for resource, amount in _locked(account, amounts):
            row = Limit.objects.filter(account=account, resource=resource)
            row.update(used=Greatest(F("used") - amount, 0))


def put(account: Account, maxima: Mapping[str, int | None]) -> None:
    """Set limits; None lifts one. One below what is used takes nothing away: nothing more is given.

    Raises InvalidInput for a resource that there is not, or a number below 0.
    """
    errors = {name: ["There is no such limit."] for name in maxima if name not in Resource.values}
    errors |= {name: ["It must be 0 or more, or null."] for name, value in maxima.items() if (value or 0) < 0}
    if errors:
        raise InvalidInput(
            "Some limits are not as they must be.",
            "No limit was changed.",
            f"The limits are {', '.join(Resource.values)}.",
            errors=errors,
        )
    with transaction.atomic():
        _lock(account)
        for name, value in maxima.items():
            Limit.objects.filter(account=account, resource=name).update(maximum=value)
        events.record("account.limits_changed", account, details={"limits": dict(maxima)})


def make_rows(account: Account) -> None:
    """The rows of an account that is new."""
    Limit.objects.bulk_create(
        (Limit(account=account, resource=resource) for resource in Resource), ignore_conflicts=True
    )


def count_by(resource: Resource, count: Callable[[UUID], int]) -> None:
    """Say how a resource of an account (by id) is counted from the things themselves, in ``AppConfig.ready()``."""
    _counts[resource] = count


def check() -> None:
    """Compare what is written as used with the things themselves; a difference is mended, and is an alarm."""
    for account in Account.objects.order_by("pk").iterator():
        try:
            _check_account(account)
        except Exception:
            logger.exception("limits.check_failed", extra={"fields": {"account": str(account.pk)}})


def _check_account(account: Account) -> None:
    with transaction.atomic():
        _lock(account)
        for row in Limit.objects.filter(account=account, resource__in=_counts).order_by("resource"):
            true = _counts[Resource(row.resource)](account.pk)
            if row.used == true:
                continue
            Limit.objects.filter(pk=row.pk).update(used=true)
            message = f"{row.resource} of {account} were written as {row.used} and are {true}; that is mended"
            events.record("account.usage_mended", account, message, level="alarm")


def _locked(account: Account, amounts: Amounts) -> list[tuple[Resource, int]]:
    """The amounts that count for something, with the account locked until the transaction ends."""
    wanted = [(Resource(name), amount) for name, amount in amounts.items() if amount]
    if any(amount < 0 for _, amount in wanted):
        raise ValueError(f"amounts are not negative: {amounts}")
    if wanted:
        _lock(account)
    return wanted


def _lock(account: Account) -> None:
    Account.objects.select_for_update(no_key=True).only("pk").get(pk=account.pk)


def _exceeded(row: Limit, amount: int) -> LimitExceeded:
    return LimitExceeded(
        f"{row.account} may have {row.maximum} {row.resource}, has {row.used}, and asks for {amount} more.",
        "The request was not accepted and nothing was changed.",
        f"Delete what is not needed, or ask an operator to raise the limit of {row.resource}.",
    )
