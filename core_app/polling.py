"""Lists and objects that are looked at again and again: 304 is answered from their columns, with nothing rendered."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from django.db import models
from django.http import HttpResponseBase
from django.utils.cache import get_conditional_response  # what the middleware uses, before there is a body
from rest_framework.request import Request
from rest_framework.response import Response


def answer(
    request: Request, rows: Iterable[models.Model], render: Callable[[], Response], *, links: Any = ()
) -> HttpResponseBase:
    """304 if the caller has seen these rows as they are (``If-None-Match``), else what ``render`` makes, with an ETag.

    Everything that is shown must have been loaded with the rows, as columns or as related rows: what is only computed
    from other rows would change unseen. ``links``: what else is shown, such as whether there is another page.
    """
    etag = etag_of(rows, links)
    unchanged = get_conditional_response(request._request, etag=etag)
    response = unchanged if unchanged is not None else render()
    response["ETag"] = etag
    return response


def etag_of(rows: Iterable[models.Model], links: Any = ()) -> str:
    """Of all loaded columns of the rows, and of the rows that were loaded with them."""
    met: set[int] = set()
    text = repr(([_loaded(row, met) for row in rows], links))
    return f'W/"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def _loaded(row: models.Model, met: set[int]) -> Any:
    """``met``: rows that refer to each other are taken once."""
    if id(row) in met:
        return row.pk
    met.add(id(row))
    columns = [(name, value) for name, value in row.__dict__.items() if not name.startswith("_")]
    single = [(name, _loaded(one, met)) for name, one in row._state.fields_cache.items() if one is not None]
    prefetched = getattr(row, "_prefetched_objects_cache", {})
    many = [(name, [_loaded(one, met) for one in related]) for name, related in prefetched.items()]
    return type(row).__name__, columns, single, many
