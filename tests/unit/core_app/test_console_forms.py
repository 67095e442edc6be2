"""What a form makes of an API's field."""

from typing import Any

import pytest
from rest_framework import serializers

from core_app.console.forms import form_field


@pytest.mark.parametrize(
    ("name", "field", "typed", "sent"),
    [
        ("name", serializers.CharField(max_length=255), " web ", "web"),
        ("user_data", serializers.CharField(), "#!/bin/sh\necho\n", "#!/bin/sh\necho\n"),
        ("cpus", serializers.IntegerField(), "2", "2"),
        ("size_bytes", serializers.IntegerField(), "1.5 GiB", 3 << 29),
        ("data_disks", serializers.ListField(), "1 MiB, 2M", [{"size_bytes": 1 << 20}, {"size_bytes": 2 << 20}]),
        ("headers", serializers.DictField(), "A: b: c\nD:e", {"A": "b: c", "D": "e"}),
        ("ssh_keys", serializers.ListField(), "one key\n\nanother", ["one key", "another"]),
        ("kind", serializers.ChoiceField(choices=["a", "b"]), "b", "b"),
        ("force", serializers.BooleanField(), "on", True),
    ],
)
def test_what_is_typed_becomes_what_the_api_takes(
    name: str, field: serializers.Field[Any, Any, Any, Any], typed: str, sent: Any
) -> None:
    made = form_field(name, field)
    assert made is not None
    assert made.clean(typed) == sent


def test_what_no_person_fills_in_has_no_field() -> None:
    assert form_field("anything", serializers.JSONField()) is None
