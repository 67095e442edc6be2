"""A management server whose database and broker are not there, as a program of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.supervisor import ROOT

ASK = """
import django, json
django.setup()
from django.test import Client
for path in ("/livez", "/readyz"):
    answer = Client().get(path, headers={"host": "localhost"})
    print(json.dumps([answer.status_code, answer.json()]))
"""


@pytest.mark.parametrize(
    "scheme", ["sqlite:////nowhere/at-all/db.sqlite3", "postgres://me:hunter2@127.0.0.1:{port}/db"]
)
def test_without_its_database_it_lives_but_is_not_ready(scheme: str, unused_port: int, tmp_path: Path) -> None:
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "cloudctl.settings",
        "CLOUDCTL_DATABASE_URL": scheme.format(port=unused_port),
        "CLOUDCTL_BROKER_URL": f"redis://:hunter2@127.0.0.1:{unused_port}/0",
        "CLOUDCTL_SECRETS_DIR": str(tmp_path),
    }
    asked = subprocess.run(
        [sys.executable, "-c", ASK], env=environment, cwd=ROOT, capture_output=True, timeout=60, check=True
    )
    alive, ready = [json.loads(line) for line in asked.stdout.splitlines()]
    assert alive == [200, {"status": "alive"}]
    assert (ready[0], sorted(ready[1]["reasons"])) == (503, ["broker", "database"])
    assert "hunter2" not in str(ready)
