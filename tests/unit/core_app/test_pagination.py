"""Pages together are the list, whatever the ties, in both directions, also while rows come."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core_app.models import Event
from tests.unit.people import Person

DAWN = datetime(2026, 1, 1, tzinfo=UTC)


def at(*minutes: int) -> None:
    Event.objects.all().delete()
    Event.objects.bulk_create(Event(kind="test", created_at=DAWN + timedelta(minutes=m)) for m in minutes)


def ids(page: dict[str, Any]) -> list[str]:
    return [row["id"] for row in page["results"]]


def joined(pages: Iterable[list[str]]) -> list[str]:
    return list(chain.from_iterable(pages))


def walk(client: Person, url: str | None, link: str = "next") -> list[list[str]]:
    pages = []
    while url:
        page = client.get(url).json()
        pages.append(ids(page))
        url = page[link]
    return pages


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    minutes=st.lists(st.integers(0, 3), max_size=12),
    size=st.integers(1, 5),
    ordering=st.sampled_from(["created_at", "-created_at"]),
)
def test_pages_forth_and_back_are_the_list(olga: Person, minutes: list[int], size: int, ordering: str) -> None:
    at(*minutes)
    sign = "-" if ordering.startswith("-") else ""
    expected = [str(pk) for pk in Event.objects.order_by(ordering, f"{sign}id").values_list("pk", flat=True)]
    forth = walk(olga, f"/api/v1/events/?page_size={size}&ordering={ordering}")
    assert joined(forth) == expected
    assert all(len(page) == size for page in forth[:-1])
    last = olga.get(f"/api/v1/events/?page_size={size}&ordering={ordering}").json()
    while last["next"]:
        last = olga.get(last["next"]).json()
    back = [ids(last), *walk(olga, last["previous"], "previous")]
    assert joined(reversed(back)) == expected


def test_more_equals_than_any_counter_holds(olga: Person) -> None:
    at(*[0] * 2500)
    pages = walk(olga, "/api/v1/events/?page_size=1000")
    assert [len(page) for page in pages] == [1000, 1000, 500]
    assert len(set(joined(pages))) == 2500


def test_a_row_that_comes_meanwhile_moves_nothing(olga: Person) -> None:
    at(1, 2, 3, 4)
    expected = [str(pk) for pk in Event.objects.order_by("-created_at").values_list("pk", flat=True)]
    first = olga.get("/api/v1/events/?page_size=2").json()
    Event.objects.create(kind="new", created_at=DAWN + timedelta(minutes=9))
    assert ids(first) + ids(olga.get(first["next"]).json()) == expected


def test_a_filter_stays_in_the_links(olga: Person) -> None:
    at(1, 2, 3)
    Event.objects.create(kind="other")
    assert joined(walk(olga, "/api/v1/events/?kind=test&page_size=1")) == ids(
        olga.get("/api/v1/events/?kind=test").json()
    )


@pytest.mark.parametrize(
    "query",
    [
        "page_size=0",
        "page_size=1001",
        "page_size=many",
        "ordering=message",
        "ordering=--created_at",
        "cursor=x",
        "cursor=bnVsbA==",
        "knid=test",
        "level=loud",
        "account=me",
    ],
)
def test_a_parameter_that_cannot_be_served_is_refused(olga: Person, query: str) -> None:
    at(1)
    response = olga.get(f"/api/v1/events/?{query}")
    assert response.status_code == 400
    assert list(response.json()["errors"]) == [query.partition("=")[0]]


def test_a_cursor_of_another_order_is_refused(olga: Person) -> None:
    at(1, 2)
    url = olga.get("/api/v1/events/?page_size=1").json()["next"]
    assert olga.get(f"{url}&ordering=created_at").status_code == 400


def test_a_detail_and_a_deletion_refuse_unknown_parameters_too(olga: Person) -> None:
    at(1)
    event = Event.objects.get()
    assert olga.get(f"/api/v1/events/{event.pk}/").status_code == 200
    assert olga.get(f"/api/v1/events/{event.pk}/?dryrun=true").status_code == 400
    assert olga.delete(f"/api/v1/tokens/{olga.token.pk}/?dryrun=true").status_code == 400
    assert olga.get("/api/v1/zones/").status_code == 200


def test_what_did_not_change_is_not_sent_again(olga: Person) -> None:
    at(1)
    url = f"/api/v1/events/{Event.objects.get().pk}/"
    tag = olga.get(url)["ETag"]
    unchanged = olga.get(url, HTTP_IF_NONE_MATCH=tag)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    Event.objects.update(message="new")
    assert olga.get(url, HTTP_IF_NONE_MATCH=tag).status_code == 200
