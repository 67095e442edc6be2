"""A download whose agent was killed at nine tenths: the rest of the work beside the whole of it."""

import json
from pathlib import Path

from agents.handlers.template_download import MAX_SAVE_BYTES, MIN_SAVE_BYTES, SAVES
from benchmarks.download import SETTLE_SECONDS, local_pool
from benchmarks.measuring import Result, Sizes, interleave
from benchmarks.stage import moments, register, serve_bytes
from tests.lab.lab import Lab
from tests.lab.waiting import poll
from tests.scenarios.cloud import Cloud, Row

_ROUNDS = 5
_EVENTS = ["command.started", "command.ended"]
_KILLED_AT = 0.9


def resume(lab: Lab, sizes: Sizes) -> list[Result]:
    """Both sides count from STARTED to the end at the agent: how soon it is back is its supervisor's matter."""
    cloud = Cloud(lab)
    name = serve_bytes(lab, sizes.file_bytes, b"unbroken")
    stop = int(sizes.file_bytes * _KILLED_AT)
    asked: list[int] = []

    def whole() -> float:
        template = register(cloud, name)
        operation = cloud.settled(cloud.prepare(template, local_pool(cloud)), SETTLE_SECONDS)
        return _took(cloud, template, operation, attempt=1)

    def rest() -> float:
        template = register(cloud, name)
        lab.mirror.fault(name, "stall", at=stop, times=1)
        operation = cloud.prepare(template, local_pool(cloud))
        _wait_durable(lab, operation["commands"][0], stop, sizes.file_bytes)
        lab.supervisor.kill(lab.hosts[0].part)
        lab.mirror.heal()
        cloud.settled(operation, SETTLE_SECONDS)
        asked.append(lab.mirror.requests(name)[-1].bytes)
        return _took(cloud, template, operation, attempt=2)

    taken = interleave({"rest": rest, "whole": whole}, sizes, _ROUNDS)
    (lab.mirror.folder / "files" / name).unlink()
    share = max(asked) / sizes.file_bytes
    notes = [f"at most {share:.0%} of the bytes were asked for again; the other ones are hashed from disk"]
    return [Result("resume", "rest", "whole", taken, aim=0.2, notes=notes)]


def _took(cloud: Cloud, template: Row, operation: Row, attempt: int) -> float:
    began, ended = moments(cloud.lab, _EVENTS, operation["commands"][0], attempt)
    Path(cloud.placement(template, local_pool(cloud))["path"]).unlink()
    return ended - began


def _wait_durable(lab: Lab, command: str, stop: int, size: int) -> None:
    """Returns when the journal has the last offset that it gets before the mirror's silence."""
    step = min(max(size // SAVES, MIN_SAVE_BYTES), MAX_SAVE_BYTES) + MIN_SAVE_BYTES
    journal = lab.hosts[0].journal / f"{command}.json"

    def durable() -> bool:
        return journal.exists() and json.loads(journal.read_text())["notes"].get("offset", 0) > stop - step

    poll(durable, SETTLE_SECONDS, "nine tenths are durable")
