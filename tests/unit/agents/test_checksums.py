"""Checksums: every algorithm right and wrong, and a message of its own for each mistake."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.common.checksums import ALGORITHMS, Verifier, parse_checksum
from agents.common.errors import CommandError

BODY = b"cloudctl" * 1000


def _digest(algorithm: str, data: bytes) -> str:
    return hashlib.new(algorithm.replace("-", "").lower(), data).hexdigest()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("case", [str.upper, str.lower, str.title])
def test_each_algorithm_verifies_in_any_case(algorithm: str, case: "staticmethod[[str], str]") -> None:
    verifier = Verifier(parse_checksum(case(f"{{{algorithm}}}{_digest(algorithm, BODY)}")))
    for start in range(0, len(BODY), 777):
        verifier.update(BODY[start : start + 777])
    verifier.verify()
    assert verifier.sha256 == hashlib.sha256(BODY).hexdigest()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_algorithm_finds_wrong_bytes(algorithm: str) -> None:
    verifier = Verifier(parse_checksum(f"{{{algorithm}}}{_digest(algorithm, BODY)}"))
    verifier.update(BODY[:-1] + b"?")
    with pytest.raises(CommandError) as caught:
        verifier.verify()
    assert caught.value.problem.code == "checksum_mismatch"
    assert not caught.value.problem.elsewhere


MISTAKES = [
    "deadbeef",
    "{}deadbeef",
    "{CRC32}deadbeef",
    "{MD5}",
    "{MD5}" + "g" * 32,
    "{MD5}" + "a" * 31,
    "{SHA-256}" + "a" * 40,
    "{SHA-256" + "a" * 64,
    "",
]


@pytest.mark.parametrize("text", MISTAKES)
def test_each_mistake_is_refused(text: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse_checksum(text)
    assert caught.value.problem.code == "checksum_malformed"


def test_different_mistakes_have_different_messages() -> None:
    causes = set()
    for text in ("deadbeef", "{CRC32}deadbeef", "{MD5}", "{MD5}" + "g" * 32, "{MD5}" + "a" * 31):
        with pytest.raises(CommandError) as caught:
            parse_checksum(text)
        causes.add(caught.value.problem.cause)
    assert len(causes) == 5


@given(st.text(max_size=150))
def test_any_text_is_either_a_checksum_or_a_problem(text: str) -> None:
    try:
        checksum = parse_checksum(text)
    except CommandError:
        return
    assert len(checksum.digits) == ALGORITHMS[checksum.algorithm]


def test_without_a_checksum_everything_matches_and_is_still_hashed() -> None:
    verifier = Verifier(None)
    verifier.update(BODY)
    verifier.verify()
    assert verifier.sha256 == hashlib.sha256(BODY).hexdigest()
