"""Fixtures and cases of the crash suite, and the table that it writes."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import LabFactory
from tests.crash.cases import holds, kills
from tests.crash.jobs import KINDS
from tests.crash.outcomes import Outcomes
from tests.crash.scene import PING_SECONDS, RECONCILE_SECONDS, Scene


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    depth, database = metafunc.config.getoption("crash"), metafunc.config.getoption("database")
    if {"job_name", "point", "part"} <= set(metafunc.fixturenames):
        metafunc.parametrize(("job_name", "point", "part"), holds(depth, database))
    elif {"job_name", "point"} <= set(metafunc.fixturenames):
        metafunc.parametrize(("job_name", "point"), kills(depth))
    elif "job_name" in metafunc.fixturenames:
        metafunc.parametrize("job_name", KINDS[:1] if depth == "one" else KINDS)


@pytest.fixture(scope="session")
def crash_scene(lab_factory: LabFactory) -> Scene:
    return Scene(lab_factory(hosts=1, ping_interval=PING_SECONDS, reconcile_interval=RECONCILE_SECONDS))


@pytest.fixture
def scene(crash_scene: Scene) -> Iterator[Scene]:
    """The scene, with nothing armed; what a failed case left armed or held goes on afterwards."""
    crash_scene.points.disarm()
    yield crash_scene
    crash_scene.points.disarm()
    crash_scene.lab.mirror.heal()


@pytest.fixture
def setting(scene: Scene) -> Iterator[Callable[[str, Any], None]]:
    """Sets a setting until the test's end."""
    before: dict[str, Any] = {}

    def put(name: str, value: Any) -> None:
        before.setdefault(name, scene.cloud.client.get(f"settings/{name}/")["value"])
        scene.cloud.set(name, value)

    yield put
    for name, value in before.items():
        scene.cloud.set(name, value)


@pytest.fixture(scope="session")
def outcomes(pytestconfig: pytest.Config, database: str) -> Iterator[Outcomes]:
    """Where each case says how it ended; written to the path of ``--crash-table`` at the end."""
    kept = Outcomes(database, str(pytestconfig.getoption("crash")))
    yield kept
    path = pytestconfig.getoption("crash_table")
    if path is not None:
        kept.write(path)
