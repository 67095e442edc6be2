"""The API does what its OpenAPI document says: made-up requests to every route, the answers held against the document.

Each route gets ``EXAMPLES`` requests. The seed is printed; ``CLOUDCTL_API_SEED`` repeats a run.
"""

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, transaction
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from infra_app.models import Agent, StoragePool
from templates_app.models import Placement, Template
from tests.unit.compute_app.every_route import API, objects, routes
from tests.unit.people import Person
from tests.unit.templates_app.fleet import Fleet

EXAMPLES = 8
SEED = int(os.environ.get("CLOUDCTL_API_SEED", random.randrange(2**32)))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
REFERENCES = {
    "account": "accounts",
    "user": "users",
    "zone": "zones",
    "host": "hosts",
    "pool": "storage-pools",
    "template": "templates",
    "vm": "vms",
    "command": "commands",
}


@pytest.fixture(scope="module")
def described() -> Any:
    """The document, and the server that it describes."""
    document = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    schema = schemathesis.openapi.from_dict(document)
    schema.app = WSGIHandler()
    return schema


@pytest.fixture(autouse=True)
def one_connection() -> Iterator[None]:
    """The server's requests are in the test's transaction, as Django's own test client has them."""
    for moment in (request_started, request_finished):
        moment.disconnect(close_old_connections)
    yield
    for moment in (request_started, request_finished):
        moment.connect(close_old_connections)


@pytest.fixture
def known(fleet: Fleet, template: Template, pool: StoragePool, host: Agent, alice: Person) -> dict[str, Any]:
    return {name: str(pk) for name, pk in objects(fleet, template, pool, host, alice).items()}


def aimed(body: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """The body about objects that there are."""
    return {name: known.get(REFERENCES.get(name, ""), value) for name, value in body.items()}


@pytest.mark.parametrize("route", [" ".join(route) for route in routes()])
def test_the_answers_are_as_described(olga: Person, known: dict[str, Any], described: Any, route: str) -> None:
    print(f"CLOUDCTL_API_SEED={SEED}")
    method, path = route.split()
    template = path.replace("{id}", "{name}") if path.startswith("settings/") else path
    operation = described[API + template][method]
    authorization = olga._credentials["HTTP_AUTHORIZATION"]  # type: ignore[attr-defined]  # what credentials() keeps

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def hold(case: Any) -> None:
        if "{" in path:
            case.path_parameters = dict.fromkeys(case.path_parameters, known[path.split("/{")[0]])
        if isinstance(case.body, dict):
            case.body = aimed(case.body, known)
        case.headers = {**(case.headers or {}), "Authorization": authorization}
        with transaction.atomic():
            answer = case.call()
            transaction.set_rollback(True)
        case.validate_response(answer, checks=CHECKS)

    hold()


def test_each_example_works(olga: Person, known: dict[str, Any]) -> None:
    Placement.objects.update(state="absent")  # else there is nothing to prepare
    document = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    refused, tried = {}, set()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            for example in content.get("examples", {}).values():
                route = f"{method} {path.removeprefix(API)}"
                name = route.split()[1].split("/{", maxsplit=1)[0]
                with transaction.atomic():
                    url = path.format(id=known.get(name), name=known.get(name))
                    answer = getattr(olga, method)(url, aimed(example["value"], known))
                    transaction.set_rollback(True)
                tried.add(route)
                if answer.status_code >= 300:
                    refused[route] = answer.json()
    assert refused == {}
    assert tried >= {"post templates/", "post vms/", "post volumes/", "post storage-pools/", "patch accounts/{id}/"}
