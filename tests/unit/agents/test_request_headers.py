"""Headers of a download: two imported forms, and nothing that could reframe the request."""

import pytest

from agents.common.errors import CommandError
from agents.common.request_headers import parse_headers


def test_plain_and_imported_forms_are_understood() -> None:
    given = {"X-Plain": "one", "HTTP_HEADER:X-Named": "two", "HTTP_HEADER": "X-Pair: three:four"}
    assert parse_headers(given) == {"X-Plain": "one", "X-Named": "two", "X-Pair": "three:four"}


@pytest.mark.parametrize(
    "given",
    [
        {"X-A": "one\r\nHost: evil"},
        {"X-A": "one\nX-B: two"},
        {"X-A\r\nX-B": "one"},
        {"X-A": "nul\0"},
        {"X A": "one"},
        {"": "one"},
        {"Ключ": "one"},
        {"X-A": "€"},
        {"Host": "evil"},
        {"content-length": "1"},
        {"Transfer-Encoding": "chunked"},
        {"RANGE": "bytes=0-"},
        {"Connection": "keep-alive"},
        {"HTTP_HEADER:Host": "evil"},
        {"HTTP_HEADER": "Host: evil"},
        {"HTTP_HEADER": "no colon"},
        {"HTTP_HEADER": "X-A: one\r\nX-B: two"},
        {"X-A": "one", "x-a": "two"},
    ],
)
def test_what_could_reframe_the_request_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(CommandError) as caught:
        parse_headers(given)
    assert caught.value.problem.code == "header_refused"


def test_a_problem_never_holds_a_value() -> None:
    with pytest.raises(CommandError) as caught:
        parse_headers({"Authorization": "Bearer hush\r\n"})
    assert "hush" not in str(caught.value.problem)
