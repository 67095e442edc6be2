"""The project as a whole: its document, its lists, its admin, its migrations, its commands."""

import json
import time
from io import StringIO
from typing import Any

import pytest
from celery.exceptions import QueueNotFound
from django.conf import settings
from django.core.management import call_command
from django.db import models
from django.test import Client
from kombu.exceptions import OperationalError
from rest_framework.test import APIClient

from accounts_app.models import User
from agents.common.broker import transport_options
from cloudctl.celery import app
from cloudctl.urls import router
from core_app.pagination import KeysetPagination
from tests.unit.people import Person

LISTS = [(prefix, view) for prefix, view, _ in router.registry if getattr(view, "pagination_class", None)]
LISTS = [(prefix, view) for prefix, view in LISTS if hasattr(view, "list")]


def test_the_schema_is_complete_and_valid() -> None:
    out = StringIO()
    call_command("spectacular", "--validate", "--fail-on-warn", "--format", "openapi-json", stdout=out)
    document = json.loads(out.getvalue())
    assert set(document["paths"]) >= {f"/api/v1/{prefix}/" for prefix, _ in LISTS}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert "application/problem+json" in operation["responses"]["default"]["content"], (method, path)


def test_the_schema_and_its_page_are_served_without_a_token(anonymous: APIClient) -> None:
    assert anonymous.get("/api/schema/").status_code == 200
    page = anonymous.get("/api/docs/")
    assert page.status_code == 200
    assert b"http://" not in page.content.replace(b"http://www.w3.org", b"")
    assert b"https://" not in page.content, "all its parts come from this server"


@pytest.mark.parametrize(("prefix", "view"), LISTS, ids=[prefix for prefix, _ in LISTS])
class TestEveryList:
    def test_it_is_in_pages_and_refuses_what_it_does_not_know(self, olga: Person, prefix: str, view: Any) -> None:
        page = olga.get(f"/api/v1/{prefix}/")
        assert page.status_code == 200, page.content
        assert set(page.json()) == {"results", "next", "previous"}
        refused = olga.get(f"/api/v1/{prefix}/?no_such_field=1")
        assert (refused.status_code, list(refused.json()["errors"])) == (400, ["no_such_field"])

    def test_its_orders_are_columns_that_an_index_leads_with(self, olga: Person, prefix: str, view: Any) -> None:
        assert view.pagination_class is KeysetPagination
        model = view.queryset.model
        for order in {view.ordering.removeprefix("-"), *view.ordering_fields}:
            field = model._meta.get_field(order)
            assert not field.null, f"{prefix}: pages by {order} would lose the rows without a value"
            assert order in _leading(model), f"{prefix}: no index of {model.__name__} begins with {order}"


def _leading(model: type[models.Model]) -> set[str]:
    single = {field.name for field in model._meta.local_fields if getattr(field, "db_index", False) or field.unique}
    return single | {index.fields[0].removeprefix("-") for index in model._meta.indexes if index.fields}


def test_migrations_are_what_the_models_are(db: None) -> None:
    call_command("makemigrations", "--check", "--dry-run", stdout=StringIO())


@pytest.mark.django_db
def test_init_makes_what_a_first_request_needs() -> None:
    made = [_init(), _init()]
    assert made[0]["zone"] == made[1]["zone"]
    assert {user.username for user in User.objects.all()} == {"admin", "operator"}
    operator = APIClient()
    for answer in made:
        assert set(answer) == {"zone", "token", "admin_user", "admin_password", "join_token"}
        operator.credentials(HTTP_AUTHORIZATION=f"Token {answer['token']}")
        assert operator.get(f"/api/v1/zones/{answer['zone']}/").json()["name"] == "north"
    assert Client().login(username=made[1]["admin_user"], password=made[1]["admin_password"])


def _init() -> dict[str, str]:
    out = StringIO()
    call_command("cloudctl_init", "--zone", "north", "--json", stdout=out)
    (line,) = out.getvalue().splitlines()
    made: dict[str, str] = json.loads(line)
    return made


def test_sqlite_is_set_up_to_lose_nothing(db: None) -> None:
    from django.db import connection

    if connection.vendor != "sqlite":
        assert connection.vendor == "postgresql"
        return
    with connection.cursor() as cursor:
        pragmas = [cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert pragmas == ["wal", 2]
    assert settings.DATABASES["default"]["OPTIONS"]["transaction_mode"] == "IMMEDIATE"


def test_a_queue_that_nobody_declared_is_refused() -> None:
    with pytest.raises(QueueNotFound):
        app.send_task("nothing", queue="contrl")


def test_a_broker_that_is_not_there_is_said_soon(unused_port: int) -> None:
    """Publishing must not hang: it happens after a commit, and the sweep will do it again."""
    url = f"redis://127.0.0.1:{unused_port}/0"
    began = time.monotonic()
    with app.connection_for_write(url) as broker, pytest.raises(OperationalError):
        app.send_task("nothing", queue="control", connection=broker, retry=False)
    assert time.monotonic() - began < 6


@pytest.mark.parametrize(
    ("url", "option"),
    [("redis://h/0", "socket_connect_timeout"), ("rediss://h/0", "socket_timeout"), ("amqp://h", "connect_timeout")],
)
def test_each_transport_gets_its_own_options(url: str, option: str) -> None:
    assert option in transport_options(url)
    assert ("socket_timeout" in transport_options(url)) is url.startswith("redis")
