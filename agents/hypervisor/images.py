"""The only code that removes files from a pool.

QEMU marks a file that it has open with open-file-description locks on single bytes: byte 100 + n for each permission
that it uses, 200 + n for each that it does not share (``RAW_LOCK_PERM_BASE``, ``RAW_LOCK_SHARED_BASE`` in QEMU's
``block/file-posix.c``). Every user of an image holds at least one of them, also a reader of a backing file.
"""

import errno
import fcntl
import os
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from agents.common.errors import CommandError
from agents.common.files import inside

_ANY_COMMAND = r"[A-Za-z0-9_-]+"

_FIRST_BYTE = 100
_BYTES = 200
_FLOCK = struct.Struct("hhqqi4x")
"""``struct flock`` of fcntl(2) on 64-bit Linux: type, whence, start, length, pid (0 for these locks)."""


def remove_image(path: Path, pool: Path) -> bool:
    """Remove a file from a pool, durably. False when it was not there.

    Raises CommandError: ``image_in_use`` while any process holds a QEMU lock on it, ``image_refused`` unless it is a
    regular file directly in the pool.
    """
    try:
        with _held(path, pool) as folder:
            os.unlink(path.name, dir_fd=folder)
            os.fsync(folder)
    except FileNotFoundError:
        return False
    return True


def check_removable(path: Path, pool: Path) -> None:
    """Raise what :func:`remove_image` would raise now, and change nothing."""
    with suppress(FileNotFoundError), _held(path, pool):
        pass


def image_path(pool: str, file_name: str) -> Path:
    """Where a file of a pool lies. Raises CommandError ``image_refused`` for a name that would lead out of it."""
    try:
        return inside(pool, file_name)
    except ValueError as error:
        raise _refused(Path(pool), str(error)) from error


def temporary_files(pool: Path, file_name: str, command_id: str | None = None) -> list[Path]:
    """What unfinished commands, or this one, left of this final name; the newest attempt last. Raises OSError."""
    command = _ANY_COMMAND if command_id is None else re.escape(command_id)
    pattern = re.compile(rf"\.{re.escape(file_name)}\.{command}\.([0-9]+)\.part")
    matches = [match for path in pool.iterdir() if (match := pattern.fullmatch(path.name))]
    return [pool / match[0] for match in sorted(matches, key=lambda match: int(match[1]))]


def remove_temporary(pool: Path, file_name: str) -> None:
    """Remove what unfinished commands left of this final name. Raises OSError, and what :func:`remove_image` raises."""
    for path in temporary_files(pool, file_name):
        remove_image(path, pool)


def temporary_name(file_name: str, command_id: str, attempt: int) -> str:
    """The name under which one attempt makes a file: no two attempts ever share one."""
    return f".{file_name}.{command_id}.{attempt}.part"


@contextmanager
def _held(path: Path, pool: Path) -> Iterator[int]:
    """The pool as an open folder, while a QEMU that opens the file is refused it, as by another QEMU."""
    if path.parent != pool or not pool.is_absolute():
        raise _refused(path, f"it is not directly in the pool {pool}")
    with ExitStack() as stack:
        folder = os.open(pool, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, folder)
        image = _open(folder, path)
        stack.callback(os.close, image)
        if not stat.S_ISREG(os.fstat(image).st_mode):
            raise _refused(path, "it is not a regular file")
        _lock(image, path)
        if not os.path.samestat(os.fstat(image), os.stat(path.name, dir_fd=folder, follow_symlinks=False)):
            raise _refused(path, "another file took its name meanwhile")
        yield folder


def _open(folder: int, path: Path) -> int:
    try:
        return os.open(path.name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:
            raise
        raise _refused(path, "it is not a regular file") from error


def _lock(image: int, path: Path) -> None:
    wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _FIRST_BYTE, _BYTES, 0)
    try:
        fcntl.fcntl(image, fcntl.F_OFD_SETLK, wanted)
    except (BlockingIOError, PermissionError):
        raise CommandError(
            "image_in_use",
            f"A running process has {path} open as an image.",
            "The file was not removed.",
            "Stop the VM or the copy that uses it, then try again.",
        ) from None


def _refused(path: Path, why: str) -> CommandError:
    return CommandError(
        "image_refused",
        f"{path} is refused: {why}.",
        "The file was left as it is.",
        "Look at it on the host; remove by hand what does not belong into the pool.",
    )
