"""seed.create: a VM's cloud-init seed, written beside its place and then moved there."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.common.crash import crash_point
from agents.common.errors import CommandError
from agents.common.files import fsync_folder, rename_no_replace
from agents.common.pools import pool_errors, pool_evidence
from agents.handlers.base import Context
from agents.hypervisor.images import image_path, remove_temporary, temporary_name
from agents.hypervisor.seed import iso, meta_data
from agents.protocol.kinds import SeedCreate, SeedCreateAnswer, SeedCreateEvidence


class SeedCreateHandler:
    """Under its final name a seed is whole, and a VM's never changes: one that is there stays."""

    def run(self, context: Context, payload: SeedCreate) -> SeedCreateAnswer:
        """Make the seed, or find it made."""
        pool, final = Path(payload.pool_path), image_path(payload.pool_path, payload.file_name)
        with pool_errors(pool):
            remove_temporary(pool, payload.file_name)
            if os.path.lexists(final):
                return _made_before(final)
        context.step("seed_create.before_create")
        temporary = pool / temporary_name(payload.file_name, context.command_id, context.attempt)
        with pool_errors(pool):
            _write(temporary, _content(payload, context.secrets))
        context.commit("seed_create.before_rename")
        try:
            rename_no_replace(temporary, final)
        except FileExistsError:
            raise _refused(final, "a file of that name appeared meanwhile") from None
        fsync_folder(pool)
        crash_point("seed_create.after_rename")
        return SeedCreateAnswer(path=str(final))

    def cancel(self, context: Context, payload: SeedCreate) -> None:
        """Remove what attempts left beside the place of the seed."""
        pool = Path(payload.pool_path)
        with pool_errors(pool):
            remove_temporary(pool, payload.file_name)

    def probe(self, notes: Mapping[str, Any], payload: SeedCreate) -> SeedCreateEvidence:
        """Is the seed there?"""
        final = image_path(payload.pool_path, payload.file_name)
        with pool_evidence(final.parent):
            there = final.name in {path.name for path in final.parent.iterdir()}
        if not there:
            return SeedCreateEvidence()
        if final.is_symlink() or not final.is_file():
            return SeedCreateEvidence(refused=f"{final} is not a regular file")
        return SeedCreateEvidence(path=str(final))


def _content(payload: SeedCreate, secrets: Mapping[str, Any]) -> bytes:
    described = meta_data(payload.vm_id, payload.local_hostname, secrets["ssh_keys"])
    return iso({"meta-data": described, "user-data": secrets["user_data"].encode()})


def _write(path: Path, content: bytes) -> None:
    # It holds secrets: nobody but the host's own may read it.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _made_before(final: Path) -> SeedCreateAnswer:
    if final.is_symlink() or not final.is_file():
        raise _refused(final, "it is not a regular file")
    fsync_folder(final.parent)
    return SeedCreateAnswer(path=str(final))


def _refused(final: Path, why: str) -> CommandError:
    return CommandError(
        "seed_refused",
        f"{final} cannot be the VM's seed: {why}.",
        "It was left as it is, and no seed was made.",
        "Look at it on the host; move it away if nothing needs it.",
    )
