"""Removes a template's file from a pool, and what unfinished downloads of it left there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.common.errors import CannotTell
from agents.common.files import inside
from agents.common.pools import pool_errors
from agents.handlers.base import Context
from agents.hypervisor.images import remove_image, temporary_files
from agents.protocol.kinds import RemoveAnswer, RemoveEvidence, TemplateRemove


class TemplateRemoveHandler:
    """Removes the final name first: while that is in use, nothing is touched."""

    def run(self, context: Context, payload: TemplateRemove) -> RemoveAnswer:
        pool = Path(payload.pool_path)
        with pool_errors(pool):
            files = _files(payload)
        context.commit("template_remove.before_removal")
        with pool_errors(pool):
            removed = tuple(file.name for file in files if remove_image(file, pool))
        context.step("template_remove.after_removal")
        return RemoveAnswer(removed=removed)

    def cancel(self, context: Context, payload: TemplateRemove) -> None:
        """A removal is only repeated, never taken back."""

    def probe(self, notes: Mapping[str, Any], payload: TemplateRemove) -> RemoveEvidence:
        try:
            return RemoveEvidence(left=tuple(file.name for file in _files(payload) if file.exists()))
        except OSError as error:
            raise CannotTell(f"The pool at {payload.pool_path} cannot be read: {error}.") from error


def _files(payload: TemplateRemove) -> list[Path]:
    """The template's final file, then the parts of it. Raises OSError."""
    pool = Path(payload.pool_path)
    final = [] if payload.keep_final else [inside(pool, payload.file_name)]
    return [*final, *temporary_files(pool, payload.file_name)]
