"""The suite's options, the database of its unit tests, their time, and the order: what is quick and small comes first.

`scripts/test` loads it with `-p tests.plugin`, early enough to start PostgreSQL before Django reads its settings.
"""

import gc
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.lab.database import DATABASES, Postgres
from tests.lab.supervisor import Supervisor

CRASH_DEPTHS = ("one", "short", "full")
_ORDER = ("unit", "api", "lab_tests", "scenarios", "crash")
_TESTS = Path(__file__).parent
UNIT_SECONDS = 120.0
"""What all unit tests together may take of one core: a minute where two are free."""
UNIT_TEST_SECONDS = 3.0


class _PrivatePostgres:
    """A PostgreSQL for this session only, started before Django reads its settings."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="cloudctl-pg-"))
        self._folder.chmod(0o755)
        self._supervisor = Supervisor(self._folder, self._folder / "logs")
        try:
            postgres = Postgres(self._folder / "pg", self._supervisor)
            postgres.start()
        except BaseException:
            self.pytest_unconfigure()
            raise
        os.environ["CLOUDCTL_DATABASE_URL"] = postgres.url

    def pytest_unconfigure(self) -> None:
        self._supervisor.stop_all()
        shutil.rmtree(self._folder)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cloudctl")
    group.addoption("--database", choices=DATABASES, default="sqlite", help="of the unit tests and of the lab")
    group.addoption("--crash", choices=CRASH_DEPTHS, default="short", help="how many cases the crash suite kills in")
    group.addoption("--crash-table", type=Path, help="where the crash suite writes what came of each case (Markdown)")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    if early_config.known_args_namespace.database == "postgres":
        early_config.pluginmanager.register(_PrivatePostgres(), "cloudctl-postgres")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("database") == "postgres" and not config.pluginmanager.has_plugin("cloudctl-postgres"):
        raise pytest.UsageError(
            "Django has read its settings before this plugin was loaded, so the tests would run on SQLite; "
            "use scripts/test, or give pytest `-p tests.plugin`."
        )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    folder = item.path.relative_to(_TESTS).parts[0]
    return _ORDER.index(folder) if folder in _ORDER else len(_ORDER)


def pytest_collection_finish() -> None:
    """What was imported stays; without this, each collection of garbage looks at all of it again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the unit tests took, beside what they may take on a machine with nothing else to do."""
    found = [report for reports in terminalreporter.stats.values() for report in reports]
    told = [one for one in found if isinstance(one, pytest.TestReport) and one.nodeid.startswith("tests/unit/")]
    if not told:
        return
    total = sum(report.duration for report in told)
    verdict = "within" if total <= UNIT_SECONDS else "MORE THAN"
    terminalreporter.write_sep("-", f"unit tests: {total:.0f} s, {verdict} {UNIT_SECONDS:.0f} s of one core")
    for report in told:
        if report.when == "call" and report.duration > UNIT_TEST_SECONDS:
            terminalreporter.write_line(
                f"slower than {UNIT_TEST_SECONDS:.0f} s: {report.duration:.1f} s {report.nodeid}"
            )
