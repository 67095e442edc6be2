"""The HTTP side: one request at a time, sent again where that can do no harm, and errors as people can use them."""

import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import NewConnectionError

from cloudctl.cli.access import Access
from cloudctl.cli.errors import ExitCode, RefusedError, UnreachableError

CONNECT_SECONDS, READ_SECONDS = 5.0, 60.0
PAUSES_SECONDS = (0.5, 1.0, 2.0)
"""Before the second and later tries of a request that got no answer."""
WAIT_LIMIT_SECONDS = 30.0
"""How long a server's Retry-After is obeyed; after that its refusal is the answer."""
PAGE_SIZE_LIMIT = 1000
_NOT_READY = {502, 503, 504}
_MAY_PASS = {409, 429, 503}


class _TokenAuth(requests.auth.AuthBase):
    """Not a plain header: requests would replace it by what a .netrc says of the server."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Token {self._token}"
        return request


@dataclass(frozen=True)
class Reply:
    """A 2xx answer, or 304. ``body`` is None where there is none."""

    status: int
    body: Any
    headers: Mapping[str, str]


class Client:
    """Speaks for one token to one server."""

    def __init__(self, access: Access, pauses: tuple[float, ...] = PAUSES_SECONDS) -> None:
        self.url = access.url
        self._pauses = pauses
        self._session = requests.Session()
        self._session.auth = _TokenAuth(access.token)
        self._session.headers["Accept"] = "application/json"
        self._etags: dict[str, tuple[str, Any]] = {}
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=0))

    def send(self, method: str, path: str, *, query: Mapping[str, Any] | None = None, body: Any = None) -> Reply:
        """The answer of ``/api/v1/`` and ``path``. Raises RefusedError or UnreachableError.

        A POST carries an Idempotency-Key, the same one in each try, so that a lost answer makes nothing twice.
        """
        headers = {"Idempotency-Key": str(uuid.uuid4())} if method == "POST" else {}
        return self._send(method, f"api/v1/{path}", headers, query=query, body=body)

    def get(self, path: str, **query: Any) -> Any:
        """The body of a resource."""
        return self.send("GET", path, query=query).body

    def poll(self, path: str) -> Any:
        """As :meth:`get`, cheap when asked again and nothing changed (ETag, 304)."""
        etag, known = self._etags.get(path, ("", None))
        reply = self._send("GET", f"api/v1/{path}", {"If-None-Match": etag} if etag else {})
        if reply.status == requests.codes.not_modified:
            return known
        self._etags[path] = (reply.headers.get("ETag", ""), reply.body)
        return reply.body

    def pages(self, path: str, query: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """A list's pages, each as the server gives it."""
        cursor: dict[str, Any] = {}
        while True:
            page = self.send("GET", path, query={**query, **cursor}).body
            yield page
            if not page["next"]:
                return
            # Only its cursor: the token goes nowhere but to the address that it was given for.
            cursor = {"cursor": parse_qs(urlsplit(page["next"]).query)["cursor"][0]}

    def rows(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """All rows of a list."""
        for page in self.pages(path, {"page_size": PAGE_SIZE_LIMIT, **query}):
            yield from page["results"]

    def look(self, path: str) -> tuple[int, Any, Mapping[str, str]]:
        """Status, body and headers of one of the server's paths, whatever the status. Raises UnreachableError."""
        response = self._once("GET", path, {}, None, None)
        return response.status_code, _json_of(response), response.headers

    def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        query: Mapping[str, Any] | None = None,
        body: Any = None,
    ) -> Reply:
        deadline = time.monotonic() + WAIT_LIMIT_SECONDS
        while True:
            response = self._until_answered(method, path, headers, query, body)
            pause = _pause_asked_for(response)
            if pause is None or time.monotonic() + pause > deadline:
                break
            time.sleep(pause)
        if response.status_code in _NOT_READY:
            raise _not_ready(self.url, response)
        if response.status_code >= requests.codes.bad_request or response.is_redirect:
            raise refused(response.status_code, _json_of(response))
        return Reply(response.status_code, _json_of(response), response.headers)

    def _until_answered(
        self, method: str, path: str, headers: Mapping[str, str], query: Mapping[str, Any] | None, body: Any
    ) -> requests.Response:
        for pause in self._pauses:
            try:
                return self._once(method, path, headers, query, body)
            except UnreachableError as error:
                if method == "DELETE" and not _was_never_sent(error):
                    raise
                time.sleep(pause)
        return self._once(method, path, headers, query, body)

    def _once(
        self, method: str, path: str, headers: Mapping[str, str], query: Mapping[str, Any] | None, body: Any
    ) -> requests.Response:
        try:
            return self._session.request(
                method,
                f"{self.url}/{path}",
                params=query or {},
                json=body,
                headers=headers,
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise _no_answer(method, self.url, error) from error


def refused(status: int, problem: Any) -> RefusedError:
    """The error for an answer of 400 or above: its problem details (RFC 9457) where it has them."""
    parts = problem if isinstance(problem, dict) else {}
    error = RefusedError(
        str(parts.get("cause") or parts.get("detail") or f"The server answered {status} and did not say why."),
        str(parts.get("consequence") or "It is not known whether something was done."),
        str(parts.get("remedy") or "Check the address; it must be that of a cloudctl server."),
        ExitCode.FAILED,
        tuple(_details(status, parts)),
    )
    error.status = status
    return error


def _details(status: int, problem: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if status == requests.codes.unauthorized:
        yield "the token", "It comes from --token-file, CLOUDCTL_TOKEN or ~/.config/cloudctl/config.toml."
    errors = problem.get("errors")
    for name, messages in errors.items() if isinstance(errors, dict) else ():
        yield str(name), " ".join(str(message) for message in messages)
    if operation := problem.get("operation"):
        yield "in the way", f"operation {operation}; watch it with: cloudctl operations watch {operation}"


def _pause_asked_for(response: requests.Response) -> float | None:
    """Seconds of a Retry-After; None if the answer is one to take as it is."""
    text = response.headers.get("Retry-After", "")
    return float(text) if response.status_code in _MAY_PASS and text.isdecimal() else None


def _json_of(response: requests.Response) -> Any:
    try:
        return response.json() if response.content else None
    except requests.JSONDecodeError:
        return None


def _not_ready(url: str, response: requests.Response) -> UnreachableError:
    problem = _json_of(response)
    cause = problem.get("cause") if isinstance(problem, dict) else None
    return UnreachableError(
        str(cause or f"{url} answered {response.status_code}."),
        "Nothing is known of what was asked for.",
        "Try again in a minute; `cloudctl doctor` says what is missing.",
    )


def _no_answer(method: str, url: str, error: requests.RequestException) -> UnreachableError:
    done = "Nothing was done." if method == "GET" or _never_sent(error) else "It may or may not have been done."
    return UnreachableError(
        f"{url} does not answer ({_reason(error)}).",
        done,
        "Check the address and the network; `cloudctl doctor` looks closer.",
    )


def _reason(error: requests.RequestException) -> str:
    inner = getattr(error.args[0], "reason", error.args[0]) if error.args else error
    return str(inner).rsplit(": ", 1)[-1]


def _never_sent(error: BaseException | None) -> bool:
    if isinstance(error, requests.ConnectTimeout):
        return True
    inner = error.args[0] if isinstance(error, requests.RequestException) and error.args else None
    return isinstance(getattr(inner, "reason", None), NewConnectionError)


def _was_never_sent(error: UnreachableError) -> bool:
    return _never_sent(error.__cause__)
