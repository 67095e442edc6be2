"""Small file operations that survive a power cut: what returned has happened, and what did not return is repeatable."""

import ctypes
import errno
import os
import secrets
from pathlib import Path

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_NOT_SUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})

_libc = ctypes.CDLL(None, use_errno=True)


def fsync_folder(path: str | Path) -> None:
    """Make the names in a folder durable: creations, renames and removals that came before."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_atomically(path: str | Path, content: bytes, mode: int = 0o600) -> None:
    """Write a whole file durably; a reader sees the old content or the new one, also after a power cut."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:  # noqa: PTH123
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(target.parent)


def rename_no_replace(source: str | Path, target: str | Path) -> None:
    """Rename inside one file system. Raises FileExistsError when the target exists, which is then untouched.

    Not durable until :func:`fsync_folder`. Uses renameat2(2); where the file system lacks it (NFS), link and unlink,
    which a kill between the two leaves with both names on one file.
    """
    if _renameat2(os.fspath(source), os.fspath(target)):
        return
    os.link(source, target, follow_symlinks=False)
    os.unlink(source)  # noqa: PTH108


def _renameat2(source: str, target: str) -> bool:
    """False when this file system cannot do it."""
    result = _libc.renameat2(
        _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), ctypes.c_uint(_RENAME_NOREPLACE)
    )
    if result == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_SUPPORTED:
        return False
    raise OSError(number, os.strerror(number), source, None, target)


def inside(folder: str | Path, name: str) -> Path:
    """The path of ``name`` in ``folder``. Raises ValueError unless it is one plain file name, so nothing gets out."""
    if not name or name in {".", ".."} or "/" in name or any(ord(character) < 32 for character in name):
        raise ValueError(f"{name!r} is not a plain file name")
    if len(os.fsencode(name)) > 255:
        raise ValueError(f"{name!r} is longer than 255 bytes")
    base = Path(folder)
    if not base.is_absolute():
        raise ValueError(f"{folder!r} is not an absolute path")
    return base / name
