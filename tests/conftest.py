"""Fixtures for every test; the options and the database of the unit tests are the plugin's."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.lab.broker import free_port
from tests.lab.lab import Lab

pytest_plugins = ["tests.plugin"]

LabFactory = Callable[..., Lab]


@pytest.fixture(scope="session")
def database(pytestconfig: pytest.Config) -> str:
    """`sqlite` or `postgres`: what this run is on."""
    return str(pytestconfig.getoption("database"))


@pytest.fixture(scope="session")
def crash_depth(pytestconfig: pytest.Config) -> str:
    """`one` case a kind of command, a `short` selection, or the `full` matrix."""
    return str(pytestconfig.getoption("crash"))


@pytest.fixture(scope="session")
def lab_factory(database: str) -> Iterator[LabFactory]:
    """Starts a lab with quick timings and the run's database; takes what Lab() takes. All stop with the session."""
    with ExitStack() as labs:

        def start(**options: Any) -> Lab:
            quick: dict[str, Any] = {"database": database, "ping_interval": 1.0, "reconcile_interval": 1.0}
            return labs.enter_context(Lab(**quick | options))

        yield start


@pytest.fixture(scope="session")
def lab(lab_factory: LabFactory) -> Lab:
    """The lab that the session's tests share: two hosts, a pool each and one for both."""
    return lab_factory(hosts=2)


@pytest.fixture
def unused_port() -> int:
    """A port of this machine that nothing listens on."""
    return free_port()
