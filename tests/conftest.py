"""Fixtures for every test; the options and the database are the plugin's."""

import pytest

pytest_plugins = ["tests.plugin"]


@pytest.fixture(scope="session")
def database(pytestconfig: pytest.Config) -> str:
    """`sqlite` or `postgres`: what this run is on."""
    return str(pytestconfig.getoption("database"))


@pytest.fixture(scope="session")
def crash_depth(pytestconfig: pytest.Config) -> str:
    """`one` case a kind of command, a `short` selection, or the `full` matrix."""
    return str(pytestconfig.getoption("crash"))
