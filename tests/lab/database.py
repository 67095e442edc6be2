"""The database of a lab: a SQLite file, or a PostgreSQL of its own that can be killed and comes back."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg

from tests.lab.keeper import Part
from tests.lab.supervisor import Supervisor

DATABASES = ("sqlite", "postgres")
_READY_SECONDS = 30.0


@dataclass(frozen=True)
class Sqlite:
    """A file; nothing runs for it."""

    folder: Path

    @property
    def url(self) -> str:
        """For CLOUDCTL_DATABASE_URL."""
        return f"sqlite:///{self.folder / 'cloudctl.sqlite3'}"

    def start(self) -> None:
        """The server makes the file itself."""
        self.folder.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class Postgres:
    """A cluster in a folder, reached over a socket there. Its part is `postgres`; it loses nothing to a kill."""

    folder: Path
    supervisor: Supervisor
    durable: bool = False
    """Whether a commit waits for the disk; a killed process loses nothing either way."""

    @property
    def url(self) -> str:
        """For CLOUDCTL_DATABASE_URL."""
        return f"postgres://postgres@{quote(str(self.folder), safe='')}/cloudctl"

    def start(self) -> None:
        """Makes the cluster and returns when its empty database is there."""
        programs = _programs()
        self.folder.mkdir(parents=True, exist_ok=True)
        # PostgreSQL refuses to run as root.
        shutil.chown(self.folder, "postgres", "postgres")
        data = str(self.folder / "data")
        as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
        initdb = [str(programs / "initdb"), "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync"]
        self.supervisor.run("initdb", [*as_postgres, *initdb, "--locale=C.UTF-8"], {})
        settings = {"listen_addresses": "", "unix_socket_directories": str(self.folder)}
        settings["fsync"] = "on" if self.durable else "off"
        options = [f"--{name}={value}" for name, value in settings.items()]
        self.supervisor.start(Part("postgres", [str(programs / "postgres"), "-D", data, *options], user="postgres"))
        self.wait_answering()
        with psycopg.connect(self._address("postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE cloudctl")

    def wait_answering(self, timeout: float = _READY_SECONDS) -> None:
        """Returns when it takes connections, also after it was killed."""
        self.supervisor.ready("postgres", self._answers, timeout)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._address("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _address(self, database: str) -> str:
        return f"host={self.folder} user=postgres dbname={database}"


def open_database(kind: str, folder: Path, supervisor: Supervisor, *, durable: bool = False) -> Sqlite | Postgres:
    """The database named `sqlite` or `postgres`, not started yet. SQLite always waits for the disk."""
    return Postgres(folder, supervisor, durable) if kind == "postgres" else Sqlite(folder)


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if not found:
        raise RuntimeError("PostgreSQL's programs are not installed, so no private one can run; run scripts/install.")
    return found[-1].parent
