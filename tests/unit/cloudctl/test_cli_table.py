"""The command line's table and the API's own description say the same, route by route and field by field."""

from collections.abc import Iterator
from typing import Any

import pytest
from drf_spectacular.generators import SchemaGenerator

from cloudctl.cli.resources import BY_NAME, NOT_FOR_PEOPLE, RESOURCES, SHOWN_BY_NAME
from cloudctl.cli.table import Answer, Call, Field, Kind, Resource

PREFIX = "/api/v1/"
OF_PAGES = {"cursor", "page_size", "ordering"}
TYPES: dict[Kind, set[str]] = {
    Kind.TEXT: {"string"},
    Kind.CONTENT: {"string"},
    Kind.SECRET: {"string"},
    Kind.NUMBER: {"integer"},
    Kind.BYTES: {"integer"},
    Kind.SECONDS: {"integer"},
    Kind.FLAG: {"boolean"},
    Kind.REFERENCE: {"string"},
    Kind.MAP: {"object"},
    Kind.SECRET_MAP: {"object"},
    Kind.OBJECT: {"object"},
}
"""What each kind of a field becomes in JSON; JSON itself may become anything."""
CALLS = [(resource, call) for resource in RESOURCES for call in resource.calls]
WHERE = "cloudctl/cli/resources.py"


class Document:
    """The OpenAPI document, with what its references are to."""

    def __init__(self) -> None:
        self.whole: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
        self.routes = dict(self._routes())

    def _routes(self) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
        for path, methods in self.whole["paths"].items():
            for method, route in methods.items():
                yield (method.upper(), path.removeprefix(PREFIX)), route

    def follow(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The schema with its reference followed; of alternatives their members together."""
        parts = [schema.get("allOf"), schema.get("oneOf")]
        if "$ref" in schema:
            return self.follow(self.whole["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]])
        for alternatives in filter(None, parts):
            followed = [self.follow(one) for one in alternatives]
            enum = [value for one in followed for value in one.get("enum", ()) if value]
            return {**followed[0], **({"enum": enum} if any("enum" in one for one in followed) else {})}
        return schema

    def body(self, route: dict[str, Any]) -> dict[str, Any]:
        """The schema of what is sent; empty where nothing is."""
        content = route.get("requestBody", {}).get("content", {})
        return self.follow(content["application/json"]["schema"]) if content else {}

    def answer(self, route: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Status and schema of the answer that is no error; of a route with a dry run, of what it does otherwise."""
        status, response = max((code, one) for code, one in route["responses"].items() if code.startswith("2"))
        content = response.get("content", {})
        return status, self.follow(content["application/json"]["schema"]) if content else {}


@pytest.fixture(scope="module")
def api() -> Document:
    return Document()


def _named(call: tuple[Resource, Call]) -> str:
    return f"{call[0].name} {call[1].name}"


def test_every_route_is_a_command_and_the_other_way_round(api: Document) -> None:
    commands = {(call.method, call.path): _named((resource, call)) for resource, call in CALLS}
    assert len(commands) == len(CALLS), "two commands are the same route"
    routes = {key for key in api.routes if key not in NOT_FOR_PEOPLE}
    missing = [
        f"{method} {path} has no command: add a Call to the resource of that path in {WHERE}, "
        f"as act({path.split('{')[0]!r}, {path.rstrip('/').rsplit('/', 1)[-1]!r}, 'What it does.', …)"
        for method, path in sorted(routes - set(commands))
    ]
    stale = [
        f"`cloudctl {commands[key]}` is {' '.join(key)}, which the API has not: take it out of {WHERE}"
        for key in sorted(set(commands) - routes)
    ]
    assert missing + stale == [], "\n".join([*missing, *stale])
    assert set(NOT_FOR_PEOPLE) <= set(api.routes)


@pytest.mark.parametrize("named", CALLS, ids=_named)
def test_a_command_sends_just_the_fields_that_its_route_takes(api: Document, named: tuple[Resource, Call]) -> None:
    call = named[1]
    wrong = list(_differences(api, call, _named(named)))
    assert wrong == [], "\n".join(wrong)


def _differences(api: Document, call: Call, name: str) -> Iterator[str]:
    route = api.routes[call.method, call.path]
    body = api.body(route)
    parameters = {one["name"]: one for one in route.get("parameters", ()) if one["in"] == "query"}
    yield from _fields(api, call.body, _writable(body), f"`body` of `{name}` in {WHERE}")
    required = {field.name for field in call.body if field.required}
    wanted = {key for key in body.get("required", ()) if key in _writable(body)}
    if required != wanted and call.method != "PATCH":
        yield f"`{name}` in {WHERE}: required must be {sorted(wanted)}, it is {sorted(required)}"
    query = {key: one["schema"] for key, one in parameters.items() if key not in OF_PAGES}
    yield from _fields(api, call.query, query, f"`query` (filters) of `{name}` in {WHERE}", choices=False)
    if call.answer is Answer.PAGES and call.ordered != ("ordering" in parameters):
        yield f"`{name}` in {WHERE}: `ordered` must be {'ordering' in parameters}"


def _writable(body: dict[str, Any]) -> dict[str, Any]:
    return {key: one for key, one in body.get("properties", {}).items() if not one.get("readOnly")}


def _fields(
    api: Document, fields: tuple[Field, ...], wanted: dict[str, Any], where: str, *, choices: bool = True
) -> Iterator[str]:
    named = {field.name: field for field in fields}
    yield from (f"Field({name!r}, …) is missing in the {where}" for name in wanted if name not in named)
    yield from (f"Field({name!r}) is not the API's: take it out of the {where}" for name in named if name not in wanted)
    for name in wanted.keys() & named.keys():
        schema, field = api.follow(wanted[name]), named[name]
        if field.many and schema.get("type") == "array":
            schema = api.follow(schema["items"])
        elif schema.get("type") == "array" and choices:
            yield f"Field({name!r}) takes many: many=True in the {where}"
        if field.kind is not Kind.JSON and choices and schema.get("type") not in TYPES[field.kind]:
            yield f"Field({name!r}) is {field.kind.name}, the API takes {schema.get('type')}: correct it in the {where}"
        if choices and sorted(field.choices) != sorted(schema.get("enum", ())):
            yield f"Field({name!r}): choices={tuple(schema.get('enum', ()))} in the {where}"
        if field.members:
            yield from _fields(api, field.members, schema.get("properties", {}), f"members of {name!r} in the {where}")


@pytest.mark.parametrize("named", CALLS, ids=_named)
def test_a_command_takes_the_answer_for_what_it_is(api: Document, named: tuple[Resource, Call]) -> None:
    call = named[1]
    status, schema = api.answer(api.routes[call.method, call.path])
    properties = schema.get("properties", {})
    found = Answer.ROW if properties else Answer.NOTHING
    if status == "202":
        found = Answer.OPERATION
    elif set(properties) == {"next", "previous", "results"}:
        found = Answer.PAGES
        properties = api.follow(properties["results"]["items"])["properties"]
    elif schema.get("type") == "array":
        found = Answer.ROWS
        properties = api.follow(schema["items"])["properties"]
    assert call.answer is found, f"`{_named(named)}` in {WHERE}: the answer is {found}"
    unknown = set(call.columns) - set(properties)
    assert not unknown, f"`columns` of `{_named(named)}` in {WHERE}: the answer has no {sorted(unknown)}"
    assert bool(call.columns) == (found in {Answer.PAGES, Answer.ROWS})


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.name)
def test_what_is_referred_to_by_name_has_names_and_states(api: Document, resource: Resource) -> None:
    if not resource.named and not resource.gone:
        return
    row = api.follow(api.answer(api.routes["GET", f"{resource.path}{{id}}/"])[1])
    assert not resource.named or "name" in row["properties"]
    states = api.follow(row["properties"].get("state", {})).get("enum", ())
    assert set(resource.gone) <= set(states), f"`gone` of {resource.name} in {WHERE}: states are {states}"


def test_references_are_to_resources_that_there_are() -> None:
    fields = [field for _, call in CALLS for field in (*call.body, *call.query)]
    assert {field.to for field in fields if field.kind is Kind.REFERENCE} <= set(BY_NAME)
    assert {field.name for field in fields if field.to and field.kind is not Kind.REFERENCE} == set()
    assert set(SHOWN_BY_NAME.values()) <= {resource.name for resource in RESOURCES if resource.named}


@pytest.mark.parametrize("named", CALLS, ids=_named)
def test_no_two_options_of_a_command_are_the_same_word(named: tuple[Resource, Call]) -> None:
    words = [field.word_of_option for field in (*named[1].body, *named[1].query)]
    ours = {"wait", "timeout", "output", "all", "page-size", "ordering", "help"}
    assert len({*words, *ours}) == len(words) + len(ours)


def test_secrets_have_no_option_that_takes_them_from_the_command_line() -> None:
    fields = [field for _, call in CALLS for field in call.body]
    secret = {"password", "secret_headers", "token", "private_key"}
    assert {field.kind for field in fields if field.name in secret} <= {Kind.SECRET, Kind.SECRET_MAP}
