"""The file a download is written to: hashed as bytes come, holes where they are zero, never fuller than its pool."""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from agents.common.checksums import Checksum, Verifier
from agents.common.errors import CommandError
from agents.common.pools import pool_errors, pool_full

MIB = 1024 * 1024
BUFFER_BYTES = MIB
MAX_UNHASHED = 16
"""Pieces of at most 1 MiB each that may wait for their hash."""
ROOM_MARGIN_BYTES = 16 * MIB
"""Left free on a pool: running guests write to it too."""

_WRITEBACK_BYTES = 8 * MIB
_HOLE_BYTES = 64 * 1024
_ZEROS = bytes(_HOLE_BYTES)


class Part:
    """A temporary file that grows from its beginning. Use as a context manager; the file stays when it ends.

    Raises CommandError ``pool_full``, ``pool_unavailable`` and ``image_too_large``.
    """

    def __init__(self, path: Path, checksum: Checksum | None, max_bytes: int) -> None:
        self._path = path
        self._checksum = checksum
        self._max_bytes = max_bytes
        self._buffer = bytearray(BUFFER_BYTES)
        self.restarts = 0
        # hashlib frees the interpreter while it works, so a second core hashes what the first one receives and writes.
        self._hashing = ThreadPoolExecutor(1, "hash")
        self._unhashed: deque[Future[None]] = deque()
        self._forget()
        with pool_errors(path.parent):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, *_: object) -> None:
        self._hashing.shutdown(cancel_futures=True)
        os.close(self._file)

    @property
    def offset(self) -> int:
        """Bytes taken in so far."""
        return self._offset

    def resume(self, offset: int, pulse: Callable[[], None]) -> None:
        """Keep the first ``offset`` bytes, hashing them again, or nothing when the file is shorter than that."""
        self._forget()
        with pool_errors(self._path.parent):
            if os.fstat(self._file).st_size >= offset:
                self._hash_again(offset, pulse)
            os.ftruncate(self._file, self._offset)

    def restart(self) -> None:
        """Throw away everything taken in; ``restarts`` counts how often."""
        self.restarts += 1
        self._forget()
        with pool_errors(self._path.parent):
            os.ftruncate(self._file, 0)

    def expect(self, size_bytes: int) -> None:
        """The source says how large the whole is (-1: it does not): refuse what is too large or does not fit."""
        room = self._room() - ROOM_MARGIN_BYTES
        if size_bytes > self._max_bytes:
            raise _too_large(f"The source announces {size_bytes} bytes, the limit is {self._max_bytes}.")
        if size_bytes - self._offset > room:
            raise pool_full(
                self._path.parent, f"{size_bytes - self._offset} bytes are to come, {max(room, 0)} are free"
            )
        # Zeros of an endless body take no room, so their number has to be bounded by it.
        self._limit = size_bytes if size_bytes >= 0 else min(self._max_bytes, self._offset + room)

    def write(self, data: bytes) -> None:
        """Take in the next bytes; they are on the file system's way to disk within the next mebibyte."""
        if self._offset + len(data) > self._limit:
            raise _too_large(f"The source sends more than {self._limit} bytes: more than it announced, or than fits.")
        self._hash(data)
        rest = memoryview(data)
        while rest:
            start = self._offset % BUFFER_BYTES
            count = min(BUFFER_BYTES - start, len(rest))
            self._buffer[start : start + count] = rest[:count]
            self._offset += count
            rest = rest[count:]
            if start + count == BUFFER_BYTES:
                self._flush()

    def sync(self) -> None:
        """Make everything taken in durable."""
        self._flush()
        with pool_errors(self._path.parent):
            os.ftruncate(self._file, self._offset)
            os.fsync(self._file)
        # A host's memory is for its guests; a cache of a file that nobody reads yet also slows further writes down.
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)

    def finished(self) -> Verifier:
        """The hashes of everything taken in; the last call on a part."""
        self._settle(0)
        return self._verifier

    def _forget(self) -> None:
        self._settle(0)
        self._offset = self._flushed = 0
        self._limit = self._max_bytes
        self._verifier = Verifier(self._checksum)

    def _hash(self, data: bytes) -> None:
        self._unhashed.append(self._hashing.submit(self._verifier.update, data))
        self._settle(MAX_UNHASHED)

    def _settle(self, most: int) -> None:
        while len(self._unhashed) > most:
            self._unhashed.popleft().result()

    def _hash_again(self, offset: int, pulse: Callable[[], None]) -> None:
        with memoryview(self._buffer) as view:
            while self._offset < offset:
                pulse()
                count = os.preadv(self._file, [view[: min(BUFFER_BYTES, offset - self._offset)]], self._offset)
                self._verifier.update(view[:count])
                self._offset += count
        self._flushed = self._offset

    def _flush(self) -> None:
        """Write what the buffer holds; its index is the file's offset modulo its size."""
        if self._flushed == self._offset:
            return
        if self._room() < ROOM_MARGIN_BYTES:
            raise pool_full(self._path.parent, f"less than {ROOM_MARGIN_BYTES} bytes are left")
        start = self._flushed % BUFFER_BYTES
        end = start + self._offset - self._flushed
        with memoryview(self._buffer) as view, pool_errors(self._path.parent):
            for begin, stop in self._stretches(start, end):
                _write_all(self._file, view[begin:stop], self._flushed + begin - start)
        self._begin_writeback(self._flushed // _WRITEBACK_BYTES, self._offset // _WRITEBACK_BYTES)
        self._flushed = self._offset

    def _begin_writeback(self, before: int, now: int) -> None:
        """Linux begins to write what it is told to forget (mm/fadvise.c), so the next sync finds half its work done."""
        if now != before:
            stretch = (before * _WRITEBACK_BYTES, (now - before) * _WRITEBACK_BYTES)
            os.posix_fadvise(self._file, *stretch, os.POSIX_FADV_DONTNEED)

    def _stretches(self, start: int, end: int) -> list[tuple[int, int]]:
        """What of the buffer is to be written: everything but whole blocks of zeros, aligned as the file's are."""
        stretches: list[tuple[int, int]] = []
        while start < end:
            stop = min(start - start % _HOLE_BYTES + _HOLE_BYTES, end)
            if not self._buffer.startswith(_ZEROS, start):
                adjoins = bool(stretches) and stretches[-1][1] == start
                stretches.append((stretches.pop()[0] if adjoins else start, stop))
            start = stop
        return stretches

    def _room(self) -> int:
        with pool_errors(self._path.parent):
            status = os.fstatvfs(self._file)
        return status.f_bavail * status.f_frsize


def _write_all(file: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(file, data, offset)
        data, offset = data[count:], offset + count


def _too_large(cause: str) -> CommandError:
    return CommandError(
        "image_too_large",
        cause,
        "What was downloaded so far was removed; it is not tried again from the same source.",
        "Check that the URL serves the image, or raise the limit on an image's size.",
    )
