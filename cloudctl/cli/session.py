"""What one run of the command line works with."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cloudctl.cli.access import Access, find_access
from cloudctl.cli.client import Client
from cloudctl.cli.references import References


@dataclass
class Session:
    """The options in front of the first word, and the server that they lead to, once it is needed."""

    url: str | None = None
    token_file: str | None = None
    config: Path | None = None

    @cached_property
    def access(self) -> Access:
        """Raises CliError where it is not known."""
        return find_access(os.environ, self.url, self.token_file, self.config)

    @cached_property
    def client(self) -> Client:
        return Client(self.access)

    @cached_property
    def references(self) -> References:
        return References(self.client)
