"""A small client of the HTTP API for tests and the demo: JSON in, JSON out, waiting with a deadline."""

from collections.abc import Callable, Iterator
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from tests.lab.waiting import poll

_TIMEOUT_SECONDS = 30.0

# "needs_attention" is not final, but nothing changes it without a person.
SETTLED = ("succeeded", "failed", "cancelled", "needs_attention")


class ApiError(Exception):
    """An answer of 400 or above: `status`, and the problem document (RFC 9457) as `problem`."""

    def __init__(self, method: str, path: str, response: requests.Response) -> None:
        self.status = response.status_code
        try:
            self.problem: dict[str, Any] = response.json()
        except requests.JSONDecodeError:
            self.problem = {"detail": response.text[:500]}
        super().__init__(f"{method} {path}: {self.status} {self.problem}")


class Client:
    """Speaks for one token. Paths are below `/api/v1/`, as `vms/` or `vms/ID/stop/`."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Token {token}"
        # An idle connection may be closed by the server in the moment in which it is used again.
        self.session.mount(
            "http://", HTTPAdapter(max_retries=Retry(connect=0, read=1, status=0, allowed_methods={"GET"}))
        )

    def get(self, path: str, **query: Any) -> Any:
        """The resource; ApiError if there is none."""
        return self.send("GET", path, params=query).json()

    def list(self, path: str, **query: Any) -> Iterator[Any]:
        """All rows of a list, page after page."""
        page = self.get(path, **query)
        yield from page["results"]
        while page["next"]:
            response = self.session.get(page["next"], timeout=_TIMEOUT_SECONDS)
            response.raise_for_status()
            page = response.json()
            yield from page["results"]

    def find(self, path: str, **query: Any) -> Any:
        """The one row of a list that matches; LookupError unless there is exactly one."""
        found = list(self.list(path, **query))
        if len(found) != 1:
            raise LookupError(f"{path} {query}: {len(found)} rows instead of one")
        return found[0]

    def post(self, path: str, body: object = None, key: str | None = None, **query: Any) -> Any:
        """The answer's body: for a host's work the operation. `key` is the Idempotency-Key."""
        headers = {"Idempotency-Key": key} if key else {}
        return self.send("POST", path, json=body or {}, headers=headers, params=query).json()

    def put(self, path: str, body: object) -> Any:
        """The answer's body."""
        return self.send("PUT", path, json=body).json()

    def delete(self, path: str, **query: Any) -> Any:
        """The answer's body, an operation where a host has work to do; None where it has none."""
        response = self.send("DELETE", path, params=query)
        return response.json() if response.content else None

    def send(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """One request, with what `requests` takes; ApiError for 400 and above."""
        response = self.session.request(method, f"{self.url}/api/v1/{path}", timeout=_TIMEOUT_SECONDS, **arguments)
        if response.status_code >= requests.codes.bad_request:
            raise ApiError(method, path, response)
        return response

    def wait(self, path: str, wanted: Callable[[Any], object], timeout: float) -> Any:
        """Reads a resource until it is as wanted; the error shows how it was last.

        A server that is down meanwhile, or without its database, is waited for: tests kill them.
        """
        last: Any = None

        def look() -> Any:
            nonlocal last
            try:
                last = self.get(path)
            except (requests.ConnectionError, ApiError) as error:
                if isinstance(error, ApiError) and error.status != requests.codes.unavailable:
                    raise
                last = error
                return None
            return last if wanted(last) else None

        try:
            return poll(look, timeout, path)
        except TimeoutError as late:
            raise TimeoutError(f"{late}; it was last {last}") from None

    def wait_operation(self, operation: str, timeout: float = 60.0, state: str | None = "succeeded") -> Any:
        """The operation when nothing more happens to it by itself; AssertionError if that is not `state`."""
        settled = self.wait(f"operations/{operation}/", lambda row: row["state"] in SETTLED, timeout)
        assert state in (None, settled["state"]), settled
        return settled

    def wait_vm(self, vm: str, timeout: float = 60.0, **fields: Any) -> Any:
        """The VM when its fields are these, for instance `state="running"` or `guest_agent="answering"`."""
        return self.wait(f"vms/{vm}/", lambda row: all(row[name] == value for name, value in fields.items()), timeout)
