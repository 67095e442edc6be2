"""How values look on the admin's pages. Whatever comes from people or hosts is escaped here, by ``format_html``."""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.db.models import Model
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from core_app.references import reference_type
from core_app.sizes import size_text

NOTHING = SafeString("\u2013")

_WORDS: Mapping[str, str] = {
    "good": "up ready running succeeded answering completed done reconciled",
    "busy": "pending creating starting stopping destroying allocated downloading created sent queued started processing"
    " reconciling joined attaching detaching resizing reverting merging migrating rebooting",
    "warning": "disconnected maintenance interrupted timed_out reconcile_retry warning silent undone cancelled paused",
    "bad": "failed error needs_attention reconcile_failed alarm down crashed",
}
"""Colour by state, for the words of all rooms. The word itself is always shown; what is in no row is quiet."""
_TONES = {word: name for name, words in _WORDS.items() for word in words.split()}


def tone(word: str) -> str:
    return _TONES.get(word.lower(), "quiet")


def badge(word: object, colour: str = "") -> SafeString:
    """A state as a coloured word."""
    text = str(word)
    if not text:
        return NOTHING
    return format_html('<span class="badge {}">{}</span>', colour or tone(text), text.lower().replace("_", " "))


_WRITTEN = {"vm": "VM", "vms": "VMs", "cpus": "CPUs", "url": "URL", "id": "id", "iso": "ISO", "ssh": "SSH"}


def sentence(name: object) -> str:
    """The name of a field or model as a label: ``root size``, ``VMs``."""
    words = [_WRITTEN.get(word, word) for word in str(name).replace("_", " ").split()]
    text = " ".join(words)
    return text[:1].upper() + text[1:]


def size(size_bytes: int | None) -> SafeString:
    if size_bytes is None:
        return NOTHING
    return format_html('<span title="{} bytes">{}</span>', size_bytes, size_text(size_bytes))


def when(moment: datetime | None) -> SafeString:
    """A time in UTC."""
    return _time(moment, SafeString(""))


def ago(moment: datetime | None) -> SafeString:
    """As :func:`when`, and where there is a script it shows how long ago that was."""
    return _time(moment, SafeString("data-ago "))


def _time(moment: datetime | None, attribute: SafeString) -> SafeString:
    if moment is None:
        return NOTHING
    text = f"{moment:%Y-%m-%d %H:%M:%S}"
    return format_html('<time {}datetime="{}" title="{} UTC">{}</time>', attribute, moment.isoformat(), text, text)


def meter(percent: int, text: object = "", kind: str = "") -> SafeString:
    """A bar with its percent in words."""
    return format_html(
        '<span class="meter {}"><progress max="100" value="{}">{} %</progress><span>{}</span></span>',
        kind,
        percent,
        percent,
        text or f"{percent} %",
    )


def mono(text: object) -> SafeString:
    """Something to be copied: an id, a path, a URL."""
    return format_html("<code>{}</code>", text) if text else NOTHING


def pretty(value: Any) -> SafeString:
    """Data as indented JSON."""
    if value in (None, {}, []):
        return NOTHING
    return format_html("<pre>{}</pre>", json.dumps(value, indent=2, sort_keys=True, default=str, ensure_ascii=False))


def folded(title: object, body: SafeString) -> SafeString:
    """Details that are opened by a click."""
    return NOTHING if body == NOTHING else format_html("<details><summary>{}</summary>{}</details>", title, body)


def problem(error: Mapping[str, Any] | None) -> SafeString:
    """Cause, consequence and remedy, each on a line of its own."""
    if not error:
        return NOTHING
    lines = format_html_join(
        "",
        "<p><b>{}</b> {}</p>",
        ((part.capitalize(), str(error[part])) for part in ("cause", "consequence", "remedy") if error.get(part)),
    )
    reasons = error.get("hosts") or ()
    tried = format_html_join("", "<li>{}: {}</li>", ((host.get("host"), host.get("reason")) for host in reasons))
    return format_html('<div class="problem">{}{}</div>', lines, format_html("<ul>{}</ul>", tried) if tried else "")


def url_of(row: Model) -> str:
    """The row's page; empty where its model has none."""
    try:
        return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])
    except NoReverseMatch:
        return ""


def link(row: Model | None, text: object = "") -> SafeString:
    """The row's name, leading to its page."""
    if row is None:
        return NOTHING
    url = url_of(row)
    return format_html('<a href="{}">{}</a>', url, text or row) if url else format_html("{}", text or row)


def link_to(kind: str, pk: object, name: object) -> SafeString:
    """A reference ``{type, id, name}``, leading to its page if its type has pages."""
    for model in admin.site._registry:
        if reference_type(model) == kind:
            path = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[pk])
            return format_html('<a href="{}">{}</a>', path, name or pk)
    return format_html("{}", name or kind or NOTHING)


def lines(cells: Iterable[object]) -> SafeString:
    """One under the other."""
    return format_html_join("", "<div>{}</div>", ((cell,) for cell in cells)) or NOTHING
