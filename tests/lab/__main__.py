"""`scripts/lab up`: a lab in the foreground."""

import argparse
import json
import signal
import sys
import threading
from pathlib import Path

from tests.lab.database import DATABASES
from tests.lab.lab import Lab


def main() -> None:
    """Prints `READY {json}` when all answers, and runs until Ctrl-C or SIGTERM."""
    options = _parser().parse_args()
    # SystemExit unwinds what is half started, wherever the signal comes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    with Lab(
        hosts=options.hosts,
        database=options.database,
        folder=options.dir,
        ping_interval=options.ping_interval,
        reconcile_interval=options.reconcile_interval,
        management_servers=options.management_servers,
    ) as lab:
        print("READY", json.dumps(lab.ready()), flush=True)
        threading.Event().wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/lab", description="All of cloudctl on this machine.")
    up = parser.add_subparsers(required=True).add_parser("up", help="start everything, in the foreground")
    up.add_argument("--hosts", type=int, default=2, help="how many libvirt hosts (%(default)s)")
    up.add_argument("--management-servers", type=int, default=1, help="how many (%(default)s)")
    up.add_argument("--database", choices=DATABASES, default="sqlite", help="%(default)s")
    up.add_argument("--dir", type=Path, help="where everything lives, an empty folder (default: a new temporary one)")
    up.add_argument("--ping-interval", type=float, help="seconds; sets ping.interval")
    up.add_argument("--reconcile-interval", type=float, help="seconds; sets reconcile.commands.interval")
    return parser


if __name__ == "__main__":
    main()
