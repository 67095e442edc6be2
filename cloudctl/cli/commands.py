"""The table of ``resources.py`` as commands."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any
from urllib.parse import quote

import click
from click.shell_completion import CompletionItem

from cloudctl.cli.client import PAGE_SIZE_LIMIT, Client
from cloudctl.cli.errors import CliError, ExitCode
from cloudctl.cli.output import clean, print_error, print_json, print_lines, print_row, print_rows, say
from cloudctl.cli.resources import BY_NAME
from cloudctl.cli.session import Session
from cloudctl.cli.table import Answer, Call, Field, Kind, Resource
from cloudctl.cli.values import seconds_of, value_of
from cloudctl.cli.waiting import SETTLED, describe, exit_code_of, wait, watch_open

METAVARS = {
    Kind.TEXT: "TEXT",
    Kind.CONTENT: "TEXT|@FILE",
    Kind.SECRET: "@FILE",
    Kind.NUMBER: "NUMBER",
    Kind.BYTES: "SIZE",
    Kind.SECONDS: "TIME",
    Kind.REFERENCE: "ID|NAME",
    Kind.MAP: "NAME=VALUE",
    Kind.SECRET_MAP: "NAME=@FILE",
    Kind.OBJECT: "MEMBER=VALUE,…",
    Kind.JSON: "JSON",
}
"""What stands for a value in ``--help``."""
COMPLETED_NAMES = 100
ACCEPTED = 202

Given = dict[str, Any]
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


class Value(click.ParamType[Any]):
    """A field's value as JSON."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self.name = field.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        # Completion parses as well: it must not wait for standard input.
        if not isinstance(value, str) or (ctx and ctx.resilient_parsing):
            return value
        try:
            return value_of(self.field, value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Duration(click.ParamType[float]):
    """``15m`` as seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return seconds_of(value) if isinstance(value, str) else float(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


OUTPUT = click.Option(
    ["--output", "-o"], type=click.Choice(["table", "json"]), default="table", help="How to print it."
)
WAITING = (
    click.Option(["--wait", "-w"], is_flag=True, help="Stay until it is over; the exit code says how it came out."),
    click.Option(["--timeout"], type=Duration(), metavar="TIME", help="Stop waiting after this time; it goes on."),
)
PAGING = (
    click.Option(["--all", "every"], is_flag=True, help="All pages."),
    click.Option(["--page-size"], type=click.IntRange(1, 1000), help="Rows a page."),
)
ORDERING = click.Option(["--ordering"], metavar="FIELD", help="Order by this field; after a minus sign: backwards.")


def group_of(resource: Resource) -> click.Group:
    """A resource's commands."""
    return click.Group(resource.name, [command_of(resource, call) for call in resource.calls], help=resource.help)


def command_of(resource: Resource, call: Call) -> click.Command:
    """One call as a command."""

    def run(**given: Any) -> int:
        return Run(click.get_current_context().ensure_object(Session), resource, call, given).perform()

    return click.Command(call.name, callback=run, params=[*_parameters(resource, call)], help=call.help)


def _parameters(resource: Resource, call: Call) -> Iterable[click.Parameter]:
    if call.takes_reference:
        shown = "ID|NAME" if resource.named else "NAME" if "{name}" in call.path else "ID"
        yield click.Argument(["reference"], metavar=shown, shell_complete=complete(resource))
    yield from map(_parameter, chain(call.body, call.query))
    if call.answer is Answer.PAGES:
        yield from (*PAGING, *([ORDERING] if call.ordered else []))
    if call.answer is Answer.OPERATION:
        yield from WAITING
    yield OUTPUT


def _parameter(field: Field) -> click.Parameter:
    key = _key(field)
    if field.argument:
        return click.Argument([key], type=Value(field), metavar=field.name.upper(), required=field.required)
    words = [f"--{field.word_of_option}", key]
    if field.kind is Kind.FLAG:
        words[0] += f"/--no-{field.word_of_option}"
        return click.Option(words, default=None, required=field.required, help=field.help)
    return click.Option(
        words,
        type=Value(field),
        metavar="|".join(field.choices) or METAVARS[field.kind],
        multiple=_is_repeated(field),
        required=field.required,
        help=field.help,
        shell_complete=complete(BY_NAME[field.to]) if field.to else _complete_choices(field.choices),
    )


def _key(field: Field) -> str:
    """The parameter's name inside click, where no option of ours can be in its way."""
    return f"field_{field.name}"


def _is_repeated(field: Field) -> bool:
    return field.many or field.kind in {Kind.MAP, Kind.SECRET_MAP}


# --- doing it -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One call with what was given for it."""

    session: Session
    resource: Resource
    call: Call
    given: Given

    def perform(self) -> int:
        """Send the request and print its answer; returns the exit code. Raises CliError."""
        query = {name: _word(value) for name, value in self._fields(self.call.query).items()}
        path = self._path()
        if self.call.answer is Answer.PAGES:
            return self._print_pages(path, query)
        body = None if self.call.method in {"GET", "DELETE"} else self._fields(self.call.body)
        reply = self.session.client.send(self.call.method, path, query=query, body=body)
        if reply.status == ACCEPTED:
            return self._follow(reply.body)
        # What a dry run of an operation answers is its plan.
        return self._print_answer(reply.body)

    def _path(self) -> str:
        if "{id}" in self.call.path:
            return self.call.path.format(id=self.session.references.id_of(self.resource, self.given["reference"]))
        return self.call.path.format(name=quote(self.given.get("reference", ""), safe=""))

    def _fields(self, fields: Iterable[Field]) -> Given:
        """What was given of these fields, as the API takes it."""
        chosen = {field: self.given[_key(field)] for field in fields}
        return {field.name: self._json(field, value) for field, value in chosen.items() if value not in (None, ())}

    def _json(self, field: Field, value: Any) -> Any:
        if field.kind in {Kind.MAP, Kind.SECRET_MAP}:
            return dict(value)
        if field.kind is not Kind.REFERENCE:
            return list(value) if field.many else value
        if field.many and value == (field.word,):
            return field.word
        find = partial(self.session.references.id_of, BY_NAME[field.to])
        return list(map(find, value)) if field.many else find(value)

    def _print_pages(self, path: str, query: Given) -> int:
        given = self.given
        size = given["page_size"] or (PAGE_SIZE_LIMIT if given["every"] else None)
        asked = {"ordering": given.get("ordering"), "page_size": size}
        pages = self.session.client.pages(path, query | {name: one for name, one in asked.items() if one})
        first = next(pages)
        further = pages if given["every"] else iter(())
        self._print_rows([row for page in chain([first], further) for row in page["results"]])
        if first["next"] and not given["every"]:
            say("There are more; --all shows them.")
        return ExitCode.SUCCEEDED

    def _print_answer(self, body: Any) -> int:
        if self.call.answer is Answer.NOTHING:
            say("Done.")
        elif self.call.answer is Answer.ROWS:
            self._print_rows(body)
        else:
            self._print_row(body, body)
        return ExitCode.SUCCEEDED

    def _follow(self, operation: Any) -> int:
        """Print the operation: as it was accepted, or with ``--wait`` as it ended."""
        if not (self.given["wait"] or self.call.prints):
            self._print_row(operation, brief(operation))
            say(f"Accepted. Watch: cloudctl operations watch {operation['id']}")
            return ExitCode.SUCCEEDED
        timeout, attention = self.given["timeout"], self.call.attention_seconds
        (row,) = wait(self.session.client, [operation["id"]], timeout=timeout, attention_seconds=attention)
        text = (row["result"] or {}).get(self.call.prints)
        if text is not None and self.given["output"] == "table":
            print_lines(text)
        else:
            self._print_row(row, brief(row))
        return report(row, self.call.wanted)

    def _print_rows(self, rows: list[Any]) -> None:
        if self.given["output"] == "json":
            print_json(rows)
        else:
            print_rows(rows, self.call.columns, self.session.references)

    def _print_row(self, row: Any, shown: Given) -> None:
        """JSON has all of it, a table what is to be shown."""
        if self.given["output"] == "json":
            print_json(row)
        else:
            print_row(shown, self.session.references)


def _word(value: Any) -> Any:
    """For a query: JSON's words for yes and no."""
    return str(value).lower() if isinstance(value, bool) else value


def brief(operation: Mapping[str, Any]) -> Given:
    """The fields of an operation that matter to who asked for it."""
    shown = {name: operation[name] for name in ("id", "kind", "state")}
    shown["target"] = operation["target"]
    shown["target id"] = operation["target"]["id"]
    return shown | ({"result": operation["result"]} if operation.get("result") else {})


def report(row: Mapping[str, Any], wanted: str = "succeeded") -> ExitCode:
    """Tell on stderr why an operation is not as it was wanted; its exit code."""
    code = exit_code_of(row, wanted)
    if code is not ExitCode.SUCCEEDED:
        parts = row.get("error") or {}
        print_error(
            CliError(
                f"{describe(row)}: {row['state']}. {parts.get('cause', '')}".rstrip(),
                parts.get("consequence") or "Nothing more is known.",
                parts.get("remedy") or f"See: cloudctl commands list --operation {row['id']}",
            )
        )
    return code


# --- completion ---------------------------------------------------------------------------------------------------


def complete(resource: Resource) -> Complete:
    """Names of objects, asked of the server; nothing if it does not answer."""
    return partial(_complete_names, resource)


def _complete_names(
    resource: Resource, ctx: click.Context, _param: click.Parameter, typed: str
) -> list[CompletionItem]:
    given = ctx.find_root().params
    key = "name" if resource.named or resource.path == "settings/" else "id"
    try:
        client = Client(Session(given.get("url"), given.get("token_file"), given.get("config")).access, pauses=())
        page = client.get(resource.path, **({} if resource.path == "settings/" else {"page_size": COMPLETED_NAMES}))
    except CliError:
        return []
    rows = page["results"] if isinstance(page, dict) else page
    names = {clean(str(row[key])) for row in rows if row.get("state") not in resource.gone}
    return [CompletionItem(name) for name in sorted(names) if name.startswith(typed)]


def _complete_choices(choices: tuple[str, ...]) -> Complete | None:
    if not choices:
        return None
    return lambda _ctx, _param, typed: [CompletionItem(one) for one in choices if one.startswith(typed)]


# --- watching -----------------------------------------------------------------------------------------------------


@click.command("watch", params=[WAITING[1], OUTPUT])
@click.argument("ids", nargs=-1, metavar="[ID]…", shell_complete=complete(BY_NAME["operations"]))
def watch(ids: tuple[str, ...], timeout: float | None, output: str) -> int:
    """Watch operations until they are over; without an id all that are open, until Ctrl-C.

    The exit code is that of the one that came out worst.
    """
    session = click.get_current_context().ensure_object(Session)
    if not ids:
        watch_open(session.client)
        return ExitCode.SUCCEEDED
    wanted = [session.references.id_of(BY_NAME["operations"], key) for key in ids]
    rows = wait(session.client, wanted, timeout=timeout)
    if output == "json":
        print_json(rows)
    return max((report(row) for row in rows), key=list(SETTLED.values()).index)
