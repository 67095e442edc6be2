"""Checksums as users give them, ``{SHA-256}hex``, and their verification while bytes come in."""

import hashlib
import re
from dataclasses import dataclass

from agents.common.errors import CommandError

ALGORITHMS = {
    "MD5": 32,
    "SHA-1": 40,
    "SHA-224": 56,
    "SHA-256": 64,
    "SHA-384": 96,
    "SHA-512": 128,
}
"""Name → number of hexadecimal digits."""

_NAMES = ", ".join(ALGORITHMS)


@dataclass(frozen=True, slots=True)
class Checksum:
    algorithm: str
    """A key of :data:`ALGORITHMS`."""
    digits: str
    """Lower case hexadecimal."""

    def __str__(self) -> str:
        return f"{{{self.algorithm}}}{self.digits}"


def parse_checksum(text: str) -> Checksum:
    """Understand ``{ALG}HEX`` in any case. Raises CommandError ``checksum_malformed``, a message for each mistake."""
    match = re.fullmatch(r"\{([^{}]*)\}(.*)", text.strip(), re.DOTALL)
    if match is None:
        raise _malformed("The checksum names no algorithm.", "Write it as {SHA-256}hex.")
    algorithm, digits = match[1].strip().upper(), match[2].strip().lower()
    if algorithm not in ALGORITHMS:
        raise _malformed(f"The checksum's algorithm {match[1]!r} is not known.", f"Use one of {_NAMES}.")
    if not digits:
        raise _malformed("The checksum has no digits.", f"Add the file's {algorithm} in hexadecimal.")
    if not re.fullmatch(r"[0-9a-f]+", digits, re.ASCII):
        raise _malformed("The checksum holds something other than hexadecimal digits.", "Use 0-9 and a-f only.")
    if len(digits) != ALGORITHMS[algorithm]:
        raise _malformed(
            f"The checksum has {len(digits)} digits, {algorithm} has {ALGORITHMS[algorithm]}.",
            "Check the algorithm's name, and that the checksum was copied whole.",
        )
    return Checksum(algorithm, digits)


class Verifier:
    """Hashes bytes in the order they come: always SHA-256, and the user's algorithm if it is another one."""

    def __init__(self, expected: Checksum | None) -> None:
        self._expected = expected
        self._sha256 = hashlib.sha256()
        self._users = None
        if expected is not None and expected.algorithm != "SHA-256":
            self._users = hashlib.new(expected.algorithm.replace("-", "").lower(), usedforsecurity=False)

    def update(self, data: bytes | bytearray | memoryview) -> None:
        self._sha256.update(data)
        if self._users is not None:
            self._users.update(data)

    @property
    def sha256(self) -> str:
        """Of all bytes so far, lower case hexadecimal."""
        return self._sha256.hexdigest()

    def matches(self) -> bool:
        """True when the bytes so far are those of the user's checksum, or there is none."""
        return self._expected is None or self._found() == self._expected.digits

    def verify(self) -> None:
        """Raise CommandError ``checksum_mismatch`` unless :meth:`matches`."""
        if not self.matches():
            raise CommandError(
                "checksum_mismatch",
                f"The file's {self._expected.algorithm if self._expected else ''} is {self._found()}, "
                f"expected was {self._expected}.",
                "The file was thrown away; it is not tried again from the same source.",
                "Compare the checksum with the publisher's; if it is right, the mirror serves other bytes.",
            )

    def _found(self) -> str:
        return (self._users or self._sha256).hexdigest()


def _malformed(cause: str, remedy: str) -> CommandError:
    return CommandError("checksum_malformed", cause, "The template is not accepted.", remedy)
