"""Names: what a person may call things, and what nobody may."""

from typing import Any

import pytest

from core_app.errors import InvalidInput
from core_app.names import check_name
from infra_app.models import Agent, Zone
from tests.unit.people import Person

WORST = "\"'`$(reboot);<script>&amp;]]>../%s{0}\\ \u200e\u200fשלום\u061cمرحبا🖥" + "x" * 200  # noqa: RUF001  (letters that are written from right to left)
CONTROL = "a\nb"


@pytest.mark.parametrize("name", [WORST, "שרת", "a\u200db", "e\u0301", " "])
def test_whatever_people_write_is_a_name(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "sign", [*"\x00\t\n\r\x1b\x7f\x85\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2069"]
)
def test_what_breaks_lines_or_turns_them_is_none(sign: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_name(f"a{sign}b", "title")
    assert f"U+{ord(sign):04X}" in refused.value.cause
    assert list(refused.value.errors) == ["title"]
    assert sign not in str(refused.value)


@pytest.fixture
def wishes(agent: Agent, zone: Zone) -> dict[str, dict[str, Any]]:
    """What is asked for, but for its name."""
    return {
        "accounts": {},
        "users": {"role": "operator"},
        "tokens": {},
        "zones": {},
        "storage-pools": {"zone": str(zone.pk), "type": "shared", "path": "/srv/pool"},
        "templates": {"url": "http://mirror.example.org/t", "format": "raw", "account": "acme"},
    }


def test_it_is_one_rule_for_all_things(ada: Person, acme: Any, wishes: dict[str, dict[str, Any]]) -> None:
    wishes["templates"]["account"] = str(acme.pk)
    for path, wish in wishes.items():
        answer = ada.post(f"/api/v1/{path}/", wish | {"name": CONTROL})
        assert (path, answer.status_code, answer.json().get("type")) == (path, 400, "/problems/name_refused")
        assert list(answer.json()["errors"]) == ["name"]
