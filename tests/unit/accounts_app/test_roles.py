"""Who may call what: the roles' matrix, tenancy, and tokens that open no more than their maker may."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from accounts_app.actions import token_create
from accounts_app.models import Account, Role, Token, User
from accounts_app.tenancy import for_user
from core_app.models import Event
from infra_app.models import Agent, Host, JoinToken, StoragePool, Zone
from tests.unit.people import Person, person

PEOPLE = ("ada", "olga", "rita", "alice", "anonymous")
# Statuses for: admin, operator, read-only, user, nobody.
MATRIX = [
    ("get", "accounts/", (200, 200, 200, 200, 401)),
    ("post", "accounts/", (400, 400, 403, 403, 401)),
    ("get", "users/", (200, 200, 200, 200, 401)),
    ("post", "users/", (400, 400, 403, 403, 401)),
    ("get", "tokens/", (200, 200, 200, 200, 401)),
    ("post", "tokens/", (400, 400, 403, 400, 401)),
    ("get", "zones/", (200, 200, 200, 200, 401)),
    ("post", "zones/", (400, 400, 403, 403, 401)),
    ("get", "hosts/", (200, 200, 200, 200, 401)),
    ("get", "hosts/join-tokens/", (200, 200, 200, 200, 401)),
    ("post", "hosts/join-tokens/", (400, 400, 403, 403, 401)),
    ("get", "storage-pools/", (200, 200, 200, 200, 401)),
    ("post", "storage-pools/", (400, 400, 403, 403, 401)),
    ("get", "events/", (200, 200, 200, 200, 401)),
    ("get", "settings/", (200, 200, 200, 403, 401)),
    ("get", "settings/ping.interval/", (200, 200, 200, 403, 401)),
    ("put", "settings/ping.interval/", (400, 400, 403, 403, 401)),
    ("post", "agents/join/", (400, 400, 400, 400, 400)),
]


@pytest.mark.parametrize(("method", "path", "statuses"), MATRIX)
def test_the_matrix(request: pytest.FixtureRequest, method: str, path: str, statuses: tuple[int, ...]) -> None:
    """A writing call is sent an empty body: who gets as far as 400 was let in."""
    clients = [request.getfixturevalue(name) for name in PEOPLE]
    answers = [getattr(client, method)(f"/api/v1/{path}") for client in clients]
    assert tuple(answer.status_code for answer in answers) == statuses


@pytest.mark.parametrize("model", [Agent, Host, JoinToken, StoragePool])
def test_the_fleet_is_the_operators(model: Any, alice: Person, olga: Person, agent: Agent) -> None:
    StoragePool.objects.create(name="p", zone=agent.zone, type="shared", path="/p")
    assert for_user(model.objects.all(), olga.user).exists()
    assert not for_user(model.objects.all(), alice.user).exists()


def test_nobody_sees_nothing(anonymous: APIClient, zone: Zone) -> None:
    user = person("dora", Role.USER).user
    assert not for_user(Zone.objects.all(), user).exists()
    Account.objects.create(name="x")
    assert not for_user(Account.objects.all(), user).exists()


def test_another_accounts_objects_are_not_found(alice: Person, bob: Person, charlie: Person, olga: Person) -> None:
    path = f"/api/v1/accounts/{alice.user.account_id}/"
    assert [who.get(path).status_code for who in (alice, bob, charlie, olga)] == [200, 200, 404, 200]
    assert [row["name"] for row in charlie.get("/api/v1/accounts/").json()["results"]] == ["other"]
    names = {row["name"] for row in alice.get("/api/v1/users/").json()["results"]}
    assert names == {"alice", "bob"}
    foreign = alice.get(f"/api/v1/users/?account={charlie.user.account_id}").json()["results"]
    assert foreign == []


def test_a_reader_with_an_account_sees_that_account_only(alice: Person, charlie: Person) -> None:
    reader = person("rosa", Role.READ_ONLY, alice.user.account)
    assert [row["name"] for row in reader.get("/api/v1/accounts/").json()["results"]] == ["acme"]
    assert reader.get("/api/v1/settings/").status_code == 403


def test_only_an_admin_makes_admins(ada: Person, olga: Person) -> None:
    wish = {"name": "eve", "role": "admin"}
    assert olga.post("/api/v1/users/", wish).status_code == 403
    made = ada.post("/api/v1/users/", wish)
    assert made.status_code == 201
    assert made.json() == {"id": made.json()["id"], "account": None, "name": "eve", "role": "admin", "active": True}
    assert Event.objects.filter(kind="user.created", target_name="eve").count() == 1


def test_a_name_is_given_once(olga: Person, acme: Account) -> None:
    wish = {"name": "eve", "role": "user", "account": str(acme.pk)}
    assert olga.post("/api/v1/users/", wish).status_code == 201
    assert olga.post("/api/v1/users/", wish).json()["type"] == "/problems/user_exists"
    assert olga.post("/api/v1/accounts/", {"name": "acme"}).json()["type"] == "/problems/account_exists"
    assert User.objects.filter(username="eve").count() == Account.objects.filter(name="acme").count() == 1


def test_a_token_is_shown_once_and_stored_hashed(alice: Person, anonymous: APIClient) -> None:
    made = alice.post("/api/v1/tokens/", {"name": "ci"}).json()
    anonymous.credentials(HTTP_AUTHORIZATION=f"Token {made['token']}")
    assert anonymous.get("/api/v1/zones/").status_code == 200
    row = Token.objects.get(pk=made["id"])
    assert made["token"] not in (row.digest, row.token_key)
    assert row.last_used_at is not None
    listed = alice.get(f"/api/v1/tokens/{made['id']}/").json()
    assert set(listed) == {"id", "user", "name", "expires_at", "last_used"}


def test_a_deleted_or_expired_token_opens_nothing(alice: Person, anonymous: APIClient) -> None:
    for end in ("delete", "expire"):
        made = alice.post("/api/v1/tokens/", {"name": "ci"}).json()
        if end == "delete":
            assert alice.delete(f"/api/v1/tokens/{made['id']}/").status_code == 204
        else:
            Token.objects.filter(pk=made["id"]).update(expiry=timezone.now() - timedelta(seconds=1))
        anonymous.credentials(HTTP_AUTHORIZATION=f"Token {made['token']}")
        assert anonymous.get("/api/v1/zones/").status_code == 401


def test_other_tokens_of_a_user_cost_a_request_nothing(alice: Person) -> None:
    for _ in range(5):
        token_create(alice.user, name="ci", by=alice.user)
    alice.get("/api/v1/zones/")
    with CaptureQueriesContext(connection) as seen:
        alice.get("/api/v1/zones/")
    assert sum('FROM "accounts_app_token"' in query["sql"] for query in seen.captured_queries) == 1


def test_use_is_noted_to_the_minute(alice: Person) -> None:
    alice.get("/api/v1/zones/")
    first = Token.objects.get(pk=alice.token.pk).last_used_at
    alice.get("/api/v1/zones/")
    assert Token.objects.get(pk=alice.token.pk).last_used_at == first
    Token.objects.update(last_used_at=timezone.now() - timedelta(minutes=2))
    alice.get("/api/v1/zones/")
    assert first
    assert Token.objects.get(pk=alice.token.pk).last_used_at > first


def test_nobody_makes_a_token_of_someone_mightier(alice: Person, bob: Person, olga: Person, ada: Person) -> None:
    def wish(by: Person, of: Person) -> int:
        status: int = by.post("/api/v1/tokens/", {"name": "x", "user": str(of.user.pk)}).status_code
        return status

    assert (wish(alice, alice), wish(alice, bob), wish(alice, olga)) == (201, 403, 400)
    assert (wish(olga, alice), wish(olga, ada), wish(ada, ada)) == (201, 403, 201)
    assert alice.delete(f"/api/v1/tokens/{bob.token.pk}/").status_code == 403
    assert alice.delete(f"/api/v1/tokens/{olga.token.pk}/").status_code == 404


def test_a_user_who_is_locked_is_out_at_once(alice: Person) -> None:
    User.objects.filter(pk=alice.user.pk).update(is_active=False)
    assert alice.get("/api/v1/zones/").status_code == 401


@pytest.mark.parametrize("secret", ["\xe9", "\x00", "a" * 64 + "\xe9", "../..", "%"])
def test_what_cannot_be_a_token_lets_nobody_in(anonymous: APIClient, secret: str) -> None:
    anonymous.credentials(HTTP_AUTHORIZATION=f"Token {secret}")
    assert anonymous.get("/api/v1/zones/").status_code == 401
