"""Pure decisions: what evidence about a template's commands means."""

from collections.abc import Mapping
from typing import Any

from agents.protocol.kinds import Data, RemoveEvidence, TemplateDownloadEvidence
from operations_app.rules import Judgement, Verdict


def judge_check(_payload: Mapping[str, Any], _evidence: Data) -> Verdict:
    """Looking at a URL changes nothing, so it is simply done again."""
    return Verdict(Judgement.REDO, "the check was interrupted and changes nothing")


def judge_download(_payload: Mapping[str, Any], evidence: TemplateDownloadEvidence) -> Verdict:
    """First that fits: verified under the final name → done; else again, from what is on disk."""
    if evidence.final is not None:
        return Verdict(Judgement.DONE, "the verified file is under its final name", evidence.final.model_dump())
    if evidence.unverified_final:
        return Verdict(
            Judgement.UNDONE, "a file under the final name is not known to be the verified one; it is left to a person"
        )
    return Verdict(Judgement.REDO, f"{evidence.verified_offset} bytes are on disk; it goes on from there")


def judge_remove(_payload: Mapping[str, Any], evidence: RemoveEvidence) -> Verdict:
    """Nothing left → done; else forward again: removing has no way back."""
    if not evidence.left:
        return Verdict(Judgement.DONE, "nothing is left", {"removed": []})
    return Verdict(Judgement.REDO, f"{len(evidence.left)} files are left")
