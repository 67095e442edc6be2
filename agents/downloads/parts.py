"""The temporary files of a template in a pool, recognised by their names (``temporary_name()``)."""

import re
from pathlib import Path

from agents.hypervisor.images import temporary_files

_ANY_COMMAND = r"[A-Za-z0-9_-]+"


def parts_of(pool: Path, file_name: str, command_id: str | None = None) -> list[Path]:
    """Parts of a final file, of one command or of any; the newest attempt last. Raises OSError."""
    command = _ANY_COMMAND if command_id is None else re.escape(command_id)
    pattern = re.compile(rf"\.{re.escape(file_name)}\.{command}\.([0-9]+)\.part")
    matches = [match for name in temporary_files(pool, file_name) if (match := pattern.fullmatch(name))]
    return [pool / match[0] for match in sorted(matches, key=lambda match: int(match[1]))]
