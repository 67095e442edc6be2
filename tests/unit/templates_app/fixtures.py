"""Fixtures of the tests that have a fleet."""

import logging
from collections.abc import Iterator

import pytest
from redis import Redis

from accounts_app.models import Account
from infra_app.models import Agent, StoragePool, Zone
from templates_app.models import Template
from tests.unit.templates_app.fleet import Fleet


@pytest.fixture(autouse=True)
def published(broker: Redis) -> Redis:
    """Whatever is published here goes to a real broker."""
    return broker


@pytest.fixture(autouse=True)
def no_hidden_trouble(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The code that takes reports and sweeps logs the trouble of one row and goes on; here it fails the test."""
    yield
    troubles = [record for record in caplog.get_records("call") if record.exc_info and record.levelno >= logging.ERROR]
    assert not troubles, caplog.text


@pytest.fixture
def fleet(zone: Zone, acme: Account) -> Fleet:
    return Fleet(zone, acme)


@pytest.fixture
def host(fleet: Fleet) -> Agent:
    return fleet.host("host1")


@pytest.fixture
def pool(fleet: Fleet, host: Agent) -> StoragePool:
    """Reached by the host."""
    return fleet.pool("shared", host)


@pytest.fixture
def template(fleet: Fleet, host: Agent) -> Template:
    return fleet.template()
