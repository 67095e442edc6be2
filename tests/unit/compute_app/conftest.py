"""Every test here has a fleet at hand."""

from tests.unit.templates_app.fixtures import (  # noqa: F401  (fixtures are found by being here)
    fleet,
    host,
    no_hidden_trouble,
    pool,
    published,
    template,
)
