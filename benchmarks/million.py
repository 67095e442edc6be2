"""Lists and sweeps where a million commands are: what is old must cost nothing."""

import base64
import json
import os
import sys
from typing import Any
from uuid import UUID

import requests

from benchmarks.measuring import Result, Sizes, Taken, interleave, timed
from benchmarks.stage import quiet
from tests.lab.client import Client
from tests.lab.lab import Lab
from tests.scenarios.cloud import Cloud

LISTS = ("operations/", "operations/?state=succeeded", "commands/")
_FILL_SECONDS = 600.0
_GET_SECONDS = 30.0


def lists(lab: Lab, sizes: Sizes) -> list[Result]:
    """The last page of each list, by the link that leads to it, beside the first."""
    _fill(lab, sizes.rows)
    with quiet(lab):
        return [_list(Cloud(lab).client, path, sizes) for path in LISTS]


def sweep(lab: Lab, sizes: Sizes) -> list[Result]:
    """A sweep that finds one in a hundred open and all in order, beside the same questions in raw SQL."""
    _fill(lab, sizes.rows)
    before = os.getloadavg()[0]
    with quiet(lab):
        values: dict[str, list[float]] = _inside(lab, "sweep", sizes.rounds)
    taken = Taken(values, (before, os.getloadavg()[0]))
    notes = [f"{sizes.rows} commands"]
    return [Result("sweep", "sweep", "raw SQL", taken, aim=3.0, notes=notes)]


def _list(client: Client, path: str, sizes: Sizes) -> Result:
    first = f"{client.url}/api/v1/{path}"
    last = _last_page(client, first)
    assert _page(client, last)["next"] is None
    sides = {"last page": timed(lambda: _page(client, last)), "first page": timed(lambda: _page(client, first))}
    taken = interleave(sides, sizes)
    return Result(f"list {path}", "last page", "first page", taken, aim=1.3, notes=[f"{sizes.rows} rows"])


def _last_page(client: Client, first: str) -> str:
    """The link to the last page, found from the list's end: nobody should have to turn ten thousand pages."""
    end = {"order": "-created_at", "at": ["0001-01-01T00:00:00Z", str(UUID(int=0))], "backwards": True}
    cursor = base64.urlsafe_b64encode(json.dumps(end).encode()).decode()
    bottom = _page(client, first, cursor=cursor)
    link: str = _page(client, bottom["previous"])["next"]
    return link


def _page(client: Client, url: str, **query: str) -> Any:
    answer: requests.Response = client.session.get(url, params=query, timeout=_GET_SECONDS)
    answer.raise_for_status()
    return answer.json()


def _fill(lab: Lab, rows: int) -> None:
    mark = lab.dir / f"filled-{rows}"
    if not mark.exists():
        with quiet(lab):
            _inside(lab, "fill", rows)
        mark.touch()


def _inside(lab: Lab, what: str, number: int) -> Any:
    command = [sys.executable, "-m", "benchmarks.inside", what, str(number)]
    return json.loads(lab.supervisor.run(f"inside-{what}", command, lab.env, _FILL_SECONDS).splitlines()[-1])
