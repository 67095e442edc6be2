"""How soon work begins: from the request to the agent's STARTED, beside a raw no-op on the same broker and pool."""

import time
from datetime import datetime
from statistics import median

from benchmarks.measuring import Result, Sizes, interleave
from benchmarks.noop import Noop
from benchmarks.stage import moments
from tests.lab.lab import Lab
from tests.scenarios.cloud import Cloud


def start(lab: Lab, sizes: Sizes) -> list[Result]:
    """Templates are registered, one at a time, and a host looks at each."""
    cloud, noop = Cloud(lab), Noop(lab)
    url = lab.mirror.url(cloud.serve())
    accepted: list[float] = []
    shown: list[float] = []

    def until_started() -> float:
        submitted = time.time()
        operation = cloud.register(url)
        accepted.append(time.time() - submitted)
        (began,) = moments(lab, ["command.started"], operation["commands"][0])
        cloud.settled(operation)
        row = cloud.client.get(f"commands/{operation['commands'][0]}/")
        shown.append(datetime.fromisoformat(row["started_at"]).timestamp() - submitted)
        return began - submitted

    until_started()
    taken = interleave({"submit to started": until_started, "no-op": noop.until_begun}, sizes)
    notes = [
        f"the 202 was back after {median(accepted) * 1000:.1f} ms (p50)",
        f"the database knew of STARTED after {median(shown) * 1000:.1f} ms (p50)",
    ]
    return [Result("start", "submit to started", "no-op", taken, aim=3.0, notes=notes)]
