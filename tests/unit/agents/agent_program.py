"""The real agent with a role of which a test can see and hold every step.

It plays ``volume.create`` on files in the payload's ``pool_path``: ``effects`` gets a line per thing done,
``hold-<volume_id>`` keeps a run waiting, ``raise-<volume_id>`` holds a word of how it ends.
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.common.errors import CannotTell, CommandError
from agents.handlers.base import Context
from agents.main import main
from agents.protocol.kinds import VolumeCreate, VolumeCreateAnswer, VolumeCreateEvidence
from agents.protocol.messages import Progress
from agents.roles.base import Role
from agents.state import Identity, StateFolder


def effect(payload: VolumeCreate, context: Context, what: str) -> None:
    with (Path(payload.pool_path) / "effects").open("a") as effects:
        effects.write(f"{what} {payload.volume_id} {context.attempt}\n")


class PlayedVolumeCreate:
    def run(self, context: Context, payload: VolumeCreate) -> VolumeCreateAnswer:
        folder = Path(payload.pool_path)
        context.step("volume_create.before_create", began=context.attempt)
        effect(payload, context, "begin")
        while (folder / f"hold-{payload.volume_id}").exists():
            context.check()
            context.progress(Progress(done_bytes=1, total_bytes=2))
            time.sleep(0.01)
        self._raise(folder / f"raise-{payload.volume_id}")
        context.commit("volume_create.before_rename", committed_in=context.attempt)
        effect(payload, context, "commit")
        while (folder / f"hold-late-{payload.volume_id}").exists():
            context.check()
            time.sleep(0.01)
        self._raise(folder / f"raise-late-{payload.volume_id}")
        secret = context.secrets.get("word", "")
        return VolumeCreateAnswer(path=payload.file_name, virtual_size_bytes=len(secret), allocated_bytes=0)

    @staticmethod
    def _raise(path: Path) -> None:
        if not path.exists():
            return
        if path.read_text() == "bug":
            raise ZeroDivisionError("a bug")
        raise CommandError("no_room", "The pool is full.", "Nothing was made.", "Make room.")

    def cancel(self, context: Context, payload: VolumeCreate) -> None:
        self._raise(Path(payload.pool_path) / f"raise-cancel-{payload.volume_id}")
        effect(payload, context, "cancel")

    def probe(self, notes: Mapping[str, Any], payload: VolumeCreate) -> VolumeCreateEvidence:
        if (Path(payload.pool_path) / f"hide-{payload.volume_id}").exists():
            raise CannotTell("the storage does not answer")
        return VolumeCreateEvidence(mismatch=f"began in attempt {notes.get('began')}")


def make_role(_identity: Identity, _folder: StateFolder) -> Role:
    return Role(handlers={"volume.create": PlayedVolumeCreate()})


if __name__ == "__main__":
    sys.exit(main(make_role=make_role))
