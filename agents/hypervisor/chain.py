"""The files of a disk, compared with what the database records before QEMU opens any of them."""

from collections.abc import Sequence
from pathlib import Path

from agents.common.errors import CommandError
from agents.common.image_header import read_qcow2_header
from agents.common.pools import pool_errors
from agents.protocol.kinds import ImageFile


def check_chain(chain: Sequence[ImageFile]) -> None:
    """Each file of the chain names exactly the recorded next one, in the same pool, and the last one none.

    Raises CommandError ``chain_mismatch``.
    """
    for file, behind in zip(chain, (*chain[1:], None), strict=True):
        path = Path(file.path)
        if not path.is_absolute() or ".." in path.parts or path.parent != Path(chain[0].path).parent:
            raise _refused(path, "it does not lie in the pool of the disk")
        with pool_errors(path.parent):
            if path.is_symlink() or not path.is_file():
                raise _refused(path, "there is no such file")
            wrong = _wrong_link(file, behind)
        if wrong:
            raise _refused(path, wrong)


def _wrong_link(file: ImageFile, behind: ImageFile | None) -> str:
    if file.format == "raw":
        return "" if behind is None else "a raw file cannot have a backing file"
    try:
        header = read_qcow2_header(file.path)
    except CommandError as error:
        return error.problem.cause
    if header.data_file:
        return "its data lies in another file"
    recorded = (behind.path, behind.format) if behind else (None, None)
    if (header.backing_file, header.backing_format) == recorded:
        return ""
    return f"its backing file is {header.backing_file!r} ({header.backing_format}), recorded is {recorded[0]!r}"


def _refused(path: Path, why: str) -> CommandError:
    return CommandError(
        "chain_mismatch",
        f"The disk is not as recorded: {path}: {why}.",
        "Nothing was started or changed, and no image was opened.",
        "Find out who changed the file; put the recorded one back or restore the volume.",
    )
