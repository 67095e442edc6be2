"""Downloads a template into a pool.

1. Take the part that an earlier attempt left, or begin one.
2. Download into it; what is durable is journaled, so that a killed agent's successor goes on from there.
3. Compare checksum and pinned hash, read the image's header with our own reader.
4. Rename to the final name, replacing nothing. Whoever finds a file there keeps it only if it holds the same bytes.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agents.common.checksums import Verifier, parse_checksum
from agents.common.errors import CannotTell, CommandError
from agents.common.files import fsync_folder, inside, rename_no_replace
from agents.common.image_header import inspect
from agents.common.pools import pool_errors
from agents.downloads.base import Downloader, Remote
from agents.downloads.part import MIB, Part
from agents.downloads.registry import DOWNLOADERS, downloader_for, request_for
from agents.handlers.base import Context
from agents.hypervisor.images import remove_image, temporary_files, temporary_name
from agents.protocol.kinds import Data, TemplateDownload, TemplateDownloadAnswer, TemplateDownloadEvidence
from agents.protocol.messages import Progress

SAVE_SECONDS = 5.0
MIN_SAVE_BYTES, MAX_SAVE_BYTES = MIB, 64 * MIB
SAVES = 32
"""A download is journaled about this often, within the bounds above, and every SAVE_SECONDS."""


class VerifiedFile(Data):
    """A file that was verified, known again by what a rename does not change."""

    sha256: str
    size_bytes: int
    virtual_size_bytes: int
    inode: int
    modified_ns: int
    resumed_from_bytes: int = 0


class DownloadNotes(Data):
    """What the journal keeps of a download."""

    offset: int = 0
    """So many bytes of the part are durable."""
    remote_size_bytes: int = -1
    remote_validator: str = ""
    verified: VerifiedFile | None = None

    @property
    def remote(self) -> Remote:
        return Remote(self.remote_size_bytes, self.remote_validator)


class TemplateDownloadHandler:
    """``downloaders``: by scheme."""

    def __init__(self, downloaders: Mapping[str, Downloader] = DOWNLOADERS) -> None:
        self._downloaders = downloaders

    def run(self, context: Context, payload: TemplateDownload) -> TemplateDownloadAnswer:
        pool = Path(payload.pool_path)
        final = inside(pool, payload.file_name)
        verified = _already_there(final, context, payload)
        if verified is None:
            verified = self._download(context, payload, final)
        _remove_parts(pool, payload, context.command_id)
        return _answer(final, verified)

    def cancel(self, context: Context, payload: TemplateDownload) -> None:
        """Remove this command's parts; a file under the final name is never its own while it can be cancelled."""
        _remove_parts(Path(payload.pool_path), payload, context.command_id)

    def probe(self, notes: Mapping[str, Any], payload: TemplateDownload) -> TemplateDownloadEvidence:
        pool = Path(payload.pool_path)
        known = DownloadNotes.model_validate(notes)
        try:
            parts = temporary_files(pool, payload.file_name)
            resumable = any(part.stat().st_size >= known.offset for part in parts)
            final = inside(pool, payload.file_name)
            verified = _recognise(final, known.verified, payload, _undisturbed) if final.exists() else None
            return TemplateDownloadEvidence(
                final=None if verified is None else _answer(final, verified),
                unverified_final=verified is None and final.exists(),
                verified_offset=known.offset if resumable else 0,
                temporary_files=tuple(part.name for part in parts),
            )
        except OSError as error:
            raise CannotTell(f"The pool at {pool} cannot be read: {error}.") from error

    def _download(self, context: Context, payload: TemplateDownload, final: Path) -> VerifiedFile:
        request = request_for(payload.source, payload.limits, context.secrets)
        downloader = downloader_for(request, self._downloaders)
        checksum = None if payload.source.checksum is None else parse_checksum(payload.source.checksum)
        known = DownloadNotes.model_validate(context.notes)
        path = _take_over(context, payload, final.parent)
        with Part(path, checksum, _max_bytes(payload)) as part:
            part.resume(known.offset, context.check)
            watch = _Watch(context, part)
            remote = downloader.download(request, part, known.remote, watch)
            part.sync()
            context.step("template_download.before_verify", **_notes(part.offset, remote))
            verified = _verify(path, part.finished(), payload, watch.resumed_from_bytes)
        return _publish(path, final, verified, context)


class _Watch:
    """Follows the bytes into the part: journals what is durable, shows progress, ends when the command has to."""

    def __init__(self, context: Context, part: Part) -> None:
        self.check = context.check
        self._context = context
        self._part = part
        self._began_at = self._saved = part.offset
        self._restarts = part.restarts
        self._saved_at = -SAVE_SECONDS
        self._shown_at = 0.0
        self._history: deque[tuple[float, int]] = deque([(time.monotonic(), part.offset)], maxlen=10)
        self._message = ""
        self._total_bytes = 0

    @property
    def resumed_from_bytes(self) -> int:
        """0 when the source made it begin anew."""
        return self._began_at

    def received(self, remote: Remote) -> None:
        self._total_bytes = max(remote.size_bytes, 0)
        if self._part.restarts != self._restarts:
            self._restarts = self._part.restarts
            self._began_at = self._saved = 0
            self._saved_at = -SAVE_SECONDS
        now = time.monotonic()
        if self._is_due(now, remote):
            self._part.sync()
            self._saved, self._saved_at = self._part.offset, now
            self._context.step("template_download.midway", **_notes(self._saved, remote))
        if now - self._shown_at > 0.5:
            self._show(now)

    def trouble(self, cause: str) -> None:
        self._message = cause
        self._show(time.monotonic())

    def _is_due(self, now: float, remote: Remote) -> bool:
        step = MAX_SAVE_BYTES if remote.size_bytes < 0 else remote.size_bytes // SAVES
        step = min(max(step, MIN_SAVE_BYTES), MAX_SAVE_BYTES)
        return self._part.offset - self._saved >= step or now - self._saved_at >= SAVE_SECONDS

    def _show(self, now: float) -> None:
        then, offset = self._history[0]
        self._history.append((now, self._part.offset))
        self._shown_at = now
        rate = max(0, round((self._part.offset - offset) / max(now - then, 0.001)))
        self._context.progress(
            Progress(done_bytes=self._part.offset, total_bytes=self._total_bytes, rate=rate, message=self._message)
        )


def _undisturbed() -> None:
    """A probe is not cancelled."""


def _already_there(final: Path, context: Context, payload: TemplateDownload) -> VerifiedFile | None:
    """The verified file under the final name; None when there is nothing that could be told without downloading."""
    with pool_errors(final.parent):
        if not final.exists():
            return None
        known = DownloadNotes.model_validate(context.notes).verified
        verified = _recognise(final, known, payload, context.check)
    if verified is None and (payload.pinned_sha256 or payload.source.checksum):
        raise _taken(final)
    return verified


def _recognise(
    final: Path, known: VerifiedFile | None, payload: TemplateDownload, pulse: Callable[[], None]
) -> VerifiedFile | None:
    """The file as verified: it is the one in the journal, or its bytes are those that are asked for.

    None when it is not, or when nothing says what its bytes should be. Raises OSError.
    """
    if known is not None and _is_same(final, known):
        return known
    if not (payload.pinned_sha256 or payload.source.checksum):
        return None
    verifier = _hashed(final, payload, pulse)
    pinned = payload.pinned_sha256 or verifier.sha256
    if not verifier.matches() or verifier.sha256 != pinned:
        return None
    return _described(final, verifier.sha256, payload)


def _take_over(context: Context, payload: TemplateDownload, pool: Path) -> Path:
    """This attempt's part, which is the newest one of an earlier attempt if there is one."""
    path = pool / temporary_name(payload.file_name, context.command_id, context.attempt)
    with pool_errors(pool):
        newest = [path, *temporary_files(pool, payload.file_name, context.command_id)][-1]
    context.step("template_download.before_temporary")
    if newest != path:
        with pool_errors(pool):
            rename_no_replace(newest, path)
    return path


def _verify(path: Path, verifier: Verifier, payload: TemplateDownload, resumed_from_bytes: int) -> VerifiedFile:
    """The part as a file that may be used. Raises CommandError, final for this source, when it may not."""
    verifier.verify()
    if payload.pinned_sha256 and verifier.sha256 != payload.pinned_sha256:
        raise CommandError(
            "content_changed",
            f"The URL now serves other bytes (SHA-256 {verifier.sha256}) than the template's first copy "
            f"({payload.pinned_sha256}).",
            "The new bytes were thrown away: copies of one template must be equal.",
            "Register the new content as a template of its own, or have the publisher restore the old one.",
        )
    with pool_errors(path.parent):
        return _described(path, verifier.sha256, payload, resumed_from_bytes)


def _publish(path: Path, final: Path, verified: VerifiedFile, context: Context) -> VerifiedFile:
    """Give the file its final name, durably; or accept the equal file that somebody else put there first."""
    context.commit("template_download.before_rename", verified=verified.model_dump())
    with pool_errors(final.parent):
        try:
            rename_no_replace(path, final)
        except FileExistsError:
            verified = _accept_other(final, verified)
    fsync_folder(final.parent)
    context.step("template_download.after_rename", verified=verified.model_dump())
    return verified


def _accept_other(final: Path, mine: VerifiedFile) -> VerifiedFile:
    verifier = Verifier(None)
    for data in _blocks(final):
        verifier.update(data)
    if verifier.sha256 != mine.sha256:
        raise _taken(final)
    status = final.stat()
    return mine.model_copy(update={"inode": status.st_ino, "modified_ns": status.st_mtime_ns})


def _described(path: Path, sha256: str, payload: TemplateDownload, resumed_from_bytes: int = 0) -> VerifiedFile:
    image = inspect(path, payload.source.format, payload.max_virtual_size_bytes)
    status = path.stat()
    return VerifiedFile(
        sha256=sha256,
        size_bytes=status.st_size,
        virtual_size_bytes=image.virtual_size_bytes,
        inode=status.st_ino,
        modified_ns=status.st_mtime_ns,
        resumed_from_bytes=resumed_from_bytes,
    )


def _is_same(file: Path, known: VerifiedFile) -> bool:
    status = file.stat()
    return (status.st_ino, status.st_size, status.st_mtime_ns) == (known.inode, known.size_bytes, known.modified_ns)


def _hashed(file: Path, payload: TemplateDownload, pulse: Callable[[], None]) -> Verifier:
    verifier = Verifier(None if payload.source.checksum is None else parse_checksum(payload.source.checksum))
    for data in _blocks(file):
        pulse()
        verifier.update(data)
    return verifier


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while data := opened.read(MIB):
            yield data


def _remove_parts(pool: Path, payload: TemplateDownload, command_id: str) -> None:
    with pool_errors(pool):
        for part in temporary_files(pool, payload.file_name, command_id):
            remove_image(part, pool)


def _max_bytes(payload: TemplateDownload) -> int:
    """Of the file: a full qcow2 is a little larger than what a guest sees."""
    return payload.max_virtual_size_bytes + payload.max_virtual_size_bytes // 64 + 64 * MIB


def _notes(offset: int, remote: Remote) -> dict[str, Any]:
    return {"offset": offset, "remote_size_bytes": remote.size_bytes, "remote_validator": remote.validator}


def _answer(final: Path, verified: VerifiedFile) -> TemplateDownloadAnswer:
    return TemplateDownloadAnswer(
        path=str(final),
        size_bytes=verified.size_bytes,
        virtual_size_bytes=verified.virtual_size_bytes,
        sha256=verified.sha256,
        resumed_from_bytes=verified.resumed_from_bytes,
    )


def _taken(final: Path) -> CommandError:
    return CommandError(
        "final_name_taken",
        f"A file with other content already lies at {final}.",
        "It was not touched, and what was downloaded was thrown away.",
        "Find out who put it there; remove it from the pool if nothing needs it, then try again.",
    )
