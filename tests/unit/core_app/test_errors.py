"""Every class of error can be made, shown and told apart."""

import pytest

from core_app import errors
from core_app.errors import CloudctlError
from core_app.problems import problem_of


def all_classes() -> list[type[CloudctlError]]:
    named = [getattr(errors, name) for name in vars(errors)]
    return [c for c in named if isinstance(c, type) and issubclass(c, CloudctlError)]


@pytest.mark.parametrize("kind", all_classes())
def test_each_error_says_cause_consequence_and_remedy(kind: type[CloudctlError]) -> None:
    body = problem_of(kind("It rained.", "The match is off.", "Come tomorrow.", operation="7"))
    assert body["detail"] == "It rained. The match is off. Come tomorrow."
    assert (body["cause"], body["consequence"], body["remedy"], body["operation"]) == (
        "It rained.",
        "The match is off.",
        "Come tomorrow.",
        "7",
    )
    assert body["type"] == f"/problems/{kind.default_code}"
    assert body["status"] == kind.status >= 400
    assert "errors" not in body


def test_the_classes_have_codes_of_their_own() -> None:
    assert len({kind.default_code for kind in all_classes()}) == len(all_classes()) == 11


def test_a_code_may_be_narrower_than_its_class() -> None:
    assert problem_of(errors.WrongState("a", "b", "c", "zone_exists"))["type"] == "/problems/zone_exists"
