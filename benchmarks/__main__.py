"""`python -m benchmarks [NAME …]`: as root, on a machine where scripts/install has run."""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.accept import accept
from benchmarks.deployments import deployments
from benchmarks.download import download
from benchmarks.measuring import Result, Sizes
from benchmarks.memory import memory
from benchmarks.million import lists, sweep
from benchmarks.resume import resume
from benchmarks.start import start
from benchmarks.throughput import throughput
from tests.lab.database import DATABASES
from tests.lab.lab import Lab


@dataclass(frozen=True)
class Benchmark:
    """``databases``: those on which it can come out otherwise."""

    run: Callable[[Lab, Sizes], list[Result]]
    databases: tuple[str, ...] = DATABASES[:1]


# In this order: what fills the database comes last.
BENCHMARKS: Mapping[str, Benchmark] = {
    "memory": Benchmark(memory),
    "accept": Benchmark(accept, DATABASES),
    "start": Benchmark(start, DATABASES),
    "throughput": Benchmark(throughput, DATABASES),
    "download": Benchmark(download),
    "resume": Benchmark(resume),
    "deployments": Benchmark(deployments),
    "lists": Benchmark(lists, DATABASES),
    "sweep": Benchmark(sweep, DATABASES),
}


def main() -> None:
    """Prints each result when it is there; with --json one document a line."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sizes = Sizes(**{name: getattr(options, name) for name in Sizes.__dataclass_fields__})
    wanted = [name for name in BENCHMARKS if name in (options.names or BENCHMARKS)]
    for database in options.database or DATABASES:
        names = [name for name in wanted if options.database or database in BENCHMARKS[name].databases]
        if names:
            _run(names, database, sizes, as_json=options.json)


def _run(names: Sequence[str], database: str, sizes: Sizes, *, as_json: bool) -> None:
    """One lab for all of them, with the intervals of an installation and a database that waits for its disk."""
    with Lab(hosts=1, database=database, durable=True) as lab:
        for name in names:
            for result in BENCHMARKS[name].run(lab, sizes):
                document = {"benchmark": name, "database": database, **result.as_json()}
                print(json.dumps(document) if as_json else f"[{database}] {result.as_text()}", flush=True)


def _parser() -> argparse.ArgumentParser:
    default = Sizes()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Hot paths beside their limits.")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *BENCHMARKS], help=", ".join(BENCHMARKS))
    parser.add_argument("--database", action="append", choices=DATABASES, help="default: each where it matters")
    parser.add_argument("--json", action="store_true", help="one JSON document a line")
    parser.add_argument("--rounds", type=int, default=default.rounds, help="pairs, at most (%(default)s)")
    parser.add_argument("--seconds", type=float, default=default.seconds, help="for all pairs of one (%(default)s)")
    parser.add_argument("--file-bytes", type=int, default=default.file_bytes, help="to download (%(default)s)")
    parser.add_argument("--deployments", type=int, default=default.deployments, help="%(default)s")
    parser.add_argument("--operations", type=int, default=default.operations, help="a round (%(default)s)")
    parser.add_argument("--rows", type=int, default=default.rows, help="in lists and sweeps (%(default)s)")
    return parser


if __name__ == "__main__":
    main()
