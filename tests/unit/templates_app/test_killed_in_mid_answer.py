"""A server that is killed while it answers a POST with ``Idempotency-Key``."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.models.signals import post_save

from core_app.models import IdempotencyKey
from infra_app.models import Agent
from operations_app.models import Command, Operation
from templates_app.models import Template
from tests.unit.core_app.test_idempotency import post
from tests.unit.people import Person
from tests.unit.templates_app.fleet import URL, Fleet


def _killed_when(moment: Callable[[], None], request: Callable[[], Any]) -> None:
    """Let another process answer the request as the server would, and die by SIGKILL at the moment."""
    connections.close_all()  # a child must not share the parent's

    def serve() -> None:
        moment()
        request()

    child = multiprocessing.get_context("fork").Process(target=serve)
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL


def _die(**_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before_the_answer_is_written() -> None:
    post_save.connect(_die, sender=Command)


def before_the_commit() -> None:
    post_save.connect(_die, sender=IdempotencyKey)


def after_the_commit() -> None:
    post_save.connect(lambda **_: transaction.on_commit(_die), sender=IdempotencyKey, weak=False)


@pytest.mark.parametrize("moment", [before_the_answer_is_written, before_the_commit, after_the_commit])
def test_a_server_that_is_killed_leaves_all_or_nothing(
    transactional_db: None, alice: Person, fleet: Fleet, host: Agent, moment: Callable[[], None]
) -> None:
    wish = {"name": "debian", "url": URL, "format": "qcow2"}
    _killed_when(moment, lambda: post(alice, "templates/", wish))
    left = 1 if moment is after_the_commit else 0
    rows = (Template, Operation, Command, IdempotencyKey)
    assert [model._default_manager.count() for model in rows] == [left] * 4
    assert fleet.account.limit_rows.get(resource="templates").used == left
    answers = [post(alice, "templates/", wish) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    assert answers[0]["Location"] == answers[1]["Location"] == f"/api/v1/operations/{Operation.objects.get().pk}/"
    assert [model._default_manager.count() for model in rows] == [1] * 4
    assert fleet.account.limit_rows.get(resource="templates").used == 1
