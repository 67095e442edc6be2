"""A server with a fleet, as the unit tests have it; this suite takes too long to be one of them."""

from tests.unit.conftest import (  # noqa: F401  (fixtures are found by being here)
    acme,
    alice,
    broker,
    django_db_modify_db_settings,
    django_db_setup,
    olga,
    redis_socket,
    the_throttle_knows_its_limit,
    use_broker,
    zone,
)
from tests.unit.templates_app.fixtures import (  # noqa: F401
    fleet,
    host,
    no_hidden_trouble,
    pool,
    published,
    template,
)
