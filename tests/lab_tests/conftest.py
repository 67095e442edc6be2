"""Fixtures of the lab's own tests."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.supervisor import Supervisor


@pytest.fixture(scope="module")
def lab_dir() -> Iterator[Path]:
    """A short-named folder that other users may enter: sockets have short paths, PostgreSQL runs as somebody else."""
    folder = Path(tempfile.mkdtemp(prefix="lab-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def supervisor(lab_dir: Path) -> Iterator[Supervisor]:
    """A supervisor whose parts end with the module's last test."""
    lab = Supervisor(lab_dir, lab_dir / "logs")
    yield lab
    lab.stop_all()
