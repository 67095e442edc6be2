"""Fixtures of the scenarios: the shared lab, which must be sound again after each of them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.checks import assert_consistent
from tests.lab.lab import Lab
from tests.scenarios.cloud import Cloud


@pytest.fixture
def cloud(lab: Lab) -> Iterator[Cloud]:
    """The lab to work with; after the test the mirror is healed, and database, libvirt and pools must agree."""
    yield Cloud(lab)
    lab.mirror.heal()
    assert_consistent(lab)


@pytest.fixture
def setting(cloud: Cloud) -> Iterator[Callable[[str, Any], None]]:
    """Sets a setting until the test's end."""
    before: dict[str, Any] = {}

    def put(name: str, value: Any) -> None:
        before.setdefault(name, cloud.client.get(f"settings/{name}/")["value"])
        cloud.set(name, value)

    yield put
    for name, value in before.items():
        cloud.set(name, value)
