"""Every route of the router: who is let in, to whose objects, and with how many queries."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from infra_app.models import Agent, StoragePool
from templates_app.models import Template
from tests.unit.compute_app.every_route import objects, path_of, routes
from tests.unit.templates_app.fleet import Fleet

PEOPLE = ("ada", "olga", "rita", "alice", "charlie", "anonymous")
OF_TAKING_BACK = 3  # queries of a savepoint
COUNTS = Path(__file__).with_name("query_counts.json")

# What an admin, an operator, a reader of the whole fleet, the owner, an outsider and nobody get.
# "in": let in, whatever the answer to an empty body is. "none": an empty list.
POLICIES: dict[str, tuple[Any, ...]] = {
    "all": ("in", "in", "in", "in", "in", 401),
    "own list": ("in", "in", "in", "in", "none", 401),
    "own": ("in", "in", "in", "in", 404, 401),
    "fleet's list": ("in", "in", "in", "none", "none", 401),
    "fleet's": ("in", "in", "in", 404, 404, 401),
    "overseers'": ("in", "in", "in", 403, 403, 401),
    "operators'": ("in", "in", 403, 403, 403, 401),
    "makers'": ("in", "in", 403, "in", "in", 401),
    "owners'": ("in", "in", 403, "in", 404, 401),
    "own, not for oneself": ("in", "in", 403, 403, 404, 401),
    "anybody's": ("in", "in", "in", "in", "in", "in"),
}

ROUTES = {
    "GET events/": "own list",
    "GET events/{id}/": "own",
    "GET settings/": "overseers'",
    "GET settings/{id}/": "overseers'",
    "PUT settings/{id}/": "operators'",
    "GET accounts/": "own list",
    "POST accounts/": "operators'",
    "GET accounts/{id}/": "own",
    "PATCH accounts/{id}/": "operators'",
    "GET users/": "own list",
    "POST users/": "operators'",
    "GET users/me/": "all",
    "GET users/{id}/": "own",
    "PATCH users/{id}/": "own, not for oneself",
    "DELETE users/{id}/": "operators'",
    "GET tokens/": "own list",
    "POST tokens/": "makers'",
    "GET tokens/{id}/": "own",
    "DELETE tokens/{id}/": "owners'",
    "GET usage-records/": "own list",
    "GET usage-records/{id}/": "own",
    "GET zones/": "all",
    "POST zones/": "operators'",
    "GET zones/{id}/": "all",
    "GET hosts/join-tokens/": "fleet's list",
    "POST hosts/join-tokens/": "operators'",
    "GET hosts/join-tokens/{id}/": "fleet's",
    "GET hosts/": "fleet's list",
    "GET hosts/{id}/": "fleet's",
    "GET storage-pools/": "fleet's list",
    "POST storage-pools/": "operators'",
    "GET storage-pools/{id}/": "fleet's",
    "POST agents/join/": "anybody's",
    "GET operations/": "own list",
    "GET operations/{id}/": "own",
    "POST operations/{id}/cancel/": "owners'",
    "POST operations/{id}/settle/": "operators'",
    "GET commands/": "own list",
    "GET commands/{id}/": "own",
    "POST commands/{id}/reconcile/": "operators'",
    "GET templates/": "own list",
    "POST templates/": "makers'",
    "GET templates/{id}/": "own",
    "DELETE templates/{id}/": "owners'",
    "GET templates/{id}/placements/": "own",
    "POST templates/{id}/prepare/": "owners'",
    "GET networks/": "all",
    "POST networks/": "operators'",
    "GET networks/{id}/": "all",
    "DELETE networks/{id}/": "operators'",
    "GET vms/": "own list",
    "POST vms/": "makers'",
    "GET vms/{id}/": "own",
    "PATCH vms/{id}/": "owners'",
    "DELETE vms/{id}/": "owners'",
    "POST vms/{id}/console/": "owners'",
    "POST vms/{id}/reboot/": "owners'",
    "POST vms/{id}/recover/": "owners'",
    "POST vms/{id}/resume/": "owners'",
    "POST vms/{id}/start/": "owners'",
    "POST vms/{id}/stop/": "owners'",
    "GET volumes/": "own list",
    "POST volumes/": "makers'",
    "GET volumes/{id}/": "own",
    "DELETE volumes/{id}/": "owners'",
    "POST volumes/{id}/attach/": "owners'",
    "POST volumes/{id}/detach/": "owners'",
    "POST volumes/{id}/resize/": "owners'",
}


@pytest.fixture
def known(fleet: Fleet, template: Template, pool: StoragePool, host: Agent, alice: Any) -> dict[str, Any]:
    return objects(fleet, template, pool, host, alice)


def test_each_route_of_the_router_has_its_row() -> None:
    assert {f"{method} {path}" for method, path in routes()} == set(ROUTES)


def call(client: Any, route: str, known: dict[str, Any]) -> Any:
    """The answer; what was done is taken back."""
    method, path = route.split()
    with transaction.atomic():
        answer = getattr(client, method.lower())(path_of(path, known))
        transaction.set_rollback(True)
    assert answer.status_code < 500, (route, answer.content)
    return answer


def seen(answer: Any, route: str, known: dict[str, Any]) -> Any:
    """``in``, ``none`` or the status of a refusal."""
    if answer.status_code in {401, 403, 404}:
        return answer.status_code
    if (
        route.startswith("GET")
        and "{id}" not in route
        and isinstance(answer.json(), dict)
        and "results" in answer.json()
    ):
        ids = {row["id"] for row in answer.json()["results"]}
        return "in" if str(known[route.removeprefix("GET ").strip("/")]) in ids else "none"
    return "in"


@pytest.mark.parametrize("name", PEOPLE)
def test_who_is_let_in(request: pytest.FixtureRequest, known: dict[str, Any], name: str) -> None:
    client, column = request.getfixturevalue(name), PEOPLE.index(name)
    found = {route: seen(call(client, route, known), route, known) for route in ROUTES}
    assert found == {route: POLICIES[policy][column] for route, policy in ROUTES.items()}


def test_what_is_not_there_is_not_found(known: dict[str, Any], olga: Any) -> None:
    """A body that cannot be read may be told first."""
    nothing = dict.fromkeys(known, "00000000-0000-4000-8000-000000000000")
    statuses = {route: call(olga, route, nothing).status_code for route in ROUTES if "{id}" in route}
    assert {route for route, status in statuses.items() if status != 404 and not route.startswith("POST")} == set()
    assert set(statuses.values()) <= {400, 404}


def test_each_answer_costs_the_queries_that_were_agreed_on(known: dict[str, Any], olga: Any) -> None:
    """Whoever changes one changes its line in ``query_counts.json``, and says why."""
    call(olga, "GET zones/", known)  # notes the token's use
    counts = {}
    for route in ROUTES:
        with CaptureQueriesContext(connection) as queries:
            answer = call(olga, route, known)
        if answer.status_code < 300:
            counts[route] = len(queries) - OF_TAKING_BACK
    assert counts == json.loads(COUNTS.read_text()), json.dumps(counts, indent=1)
