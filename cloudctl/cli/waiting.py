"""Waiting for operations, with bars in a terminal and lines elsewhere. The wait is ours, the operation the server's:
to leave changes nothing about it."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from cloudctl.cli.client import Client
from cloudctl.cli.errors import CliError, ExitCode, UnreachableError
from cloudctl.cli.output import clean, console, say, size

SETTLED = {
    "succeeded": ExitCode.SUCCEEDED,
    "failed": ExitCode.FAILED,
    "cancelled": ExitCode.CANCELLED,
    "needs_attention": ExitCode.NEEDS_ATTENTION,
}
OPEN = ("pending", "running", "needs_attention")
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 2.0
UNREACHABLE_SECONDS = 120.0
"""A server that is away for so long is given up; one that is restarted is waited for."""
LINE_STEP_PERCENT = 10

Row = Mapping[str, Any]


class View(Protocol):
    """Shows operations as they go on."""

    def show(self, row: Row) -> None: ...


def exit_code_of(row: Row, wanted: str = "succeeded") -> ExitCode:
    """How a settled operation came out for somebody who wanted it to end as ``wanted``."""
    if row["state"] == wanted:
        return ExitCode.SUCCEEDED
    return SETTLED[row["state"]] or ExitCode.FAILED


def describe(row: Row) -> str:
    """``vm_deploy web1``."""
    return f"{row['kind']} {row['target']['name']}"


def story(row: Row) -> str:
    """Step, bytes, rate, time left and message of an operation on its way; its state once it is settled."""
    progress = row.get("progress") or {}
    done, total = progress.get("done_bytes") or 0, progress.get("total_bytes") or 0
    amount = f"{size(done)} of {size(total)}" if total else size(done) if done else ""
    rate = f"{size(progress['rate'])}/s" if progress.get("rate") else ""
    left = f"{progress['eta_seconds']} s left" if progress.get("eta_seconds") is not None else ""
    parts = [amount, rate, left, progress.get("message") or ""] if row["state"] == "running" else []
    where = f"{row['state']}, {row['step']}" if row.get("step") and row["state"] == "running" else row["state"]
    undone = "putting back" if row.get("direction") == "undo" and row["state"] == "running" else ""
    return " · ".join(part for part in (where, undone, *parts) if part)


class _Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def show(self, row: Row) -> None:
        if row["id"] not in self._bars:
            self._bars[row["id"]] = self._progress.add_task(clean(describe(row)), total=100, story="")
        self._progress.update(self._bars[row["id"]], completed=row["percent"], story=clean(story(row)))


class _Lines:
    """A line when the state or the step changes, and every ten percent."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[Any, ...]] = {}

    def show(self, row: Row) -> None:
        stage = (row["state"], row.get("step"), row.get("direction"), row["percent"] // LINE_STEP_PERCENT)
        if self._said.get(row["id"]) != stage:
            self._said[row["id"]] = stage
            say(f"{describe(row)}: {row['percent']} % {story(row)}")


@contextmanager
def view() -> Iterator[View]:
    """Bars if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn("{task.fields[story]}", markup=False),
    )
    with Progress(*columns, console=console(sys.stderr)) as progress:
        yield _Bars(progress)


def wait(
    client: Client,
    ids: Sequence[str],
    *,
    timeout: float | None = None,
    attention_seconds: float = 0.0,
    views: Callable[[], AbstractContextManager[View]] = view,
) -> list[Row]:
    """The operations when all are settled. Raises CliError after ``timeout`` seconds, and when it is interrupted.

    One that needs a person is settled once it has needed one for ``attention_seconds`` of this wait.
    """
    began = time.monotonic()
    patience = _Patience()
    rows: dict[str, Row] = {}

    def look(shown: View) -> bool:
        """Whether all are settled."""
        for key in [key for key in ids if not _is_settled(rows.get(key), time.monotonic() - began, attention_seconds)]:
            rows[key] = patience.ask(client, key, rows.get(key))
            shown.show(rows[key])
        return all(_is_settled(rows[key], time.monotonic() - began, attention_seconds) for key in ids)

    try:
        with views() as shown:
            while not look(shown):
                if timeout is not None and time.monotonic() - began > timeout:
                    raise _timed_out(ids, timeout)
                time.sleep(patience.pause())
    except KeyboardInterrupt:
        raise _interrupted(ids)
    return [rows[key] for key in ids]


def watch_open(client: Client) -> None:
    """Show every operation that is open, and the end of each, until Ctrl-C."""
    known: dict[str, Row] = {}
    patience = _Patience()
    with suppress(KeyboardInterrupt), view() as shown:
        while True:
            known |= {row["id"]: row for row in patience.open_rows(client)}
            for key, row in known.items():
                if row["state"] not in SETTLED:
                    known[key] = patience.ask(client, key, row)
                shown.show(known[key])
            time.sleep(LONGEST_PAUSE_SECONDS)


class _Patience:
    """How often to ask, and for how long a server that does not answer."""

    def __init__(self) -> None:
        self._pause = FIRST_PAUSE_SECONDS
        self._answered = time.monotonic()

    def ask(self, client: Client, key: str, before: Row | None) -> Row:
        """The operation; as it was, if the server is away and it is known how it was."""
        try:
            row: Row = client.poll(f"operations/{key}/")
        except UnreachableError:
            if before is None or time.monotonic() - self._answered > UNREACHABLE_SECONDS:
                raise
            return before
        self._answered = time.monotonic()
        if row != before:
            self._pause = FIRST_PAUSE_SECONDS
        return row

    def open_rows(self, client: Client) -> list[Row]:
        """All that are open now; none while the server is away."""
        try:
            rows: list[Row] = [row for state in OPEN for row in client.rows("operations/", state=state)]
        except UnreachableError:
            if time.monotonic() - self._answered > UNREACHABLE_SECONDS:
                raise
            return []
        self._answered = time.monotonic()
        return rows

    def pause(self) -> float:
        """Seconds until the next question; longer each time that nothing changed."""
        self._pause = min(self._pause * 1.5, LONGEST_PAUSE_SECONDS)
        return self._pause


def _is_settled(row: Row | None, waited: float, attention_seconds: float) -> bool:
    if row is None or row["state"] not in SETTLED:
        return False
    return row["state"] != "needs_attention" or waited >= attention_seconds


def _timed_out(ids: Sequence[str], timeout: float) -> CliError:
    return CliError(f"It is not over after {timeout:g} s.", _goes_on(ids), _watch(ids), ExitCode.TIMED_OUT)


def _interrupted(ids: Sequence[str]) -> CliError:
    return CliError("You stopped waiting.", _goes_on(ids), _watch(ids), ExitCode.INTERRUPTED)


def _goes_on(ids: Sequence[str]) -> str:
    return "The operation goes on." if len(ids) == 1 else "The operations go on."


def _watch(ids: Sequence[str]) -> str:
    cancel = f"; stop it: cloudctl operations cancel {ids[0]}" if len(ids) == 1 else ""
    return f"Watch: cloudctl operations watch {' '.join(ids)}{cancel}"
