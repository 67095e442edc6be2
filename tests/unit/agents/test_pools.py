"""What a pool's file system refuses is named alike by everything that writes to pools."""

import errno
import os
from pathlib import Path

import pytest

from agents.common.errors import CommandError
from agents.common.pools import pool_errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errno.ENOSPC, "pool_full"),
        (errno.EDQUOT, "pool_full"),
        (errno.EFBIG, "pool_full"),
        (errno.EIO, "pool_unavailable"),
        (errno.ENOENT, "pool_unavailable"),
    ],
)
def test_the_file_systems_refusals_are_named(error: int, code: str) -> None:
    with pytest.raises(CommandError) as caught, pool_errors(Path("/pool")):
        raise OSError(error, os.strerror(error))
    problem = caught.value.problem
    assert problem.code == code
    assert problem.elsewhere == (code == "pool_unavailable")
    assert os.strerror(error) in problem.cause
