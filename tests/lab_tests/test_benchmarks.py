"""Each benchmark still runs: tiny sizes, one round, real parts. What comes out says nothing of speed."""

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.__main__ import BENCHMARKS
from tests.lab.supervisor import ROOT

TINY = {"rounds": 1, "file-bytes": 4 << 20, "deployments": 2, "operations": 2, "rows": 300}


@pytest.fixture(scope="module")
def documents(database: str) -> list[dict[str, Any]]:
    """All that one run prints."""
    sizes = [f"--{name}={value}" for name, value in TINY.items()]
    command = [sys.executable, "-m", "benchmarks", "--json", "--database", database, *sizes]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_it_measures_both_sides(documents: list[dict[str, Any]], name: str) -> None:
    found = [document for document in documents if document["benchmark"] == name]
    assert found
    for document in found:
        assert document["rounds"] == 1
        assert min(document["worst_pair"]) > 0
        assert document["sides"].keys() == {document["ours"], document["limit"]}


def test_deployments_share_their_download(documents: list[dict[str, Any]]) -> None:
    notes = {document["name"]: " ".join(document["notes"]) for document in documents}
    assert "1 downloads for 1 times 2 deployments" in notes["deployments"]
