"""Forms made from the API's serializers, so that a form takes and refuses what the API does.

A form's fields only turn text into what a JSON body would hold; the serializer decides. Sizes are written as people
write them, and references by name: a select box with a million rows helps nobody, so a reference is a text field with
suggestions (a ``datalist``, which works without a script; with one it follows what is typed).
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from rest_framework import serializers
from unfold.widgets import (
    UnfoldAdminPasswordInput,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from core_app.console import cells
from core_app.errors import CloudctlError
from core_app.problems import fields_of
from core_app.sizes import read_size, size_text

SUGGESTIONS = 20
LONG_TEXT = 2048
"""A text that may be longer has lines."""


def name_lookup(model: type[Model]) -> str:
    """The field by which people name a row of this model."""
    return str(getattr(admin.site._registry.get(model), "name_lookup", "name"))


def suggestions(rows: QuerySet[Any], typed: str = "") -> list[str]:
    """Names that begin with what was typed; a name that several rows have is followed by the id."""
    lookup = name_lookup(rows.model)
    found = list(rows.filter(**{f"{lookup}__istartswith": typed}).order_by(lookup, "pk")[:SUGGESTIONS])
    names = [str(row) for row in found]
    return [name if names.count(name) == 1 else f"{name} ({row.pk})" for name, row in zip(names, found, strict=True)]


class NamedInput(UnfoldAdminTextInputWidget):  # type: ignore[misc]  # untyped
    """A text field with suggestions."""

    template_name = "cloudctl/widgets/named.html"
    suggested: Callable[[], list[str]]
    names_url: str

    def get_context(self, name: str, value: Any, attrs: dict[str, Any] | None) -> dict[str, Any]:
        list_id = f"names-of-{name}"
        context: dict[str, Any] = super().get_context(
            name, value, {**(attrs or {}), "list": list_id, "autocomplete": "off"}
        )
        return context | {"list_id": list_id, "names": self.suggested(), "names_url": self.names_url}


class NamedField(forms.CharField):
    """A row by its name, by its id, or by ``name (id)``. The value is the id as text, as the API takes it."""

    def __init__(self, *, rows: QuerySet[Any], **options: Any) -> None:
        super().__init__(widget=NamedInput(), **options)
        self.rows = rows
        self.widget.suggested = lambda: suggestions(rows)
        names = rows.model._meta
        self.widget.names_url = reverse("admin:names", args=[names.app_label, names.model_name])

        if self.required and self.initial is None:
            only = suggestions(rows)[:2]
            self.initial = only[0] if len(only) == 1 else None

    def prepare_value(self, value: Any) -> Any:
        """An id is shown as the name."""
        pk = _as_id(str(value or ""))
        row = self.rows.filter(pk=pk).first() if pk else None
        return str(row) if row and len(self._named(str(row))) == 1 else value

    def clean(self, value: Any) -> str | None:
        text = super().clean(value)
        if not text:
            return None
        pk = _as_id(text) or _as_id(text.removesuffix(")").rpartition("(")[2])
        if pk is not None:
            return str(pk)
        found = self._named(text)
        if len(found) == 1:
            return str(found[0].pk)
        several = "Several have this name; choose one with its id from the list."
        raise ValidationError(several if found else "There is none with this name.")

    def _named(self, name: str) -> list[Model]:
        return list(self.rows.filter(**{name_lookup(self.rows.model): name})[:2])


def _as_id(text: str) -> UUID | None:
    try:
        return UUID(text.strip())
    except ValueError:
        return None


class SomeField(NamedField):
    """Several rows, their names separated by commas."""

    def clean(self, value: Any) -> Any:
        names = [name.strip() for name in str(value or "").split(",") if name.strip()]
        return [super(SomeField, self).clean(name) for name in names]


class NamesField(SomeField):
    """As :class:`SomeField`. None: every one, as the API's ``"all"``."""

    def clean(self, value: Any) -> Any:
        return super().clean(value) or "all"


class SizeField(forms.CharField):
    """``10 GiB``, in bytes."""

    example = "2 GiB"

    def __init__(self, **options: Any) -> None:
        super().__init__(widget=UnfoldAdminTextInputWidget(attrs={"placeholder": self.example}), **options)

    def prepare_value(self, value: Any) -> Any:
        return size_text(value) if isinstance(value, int) else value

    def clean(self, value: Any) -> int | None:
        text = super().clean(value)
        return _size(text) if text else None


class DisksField(SizeField):
    """Sizes separated by commas, as the API's list of disks."""

    example = "10 GiB, 20 GiB"

    def clean(self, value: Any) -> Any:
        text = forms.CharField(required=self.required).clean(value)
        return [{"size_bytes": _size(part)} for part in text.split(",") if part.strip()]


def _size(text: str) -> int:
    try:
        return read_size(text)
    except ValueError as error:
        raise ValidationError(f"{cells.sentence(error)}.")


class HeadersField(forms.CharField):
    """Lines ``Name: value`` as a mapping."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            widget=UnfoldAdminTextareaWidget(attrs={"rows": 3, "placeholder": "Name: value"}), strip=False, **options
        )

    def clean(self, value: Any) -> dict[str, str]:
        headers = {}
        for line in super().clean(value).splitlines():
            name, colon, content = line.partition(":")
            if not colon:
                raise ValidationError("Write each header as a line of its own: Name: value.")
            headers[name.strip()] = content.strip()
        return headers


class SecretHeadersField(HeadersField):
    """As it says; what was typed is not sent back with a form that was refused."""

    def bound_data(self, data: Any, initial: Any) -> str:
        return ""


class LinesField(forms.CharField):
    """A list of texts, one a line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}), **options)

    def clean(self, value: Any) -> list[str]:
        return [line for line in super().clean(value).splitlines() if line.strip()]


class TextField(forms.CharField):
    """Any text, with its line ends as they are on a host: a browser sends those of HTTP."""

    def __init__(self, **options: Any) -> None:
        super().__init__(widget=UnfoldAdminTextareaWidget(attrs={"rows": 6}), strip=False, **options)

    def clean(self, value: Any) -> Any:
        return super().clean(value).replace("\r\n", "\n")


class ActionForm(forms.Form):
    """The fields of a serializer that can be written. Call ``fields_taken`` instead of ``is_valid``."""

    def __init__(
        self,
        serializer: type[serializers.Serializer[Any]],
        leaves_out: Collection[str],
        request: HttpRequest,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._serializer, self._request = serializer, request
        self.problem: CloudctlError | None = None
        for name, field in serializer(context={"request": request}).fields.items():
            made = None if field.read_only or name in leaves_out else form_field(name, field)
            if made is not None:
                self.fields[name] = made

    def fields_taken(self) -> dict[str, Any] | None:
        """What the action is called with; None where the form or the serializer refuses it, with the errors here."""
        if not self.is_valid():
            return None
        body = {name: value for name, value in self.cleaned_data.items() if value not in (None, "")}
        given = self._serializer(data=body, context={"request": self._request})
        if given.is_valid():
            return dict(given.validated_data)
        self._show(fields_of(given.errors))
        return None

    def refuse(self, error: CloudctlError) -> None:
        """Show why the action refused what the serializer took."""
        self.problem = error
        self._show(error.errors)

    def _show(self, errors: Mapping[str, list[str]]) -> None:
        for path, messages in errors.items():
            name = path.partition(".")[0]
            self.add_error(name if name in self.fields else None, [ValidationError(message) for message in messages])


def form_field(name: str, field: serializers.Field[Any, Any, Any, Any]) -> forms.Field | None:
    """The form's field for a serializer's, by the first row of the table that fits; None where none does."""
    made = next((make for fits, make in _FORM_FIELDS if fits(name, field)), None)
    if made is None:
        return None
    initial = None if field.default is serializers.empty or callable(field.default) else field.default
    options = {
        "required": field.required and not getattr(field, "allow_blank", False),
        "initial": initial,
        "label": cells.sentence(name.removesuffix("_bytes")),
        "help_text": field.help_text or "",
    }
    return made(field, options)


def _is(kind: type | tuple[type, ...]) -> Callable[[str, Any], bool]:
    return lambda _name, field: isinstance(field, kind)


def _text(_field: Any, options: dict[str, Any]) -> forms.Field:
    return forms.CharField(widget=UnfoldAdminTextInputWidget(), **options)


def _is_long(_name: str, field: Any) -> bool:
    return isinstance(field, serializers.CharField) and (field.max_length or LONG_TEXT + 1) > LONG_TEXT


def _number(field: Any, options: dict[str, Any]) -> forms.Field:
    # The bounds are the serializer's to say; as HTML attributes they would only hide its words.
    return forms.CharField(widget=UnfoldAdminTextInputWidget(attrs={"inputmode": "numeric"}), **options)


def _choice(field: Any, options: dict[str, Any]) -> forms.Field:
    blank = [] if options["required"] else [("", "\u2013")]
    choices = [*blank, *((value, label) for value, label in field.choices.items() if value != "")]
    return forms.ChoiceField(choices=choices, widget=UnfoldAdminSelectWidget(), **options)


def _flag(_field: Any, options: dict[str, Any]) -> forms.Field:
    return forms.BooleanField(widget=UnfoldBooleanSwitchWidget(), **options | {"required": False})


def _password(_field: Any, options: dict[str, Any]) -> forms.Field:
    return forms.CharField(widget=UnfoldAdminPasswordInput(attrs={"autocomplete": "new-password"}), **options)


_FORM_FIELDS: list[tuple[Callable[[str, Any], bool], Callable[[Any, dict[str, Any]], forms.Field]]] = [
    (_is(serializers.PrimaryKeyRelatedField), lambda field, options: NamedField(rows=field.get_queryset(), **options)),
    (
        _is(serializers.ManyRelatedField),
        lambda field, options: SomeField(rows=field.child_relation.get_queryset(), **options),
    ),
    (lambda name, _: name == "data_disks", lambda _, options: DisksField(**options)),
    (lambda name, _: name.endswith("_bytes"), lambda _, options: SizeField(**options)),
    (lambda name, _: name == "password", _password),
    (_is(serializers.BooleanField), _flag),
    (_is(serializers.ChoiceField), _choice),
    (_is(serializers.IntegerField), _number),
    (lambda name, _: name == "secret_headers", lambda _, options: SecretHeadersField(**options)),
    (_is(serializers.DictField), lambda _, options: HeadersField(**options)),
    (_is(serializers.ListField), lambda _, options: LinesField(**options)),
    (_is_long, lambda _, options: TextField(**options)),
    (_is((serializers.CharField, serializers.UUIDField)), _text),
]


def use_for(kind: type, make: Callable[[Any, dict[str, Any]], forms.Field]) -> None:
    """Say what stands for a room's own kind of serializer field; before the general rows."""
    _FORM_FIELDS.insert(0, (_is(kind), make))
