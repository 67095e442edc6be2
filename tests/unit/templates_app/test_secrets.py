"""Secret headers: sealed to the one agent that needs them, and to be found nowhere else."""

import base64
import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
from django.apps import apps
from django.core import serializers
from redis import Redis

from agents.protocol.messages import command_queue
from agents.protocol.sealing import new_key, unseal
from core_app.errors import InvalidInput
from core_app.logs import JsonFormatter
from infra_app.models import Agent, StoragePool
from operations_app.models import Command
from templates_app.actions import template_prepare
from templates_app.models import Template
from tests.unit.people import Person
from tests.unit.templates_app.fleet import Fleet, admin_browser, in_transaction

SECRET = "s3cr3t-of-the-mirror"
HEADERS = {"Authorization": f"Bearer {SECRET}", "HTTP_HEADER:X-Key": SECRET, "HTTP_HEADER": f"X-Other: {SECRET}"}
PLAIN = {"Authorization": f"Bearer {SECRET}", "X-Key": SECRET, "X-Other": SECRET}


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that is logged, as it is written."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


def whole_database() -> str:
    """All rows of all tables as text."""
    rows = [row for model in apps.get_models() for row in model._default_manager.all()]
    return str(serializers.serialize("json", rows))


def test_only_the_agent_reads_them(fleet: Fleet, host: Agent, pool: StoragePool, log: io.StringIO) -> None:
    private, public = new_key()
    Agent.objects.filter(pk=host.pk).update(public_key=public)
    template = fleet.checked(secret_headers=HEADERS)
    operation = in_transaction(template_prepare, template, pool)
    fleet.fails(fleet.the_open(operation))
    fleet.works(operation)
    commands = list(Command.objects.filter(kind__in=("template.check", "template.download")))
    assert len(commands) == 3
    for command in commands:
        assert unseal(private, command.sealed or "") == {"secret_headers": PLAIN}
    assert SECRET not in whole_database()
    assert SECRET not in log.getvalue()


def test_messages_carry_them_sealed(fleet: Fleet, host: Agent, broker: Redis) -> None:
    private, public = new_key()
    Agent.objects.filter(pk=host.pk).update(public_key=public)
    fleet.registered(secret_headers=HEADERS)
    text = str(broker.lpop(command_queue(str(host.pk))))
    (encoded,) = re.findall(r'"body": "([^"]+)"', text)
    body = base64.b64decode(encoded).decode()
    assert SECRET not in text + body
    sealed = json.loads(body)[1]["message"]["sealed"]
    assert unseal(private, sealed) == {"secret_headers": PLAIN}


def test_no_other_command_carries_them(fleet: Fleet, host: Agent, pool: StoragePool) -> None:
    template = fleet.checked(secret_headers=HEADERS)
    operation = in_transaction(template_prepare, template, pool)
    fleet.says(fleet.the_open(operation), "INTERRUPTED")
    fleet.answers(operation.commands.get(), unverified_final=True)
    removal = fleet.the_open(operation)
    assert (removal.kind, removal.sealed) == ("template.remove", None)


def test_neither_api_nor_admin_show_them(fleet: Fleet, host: Agent, alice: Person) -> None:
    template = fleet.checked(secret_headers=HEADERS, headers={"X-Open": "seen"})
    stored = Template.objects.get(pk=template.pk).secret_headers
    browser = admin_browser()
    pages = [
        alice.get(f"/api/v1/templates/{template.pk}/").content,
        alice.get("/api/v1/templates/").content,
        alice.get("/api/v1/commands/").content,
        alice.get("/api/v1/operations/").content,
        browser.get("/admin/templates_app/template/").content,
        browser.get(f"/admin/templates_app/template/{template.pk}/change/").content,
        browser.get(f"/admin/operations_app/command/{Command.objects.get().pk}/change/", follow=True).content,
    ]
    assert b"seen" in pages[0]
    for page in pages:
        assert SECRET.encode() not in page
        assert stored.encode() not in page
        assert b"secret_headers" not in page


def test_a_refusal_does_not_repeat_them(fleet: Fleet, log: io.StringIO) -> None:
    with pytest.raises(InvalidInput) as refusal:
        fleet.registered(secret_headers={"X-Key": f"{SECRET}\r\nX: y"})
    assert SECRET not in f"{refusal.value} {refusal.value.errors} {log.getvalue()}"


def test_a_template_without_any_seals_nothing(fleet: Fleet, host: Agent) -> None:
    fleet.checked()
    assert Command.objects.get().sealed is None
