"""Keys of the server itself: random bytes in files that only it can read."""

import contextlib
import os
import secrets
import tempfile
from pathlib import Path


def key_from_file(path: Path) -> bytes:
    """The 32-byte key in ``path``, made on first use (folder 0700, file 0600).

    Processes that start at once agree on one key: it is written whole under another name, then linked, and a link does
    not replace. Raises OSError where the folder cannot be written, ValueError where the file is no key.
    """
    with contextlib.suppress(FileNotFoundError):
        return _read(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as draft:  # mode 0600
        draft.write(secrets.token_bytes(32))
        draft.flush()
        os.fsync(draft.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft.name, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return _read(path)


def _read(path: Path) -> bytes:
    key = path.read_bytes()
    if len(key) != 32:
        raise ValueError(f"{path} holds {len(key)} bytes instead of a key of 32; restore it from a backup")
    return key
