"""What a storage pool's file system refuses, said to people."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agents.common.errors import CannotTell, CommandError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_CONSEQUENCE = "The command is not done; nothing is kept of what it made."


@contextmanager
def pool_errors(pool: Path) -> Iterator[None]:
    """Turn the file system's errors into CommandError ``pool_full`` or ``pool_unavailable``.

    For what comes before the point of no return.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise pool_full(pool, error.strerror or "no room") from error
        raise CommandError(
            "pool_unavailable",
            f"The storage pool at {pool} cannot be used: {error.strerror or error}.",
            _CONSEQUENCE,
            "Check the pool's mount and the host's kernel log.",
            elsewhere=True,
        ) from error


@contextmanager
def pool_evidence(pool: Path) -> Iterator[None]:
    """For a probe: a pool that cannot be read says nothing of what is on it. Raises CannotTell."""
    try:
        yield
    except OSError as error:
        raise CannotTell(f"the storage pool at {pool} cannot be read: {error.strerror}") from error


def pool_full(pool: Path, reason: str) -> CommandError:
    """The error of a pool without room, for whoever finds that before the file system does."""
    return CommandError(
        "pool_full",
        f"The storage pool at {pool} has not enough room: {reason}.",
        _CONSEQUENCE,
        "Free room on the pool (remove unused templates, volumes) or use another pool.",
    )
