"""The people of the tests, each with an API client and a real token, and a fleet to begin with.

Alice owns account ``acme`` with Bob as a teammate; Charlie is an outsider. Ada administers, Olga operates, Rita reads.
"""

import pytest
from rest_framework.test import APIClient

from accounts_app.actions import account_create
from accounts_app.models import Account, Role
from infra_app import actions
from infra_app.models import Agent, Zone
from tests.unit.people import Person, joined, person


@pytest.fixture
def acme(db: None) -> Account:
    return account_create("acme")


@pytest.fixture
def alice(acme: Account) -> Person:
    return person("alice", Role.USER, acme)


@pytest.fixture
def bob(acme: Account) -> Person:
    return person("bob", Role.USER, acme)


@pytest.fixture
def charlie(db: None) -> Person:
    return person("charlie", Role.USER, account_create("other"))


@pytest.fixture
def ada(db: None) -> Person:
    return person("ada", Role.ADMIN)


@pytest.fixture
def olga(db: None) -> Person:
    return person("olga", Role.OPERATOR)


@pytest.fixture
def rita(db: None) -> Person:
    return person("rita", Role.READ_ONLY)


@pytest.fixture
def anonymous(db: None) -> APIClient:
    return APIClient(raise_request_exception=False)


@pytest.fixture
def zone(db: None) -> Zone:
    return actions.zone_create("zone1")


@pytest.fixture
def agent(zone: Zone) -> Agent:
    """A host's agent that has joined and not yet said hello."""
    return joined(zone, "host1")
