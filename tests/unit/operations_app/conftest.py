"""Hosts whose words the tests speak."""

import pytest
from redis import Redis

from infra_app.models import Zone
from tests.unit.operations_app.toys import HostVoice
from tests.unit.people import joined


@pytest.fixture
def host(transactional_db: None, zone: Zone, broker: Redis) -> HostVoice:
    """A host that has said hello and is up."""
    return _up(zone, "host1", broker)


@pytest.fixture
def other(host: HostVoice, zone: Zone, broker: Redis) -> HostVoice:
    """A second host that is up."""
    return _up(zone, "host2", broker)


def _up(zone: Zone, name: str, broker: Redis) -> HostVoice:
    voice = HostVoice(joined(zone, name), broker)
    voice.hello()
    return voice
