"""The lab as others use it: one line says where everything is, it heals, and it leaves nothing behind."""

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest
import requests

from tests.conftest import LabFactory
from tests.lab import process
from tests.lab.keeper import MARK
from tests.lab.lab import Lab
from tests.lab.supervisor import ROOT


def marked(folder: Path) -> list[int]:
    """The processes that belong to the lab in this folder."""
    pids = [entry.identity.pid for entry in process.table() if not entry.zombie]
    return [pid for pid in pids if process.has_environment(pid, f"{MARK}={folder}")]


def test_the_ready_line_names_what_is_there(lab: Lab) -> None:
    ready = lab.ready()
    template = requests.get(ready["template_url"], timeout=10).content
    assert ready["template_checksum"] == "{SHA-256}" + hashlib.sha256(template).hexdigest()
    assert [host["name"] for host in ready["hosts"]] == ["host1", "host2"]
    for host in ready["hosts"]:
        assert Path(host["journal"]).is_dir()
        assert Path(f"/proc/{host['agent_pid']}").exists()
        libvirt.open(host["libvirt_uri"]).close()
    assert [(pool["name"], pool["type"]) for pool in ready["pools"]] == [
        ("host1-local", "local"),
        ("host2-local", "local"),
        ("shared", "shared"),
    ]
    assert {"web", "control", "beat", "redis", "mirror", "agent-host1", "libvirtd-host2"} <= ready["pids"].keys()
    login = requests.get(f"{ready['url']}/admin/login/", timeout=10)
    assert login.status_code == 200


def test_every_host_is_up_and_pings(lab: Lab) -> None:
    first = {host["name"]: host["last_ping"] for host in lab.client.list("hosts/", state="up")}
    assert first.keys() == {"host1", "host2"}
    host = lab.hosts[0]
    lab.client.wait(f"hosts/{host.id}/", lambda row: row["last_ping"] > first["host1"], 10)


@pytest.mark.parametrize("part", ["web", "control", "agent-host1", "redis"])
def test_a_killed_part_comes_back_and_the_hosts_ping_again(lab: Lab, part: str) -> None:
    lab.supervisor.restarted(part, after=lab.supervisor.kill(part))
    lab.servers[0].wait_answering()
    before = lab.client.get(f"hosts/{lab.hosts[0].id}/")["last_ping"]
    lab.client.wait(
        f"hosts/{lab.hosts[0].id}/", lambda row: row["state"] == "up" and row["last_ping"] > before, timeout=30
    )


def test_two_labs_side_by_side_do_not_meet(lab: Lab, lab_factory: LabFactory) -> None:
    other = lab_factory(hosts=1, management_servers=2)
    assert [row["id"] for row in other.client.list("hosts/")] == [other.hosts[0].id]
    assert {host.id for host in lab.hosts} == {row["id"] for row in lab.client.list("hosts/")}
    assert len({*(server.url for server in other.servers), lab.servers[0].url}) == 3
    for server in other.servers:
        server.wait_answering(1)


@pytest.fixture
def foreground(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.lab", "up", "--hosts", "1", "--dir", str(tmp_path / "lab")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        yield running
        running.kill()


def test_the_script_prints_one_ready_line_and_sigterm_stops_all(
    foreground: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert foreground.stdout is not None
    word, _, document = foreground.stdout.readline().partition(" ")
    assert word == "READY"
    ready = json.loads(document)
    living = [process.identify(pid) for pid in ready["pids"].values()]
    assert None not in living
    foreground.send_signal(signal.SIGTERM)
    assert foreground.wait(30) == 0
    assert marked(tmp_path / "lab") == []
    assert not any(process.is_alive(part) for part in living if part is not None)


def test_a_start_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    # The mirror's folder cannot be made, while everything else is being started.
    (folder / "mirror").mkdir(parents=True)
    (folder / "mirror" / "files").touch()
    with pytest.raises(FileExistsError), Lab(hosts=1, folder=folder):
        pass
    assert marked(folder) == []
    assert any((folder / "logs").iterdir())
