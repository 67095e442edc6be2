"""Where the server is and who asks: from options, the environment, or a file that nobody else can read."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cloudctl.cli.errors import CliError, ExitCode

URL, TOKEN = "CLOUDCTL_URL", "CLOUDCTL_TOKEN"
_KEYS = {"url", "token"}
_NOTHING = "Nothing was asked of the server."


@dataclass(frozen=True)
class Access:
    """A server's address, and the token to show it; no token where none is set."""

    url: str
    token: str


def default_file(environment: Mapping[str, str]) -> Path:
    """``~/.config/cloudctl/config.toml``, or below XDG_CONFIG_HOME."""
    base = environment.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path("~/.config").expanduser()) / "cloudctl" / "config.toml"


def find_access(
    environment: Mapping[str, str], url: str | None = None, token_file: str | None = None, file: Path | None = None
) -> Access:
    """Options before the environment before the file; CliError if there is no address or the file is not safe.

    The file's token goes to the file's address only: a variable must not be able to send it elsewhere.
    """
    kept = _read(file or default_file(environment), must_exist=file is not None)
    where = url or environment.get(URL) or kept.get("url")
    if not where:
        raise _unusable("It is not known where the server is.", f"Give --url, set {URL}, or write url into the file.")
    where = _checked_url(where)
    token = _token_in(token_file) if token_file else environment.get(TOKEN, "")
    if not token and kept.get("token") and where == str(kept.get("url", "")).rstrip("/"):
        token = kept["token"]
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise _unusable("The token holds what no token holds.", "Copy it again, without blanks and line ends.")
    return Access(where, token)


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise _unusable(f"{url} is no address of a server.", "Write it as https://cloud.example.")
    if parts.username or parts.query or parts.fragment:
        raise _unusable("The address holds more than scheme, name, port and path.", "Leave the rest out.")
    return url.rstrip("/")


def _token_in(path: str) -> str:
    try:
        return Path(path).expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(f"The token's file cannot be read: {error}.", "Give --token-file a file with the token in it.")


def _read(file: Path, *, must_exist: bool) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            state = os.fstat(opened.fileno())
            if state.st_mode & 0o077 or state.st_uid not in {os.geteuid(), 0}:
                raise _unusable(
                    f"{file} holds a token and can be read or changed by others.",
                    f"chmod 600 {file}; if somebody may have read it, delete the token and make another.",
                )
            kept = tomllib.load(opened)
    except FileNotFoundError:
        if must_exist:
            raise _unusable(f"There is no file {file}.", "Correct --config.")
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _unusable(f"{file} cannot be read: {error}.", 'Write it as TOML: url = "…" and token = "…".')
    if unknown := set(kept) - _KEYS:
        raise _unusable(f"{file} has unknown keys: {', '.join(sorted(unknown))}.", "It may have url and token.")
    if not all(isinstance(value, str) for value in kept.values()):
        raise _unusable(f"In {file} url and token must be texts.", 'Write them in quotes: url = "…".')
    return kept


def _unusable(cause: str, remedy: str) -> CliError:
    return CliError(cause, _NOTHING, remedy, ExitCode.USAGE)
