"""A POST with ``Idempotency-Key``: once, whatever dies and however often it is sent."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.utils import timezone

from accounts_app.models import Account, Token
from core_app import idempotency
from core_app.models import Event, IdempotencyKey
from tests.unit.people import Person

WISH = {"name": "one"}


def post(person: Person, path: str, body: Any, key: str = "k") -> Any:
    return person.post(f"/api/v1/{path}", body, HTTP_IDEMPOTENCY_KEY=key)


def test_a_repeat_gets_the_first_answer_and_does_nothing(olga: Person) -> None:
    first, again = (post(olga, "accounts/", WISH) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert first["Content-Type"] == again["Content-Type"]
    assert Account.objects.filter(name="one").count() == 1
    assert post(olga, "accounts/", WISH, key="other").status_code == 409


def test_a_refusal_is_an_answer_too(olga: Person) -> None:
    for _ in range(2):
        refused = post(olga, "accounts/", {})
        assert (refused.status_code, refused["Content-Type"]) == (400, "application/problem+json")
        assert list(refused.json()["errors"]) == ["name"]
    assert post(olga, "accounts/", WISH).status_code == 422


@pytest.mark.parametrize(("path", "body"), [("accounts/", {"name": "two"}), ("accounts/?x=1", WISH)])
def test_another_request_with_the_key_is_refused(olga: Person, path: str, body: Any) -> None:
    post(olga, "accounts/", WISH)
    refused = post(olga, path, body)
    expected = (400, "/problems/invalid_query") if "?" in path else (422, "/problems/idempotency_key_reused")
    assert (refused.status_code, refused.json()["type"]) == expected
    assert not Account.objects.filter(name="two").exists()


def test_the_same_body_written_otherwise_is_the_same(olga: Person) -> None:
    texts = ['{"name": "n", "role": "user"}', '{ "role":"user","name":"n" }']
    answers = [
        olga.post("/api/v1/users/", text, content_type="application/json", HTTP_IDEMPOTENCY_KEY="k") for text in texts
    ]
    assert {answer.status_code for answer in answers} == {201}
    assert answers[0].content == answers[1].content


def test_a_key_is_an_accounts_own_and_a_paths(olga: Person, ada: Person, alice: Person, bob: Person) -> None:
    post(olga, "accounts/", WISH)
    assert post(olga, "zones/", WISH).status_code == 201
    assert post(ada, "accounts/", WISH).status_code == 409, "she belongs to no account, so her keys are her own"


def test_teammates_share_keys_but_no_secrets(alice: Person, bob: Person) -> None:
    made = [post(person, "tokens/", {"name": "ci"}) for person in (alice, alice, bob)]
    assert [answer.status_code for answer in made] == [201] * 3
    assert made[0].json()["token"] == made[1].json()["token"] != made[2].json()["token"]
    assert Token.objects.filter(name="ci").count() == 2
    stored = "".join(IdempotencyKey.objects.values_list("body", flat=True))
    assert made[0].json()["token"] not in stored


def test_a_mistake_of_the_server_is_not_kept(olga: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brought about by a column that the database does not have any more."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("ALTER TABLE accounts_app_limit RENAME COLUMN maximum TO largest")
    try:
        assert post(olga, "accounts/", WISH).status_code >= 500
    finally:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("ALTER TABLE accounts_app_limit RENAME COLUMN largest TO maximum")
    assert not IdempotencyKey.objects.exists()
    assert post(olga, "accounts/", WISH).status_code == 201


@pytest.mark.parametrize("key", ["", " ", "k" * 256, "a\x7fb"])
def test_a_key_that_is_none_is_refused(olga: Person, key: str) -> None:
    refused = post(olga, "accounts/", WISH, key=key)
    assert (refused.status_code, refused.json()["type"]) == (400, "/problems/invalid_idempotency_key")
    assert not Account.objects.filter(name="one").exists()


def test_after_a_day_it_is_forgotten(olga: Person) -> None:
    post(olga, "accounts/", WISH)
    IdempotencyKey.objects.update(created_at=timezone.now() - timedelta(hours=23, minutes=59))
    idempotency.forget_old()
    assert post(olga, "accounts/", WISH).status_code == 201
    IdempotencyKey.objects.update(created_at=timezone.now() - timedelta(hours=24))
    assert post(olga, "accounts/", WISH).status_code == 409, "also before the scheduler has deleted it"
    IdempotencyKey.objects.update(created_at=timezone.now() - timedelta(hours=24))
    idempotency.forget_old()
    assert not IdempotencyKey.objects.exists()


def _together(count: int, do: Callable[[], Any]) -> list[Any]:
    barrier = Barrier(count)

    def one(_number: int) -> Any:
        try:
            barrier.wait()
            return do()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count)))


def test_sent_ten_times_at_once_it_is_done_once(transactional_db: None, olga: Person) -> None:
    answers = _together(10, lambda: post(olga, "accounts/", WISH))
    waiting = [answer for answer in answers if answer.status_code == 409]
    assert all((answer["Retry-After"], answer.json()["type"]) == ("1", "/problems/in_progress") for answer in waiting)
    assert len({answer.content for answer in answers if answer not in waiting}) == 1
    assert Account.objects.filter(name="one").count() == Event.objects.filter(kind="account.created").count() == 1
    assert post(olga, "accounts/", WISH).status_code == 201


def test_while_the_first_is_being_answered_a_repeat_is_not_begun(transactional_db: None, olga: Person) -> None:
    """On PostgreSQL it is told to come again; SQLite lets it wait until the first is over."""
    with ThreadPoolExecutor(1) as threads, transaction.atomic():
        idempotency._claim(str(olga.user.pk), "/api/v1/accounts/", "k")
        repeat = threads.submit(_together, 1, lambda: post(olga, "accounts/", WISH))
        if connection.vendor == "postgresql":
            (answer,) = repeat.result(20)
            assert (answer.status_code, answer["Retry-After"]) == (409, "1")
        else:
            assert wait([repeat], 0.2).not_done
        assert not Account.objects.filter(name="one").exists()
    assert post(olga, "accounts/", WISH).status_code == 201
