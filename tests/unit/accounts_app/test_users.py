"""Users are changed, locked out and deleted by those who may; each may change the own password."""

import pytest
from django.contrib.auth import authenticate

from accounts_app.actions import account_create
from accounts_app.models import Role, Token, User
from accounts_app.throttling import TokenThrottle
from core_app import settings_rows
from core_app.models import Event
from tests.unit.people import Person, person

GOOD = "correct horse battery"


def path(of: Person) -> str:
    return f"/api/v1/users/{of.user.pk}/"


def test_an_operator_changes_role_account_and_whether_one_gets_in(olga: Person, alice: Person) -> None:
    other = account_create("other")
    changed = olga.patch(path(alice), {"role": "read-only", "account": str(other.pk)})
    assert (changed.status_code, changed.json()["role"], changed.json()["account"]) == (200, "read-only", str(other.pk))
    assert User.objects.get(pk=alice.user.pk).is_staff
    assert olga.patch(path(alice), {"active": False}).json()["active"] is False
    assert alice.get("/api/v1/zones/").status_code == 401
    assert olga.patch(path(alice), {"active": True}).status_code == 200
    assert alice.get("/api/v1/zones/").status_code == 200


def test_a_password_is_set_by_oneself_or_an_operator_and_shown_nowhere(olga: Person, alice: Person) -> None:
    for by in (alice, olga):
        answer = by.patch(path(alice), {"password": f"{GOOD} {by.user.name}"})
        assert answer.status_code == 200
        assert GOOD not in answer.content.decode()
        assert authenticate(username="alice", password=f"{GOOD} {by.user.name}")
    assert not any(GOOD in f"{event.message} {event.details}" for event in Event.objects.all())


@pytest.mark.parametrize("password", ["", "short", "password123"])
def test_an_easy_password_is_refused(olga: Person, alice: Person, password: str) -> None:
    refused = olga.patch(path(alice), {"password": password})
    assert (refused.status_code, list(refused.json()["errors"])) == (400, ["password"])
    made = olga.post("/api/v1/users/", {"name": "eve", "role": "user", "password": password})
    assert made.status_code == 400


WISHES = [
    ("alice", "alice", {"role": "admin"}, 403),
    ("alice", "alice", {"active": True}, 403),
    ("alice", "bob", {"password": GOOD}, 403),
    ("alice", "charlie", {"password": GOOD}, 404),
    ("rita", "rita", {"password": GOOD}, 403),
    ("olga", "ada", {"password": GOOD}, 403),
    ("olga", "olga", {"role": "admin"}, 403),
    ("olga", "rita", {"role": "operator"}, 200),
    ("ada", "olga", {"role": "admin"}, 200),
    ("olga", "alice", {"rôle": "user"}, 400),
]


@pytest.mark.parametrize(("by", "of", "change", "status"), WISHES)
def test_who_may_change_whom(
    request: pytest.FixtureRequest, by: str, of: str, change: dict[str, object], status: int
) -> None:
    asking, changed = (request.getfixturevalue(name) for name in (by, of))
    assert asking.patch(path(changed), change).status_code == status


def test_an_operator_deletes_a_user_and_its_tokens_are_gone(olga: Person, alice: Person, ada: Person) -> None:
    assert alice.delete(path(alice)).status_code == 403
    assert olga.delete(path(ada)).status_code == 403
    assert olga.delete(path(alice)).status_code == 204
    assert alice.get("/api/v1/zones/").status_code == 401
    assert not Token.objects.filter(user=alice.user).exists()
    assert Event.objects.get(kind="user.deleted").message == "alice; by olga"


def test_the_last_admin_stays(ada: Person) -> None:
    answers = [ada.patch(path(ada), change) for change in ({"role": "user"}, {"active": False})]
    for refused in (*answers, ada.delete(path(ada))):
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/last_admin")
    person("eve", Role.ADMIN)
    assert ada.patch(path(ada), {"role": "user"}).status_code == 200


def test_a_token_that_asks_too_often_is_told_to_wait(
    alice: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_rows.put("api.requests.per.minute", 3)
    monkeypatch.setattr(TokenThrottle, "_limit", 0)
    monkeypatch.setattr(TokenThrottle, "_limit_read_at", -60.0)
    answers = [alice.get("/api/v1/zones/") for _ in range(7)]  # a new minute may begin in between
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert 1 <= int(refused["Retry-After"]) <= 61
    assert refused.json()["type"] == "/problems/too_many_requests"
    assert [answer.status_code for answer in answers[:3]] == [200] * 3
    assert bob.get("/api/v1/zones/").status_code == 200
