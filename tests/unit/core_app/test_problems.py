"""Whatever goes wrong, the answer is a problem document."""

from typing import Any

import pytest
from django.db import OperationalError
from django.urls import include, path
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.decorators import api_view, permission_classes
from rest_framework.exceptions import Throttled
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.test import APIClient

from cloudctl.urls import handler500  # noqa: F401  (Django looks for it in the module of the urls)
from core_app.errors import Busy
from core_app.problems import fields_of

RAISED: dict[str, Exception] = {
    "bug": RuntimeError("the secret is 42"),
    "locked": OperationalError("database is locked"),
    "busy": Busy("It is in use.", "Nothing was done.", "Wait.", operation="0b2f"),
    "throttled": Throttled(wait=4),
}


@api_view(["GET"])
@permission_classes([AllowAny])
def trouble(_request: Request, kind: str) -> Response:
    raise RAISED[kind]


urlpatterns = [path("", include("cloudctl.urls")), path("trouble/<kind>", trouble)]


def assert_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["type"] == f"/problems/{code}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"] == f"{body['cause']} {body['consequence']} {body['remedy']}"
    return body


def test_an_unknown_path(anonymous: APIClient) -> None:
    assert "/api/v1/nowhere/" in assert_problem(anonymous.get("/api/v1/nowhere/"), 404, "not_found")["cause"]


def test_an_unknown_id(olga: APIClient) -> None:
    assert_problem(olga.get("/api/v1/zones/11111111-1111-1111-1111-111111111111/"), 404, "not_found")


def test_no_token_is_401_and_says_how(anonymous: APIClient) -> None:
    response = anonymous.get("/api/v1/zones/")
    assert_problem(response, 401, "not_authenticated")
    assert response["WWW-Authenticate"] == "Token"


def test_a_wrong_token_is_401(anonymous: APIClient) -> None:
    anonymous.credentials(HTTP_AUTHORIZATION="Token 00")
    assert_problem(anonymous.get("/api/v1/zones/"), 401, "not_authenticated")


def test_a_method_that_is_not_there(olga: APIClient) -> None:
    response = olga.delete("/api/v1/zones/")
    assert_problem(response, 405, "method_not_allowed")
    assert "GET" in response["Allow"]


@pytest.mark.parametrize("body", ["{", "[" * 200_000, '{"a":' * 3000])
def test_a_body_that_is_no_json(olga: APIClient, body: str) -> None:
    assert_problem(olga.generic("POST", "/api/v1/zones/", body, content_type="application/json"), 400, "invalid_input")


def test_a_body_of_another_kind(olga: APIClient) -> None:
    response = olga.generic("POST", "/api/v1/zones/", "a=b", content_type="application/x-www-form-urlencoded")
    assert_problem(response, 415, "unsupported_media_type")


def test_wrong_fields_are_named(olga: APIClient) -> None:
    assert "name" in assert_problem(olga.post("/api/v1/zones/", {}), 400, "invalid_input")["errors"]


@pytest.mark.urls(__name__)
class TestTrouble:
    def test_a_mistake_of_ours_tells_nothing_of_the_inside(self, anonymous: APIClient) -> None:
        assert "42" not in str(assert_problem(anonymous.get("/trouble/bug"), 500, "internal_error"))

    def test_a_database_that_does_not_answer_is_503(self, anonymous: APIClient) -> None:
        assert_problem(anonymous.get("/trouble/locked"), 503, "unavailable")

    def test_busy_names_the_operation(self, anonymous: APIClient) -> None:
        assert assert_problem(anonymous.get("/trouble/busy"), 409, "busy")["operation"] == "0b2f"

    def test_throttled_says_how_long(self, anonymous: APIClient) -> None:
        response = anonymous.get("/trouble/throttled")
        assert_problem(response, 429, "too_many_requests")
        assert int(response["Retry-After"]) >= 4


def test_nested_errors_are_flat_by_field() -> None:
    detail = {
        "disks": [{}, {"size_bytes": ["Too small."]}],
        "name": ["Taken.", "Too long."],
        "non_field_errors": ["No."],
    }
    assert fields_of(detail) == {
        "disks.1.size_bytes": ["Too small."],
        "name": ["Taken.", "Too long."],
        "request": ["No."],
    }


details = st.recursive(
    st.lists(st.text(max_size=5), min_size=1, max_size=3),
    lambda inner: st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), inner, min_size=1, max_size=3),
    max_leaves=8,
)


@given(details)
def test_no_message_is_lost(detail: Any) -> None:
    def leaves(part: Any) -> list[str]:
        return [m for p in part.values() for m in leaves(p)] if isinstance(part, dict) else part

    flat = [message for messages in fields_of(detail).values() for message in messages]
    assert sorted(flat) == sorted(leaves(detail))
