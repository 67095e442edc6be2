"""One embedded hypervisor for all tests here; each leaves no domain behind."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.hypervisor.connection import Hypervisor
from agents.hypervisor.guest import Guest
from tests.unit.agents.hypervisor.embedded import embedded_hypervisor


@pytest.fixture(scope="session")
def _embedded() -> Iterator[Hypervisor]:
    with embedded_hypervisor() as hypervisor:
        yield hypervisor


@pytest.fixture
def hypervisor(_embedded: Hypervisor) -> Iterator[Hypervisor]:
    yield _embedded
    for guest in Guest.all(_embedded):
        guest.force_off()


@pytest.fixture(autouse=True)
def _quick_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is ever on its way to a libvirt inside this process; the scenarios wait as long as an agent does."""
    monkeypatch.setattr("agents.hypervisor.evidence.SETTLE_SECONDS", 0.0)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """A storage pool's folder."""
    folder = tmp_path / "pool"
    folder.mkdir()
    return folder
