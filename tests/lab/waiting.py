"""Waiting with a deadline, the only way in which anything here waits for something that sends no signal."""

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")
_POLL_SECONDS = 0.05


def poll(probe: Callable[[], Found | None], timeout: float, what: str) -> Found:
    """Asks until the answer is true and returns it; TimeoutError naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (found := probe()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(_POLL_SECONDS)
    return found
