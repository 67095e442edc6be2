"""volume.remove: the files of a volume and what its unfinished creation left."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.common.crash import crash_point
from agents.common.pools import pool_errors, pool_evidence
from agents.handlers.base import Context
from agents.hypervisor.images import check_removable, image_path, remove_image, temporary_files
from agents.protocol.kinds import RemoveAnswer, RemoveEvidence, VolumeRemove


class VolumeRemoveHandler:
    """Once the first file is gone it only goes forward."""

    def run(self, context: Context, payload: VolumeRemove) -> RemoveAnswer:
        """Remove every file that is still there; those that are not are no error."""
        pool = Path(payload.pool_path)
        with pool_errors(pool):
            paths = _files(payload)
            for path in paths:
                check_removable(path, pool)
        removed: list[str] = []
        for path in paths:
            context.commit("volume_remove.before_removal")
            with pool_errors(pool):
                gone = remove_image(path, pool)
            removed += [path.name] if gone else []
            crash_point("volume_remove.after_removal")
        return RemoveAnswer(removed=tuple(removed))

    def cancel(self, context: Context, payload: VolumeRemove) -> None:
        """Nothing to put back: before the first removal nothing was done."""

    def probe(self, notes: Mapping[str, Any], payload: VolumeRemove) -> RemoveEvidence:
        """Which files are still there?"""
        with pool_evidence(Path(payload.pool_path)):
            return RemoveEvidence(left=tuple(path.name for path in _files(payload)))


def _files(payload: VolumeRemove) -> list[Path]:
    """What is to be removed, as far as it is there."""
    pool = Path(payload.pool_path)
    there = {path.name for path in pool.iterdir()}
    final = () if payload.keep_final else payload.file_names
    wanted = [name for name in final if image_path(payload.pool_path, name).name in there]
    unfinished = [path for name in payload.file_names for path in temporary_files(pool, name)]
    return [*(pool / name for name in wanted), *unfinished]
