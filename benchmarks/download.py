"""A template straight onto a pool, beside curl from the same mirror onto the same file system."""

import shlex
import subprocess
from pathlib import Path

from benchmarks.measuring import Result, Side, Sizes, interleave, timed
from benchmarks.stage import register, serve_bytes
from tests.lab.lab import Lab
from tests.scenarios.cloud import Cloud, Row

ROUNDS = 5
SETTLE_SECONDS = 120.0
OURS, FETCH, VERIFY, MIRROR = "download", "curl + fsync", "curl && sha256sum && fsync", "curl to nowhere"
_AT_THE_LIMIT = 1.15


def download(lab: Lab, sizes: Sizes) -> list[Result]:
    """Ours counts from the request to the settled operation: hashed, inspected, durable, recorded."""
    cloud = Cloud(lab)
    name = serve_bytes(lab, sizes.file_bytes, b"download")
    file = lab.dir / "fetched.raw"
    url, out = shlex.quote(lab.mirror.url(name)), shlex.quote(str(file))
    sides: dict[str, Side] = {
        OURS: lambda: _prepare(cloud, name),
        FETCH: lambda: _shell(f"curl -sf -o {out} {url} && sync {out}", file),
        VERIFY: lambda: _shell(f"curl -sf -o {out} {url} && sha256sum {out} && sync {out}", file),
        MIRROR: lambda: _shell(f"curl -sf -o /dev/null {url}", file),
    }
    sides[MIRROR]()  # the mirror reads and hashes a file once
    taken = interleave(sides, sizes, ROUNDS)
    (lab.mirror.folder / "files" / name).unlink()
    alone = taken.median(MIRROR)
    limited = [side for side in (OURS, FETCH) if taken.median(side) <= _AT_THE_LIMIT * alone]
    rates = ", ".join(f"{side} {sizes.file_bytes / taken.median(side) / 1e6:.0f} MB/s" for side in sides)
    notes = [rates, f"the mirror was the limit of: {' and '.join(limited) or 'none of them'}"]
    return [
        Result("download beside curl", OURS, FETCH, taken, aim=1.5, notes=notes),
        Result("download beside curl and sha256sum", OURS, VERIFY, taken, aim=0.7),
    ]


def _prepare(cloud: Cloud, name: str) -> float:
    template = register(cloud, name)
    pool = local_pool(cloud)
    seconds = timed(lambda: cloud.settled(cloud.prepare(template, pool), SETTLE_SECONDS))()
    # Nobody asks for this copy again, and the next one needs the room.
    Path(cloud.placement(template, pool)["path"]).unlink()
    return seconds


def local_pool(cloud: Cloud) -> Row:
    """The pool of the first host."""
    return cloud.pool(f"{cloud.lab.hosts[0].name}-local")


def _shell(command: str, file: Path) -> float:
    seconds = timed(lambda: subprocess.run(["sh", "-c", command], check=True, stdout=subprocess.DEVNULL))()
    file.unlink(missing_ok=True)
    return seconds
