"""The main job by command line, and what a person may do to a command that waits."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.waiting import poll
from tests.scenarios.cloud import MEBIBYTE, Cloud

ROOT = Path(__file__).resolve().parents[2]
END_SECONDS = 90.0
SLOW = 4 * MEBIBYTE
"""Bytes a second of a mirror whose download somebody wants to see under way."""


class Line:
    """A command line that runs."""

    def __init__(self, folder: Path, environment: dict[str, str], arguments: tuple[str, ...]) -> None:
        self._err = folder / f"{len(list(folder.iterdir()))}.err"
        with self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cloudctl.cli", *arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
            )

    @property
    def err(self) -> str:
        """What it told people so far."""
        return self._err.read_text()

    def wait_says(self, text: str) -> None:
        poll(lambda: text in self.err or self.process.poll() is not None, END_SECONDS, f"it says {text}")
        assert text in self.err

    def end(self) -> tuple[int, str]:
        """Exit code and output."""
        out, _ = self.process.communicate(timeout=END_SECONDS)
        return self.process.returncode, out


Start = Callable[..., Line]


@pytest.fixture
def start(cloud: Cloud, tmp_path: Path) -> Iterator[Start]:
    """Starts a command line as the lab's operator."""
    environment = {**os.environ, "CLOUDCTL_URL": cloud.client.url, "CLOUDCTL_TOKEN": cloud.lab.made["token"]}
    folder = tmp_path / "lines"
    folder.mkdir()
    lines: list[Line] = []

    def begin(*arguments: str) -> Line:
        lines.append(Line(folder, environment, arguments))
        return lines[-1]

    yield begin
    for line in lines:
        if line.process.poll() is None:
            line.process.kill()
            line.process.communicate()


@pytest.fixture
def done(start: Start) -> Callable[..., Any]:
    """Runs a command line to its end, which must be this exit code; its JSON."""

    def run(*arguments: str, code: int = 0) -> Any:
        line = start(*arguments, "--output", "json")
        ended, out = line.end()
        assert ended == code, line.err
        return json.loads(out) if out else None

    return run


@pytest.mark.timeout(400)
def test_a_vm_lives_its_life_by_command_line(cloud: Cloud, start: Start, done: Callable[..., Any]) -> None:
    """Ctrl-C ends a wait and not its operation; a server that is killed is waited for by the next one."""
    file = cloud.serve()
    checksum = cloud.lab.template.checksum
    source = ("--url", cloud.lab.mirror.url(file), "--format", "qcow2", "--checksum", checksum)
    registered = done("templates", "create", "--name", file, *source, "--wait")
    assert registered["state"] == "succeeded"
    assert done("templates", "show", file)["state"] == "ready"

    cloud.lab.mirror.fault(file, "throttle", rate=SLOW)
    sizes = ("--memory", "192MiB", "--data-disk", "32MiB")
    deploying = start("vms", "create", "--name", file, "--template", file, "--zone", "zone1", *sizes, "--wait")
    deploying.wait_says("running")
    deploying.process.send_signal(signal.SIGINT)
    assert deploying.end() == (130, "")
    (operation,) = done("operations", "list", "--state", "running", "--kind", "vm.deploy")
    assert f"cloudctl operations watch {operation['id']}" in deploying.err

    watching = start("operations", "watch", operation["id"])
    watching.wait_says("running")
    web = cloud.lab.servers[0].part("web")
    hit = cloud.lab.supervisor.kill(web)
    assert watching.end() == (0, ""), watching.err
    assert cloud.lab.supervisor.restarted(web, hit)
    cloud.lab.servers[0].wait_answering()

    (vm,) = done("vms", "list", "--template", file, "--state", "running")
    assert vm["memory_bytes"] == 192 * MEBIBYTE
    cloud.booted(vm)
    code, console = start("vms", "console", file, "--lines", "20").end()
    assert code == 0
    assert "cloudctl guest: " in console, "it is what the guest wrote"
    assert not {char for char in console if not char.isprintable() and char != "\n"}
    assert done("vms", "stop", file, "--force", "--wait")["state"] == "succeeded"
    assert done("vms", "stop", file, "--force", code=1) is None
    assert done("vms", "start", file, "--wait")["result"]["host"] in {host.name for host in cloud.lab.hosts}
    assert done("vms", "delete", file, "--expunge", "--wait")["state"] == "succeeded"
    assert cloud.client.get(f"vms/{vm['id']}/")["state"] == "expunged"
    assert done("vms", "show", file, code=1) is None, "what is gone has no name"


def test_an_operation_that_is_cancelled_is_exit_code_4(cloud: Cloud, start: Start, done: Callable[..., Any]) -> None:
    template = cloud.template(file := cloud.serve())
    cloud.lab.mirror.fault(file, "throttle", rate=MEBIBYTE)
    preparing = start("templates", "prepare", template["id"], "--pool", "shared", "--wait")
    preparing.wait_says("running")
    (operation,) = done("operations", "list", "--state", "running")
    assert done("operations", "cancel", operation["id"], "--wait")["state"] == "cancelled"
    assert preparing.end()[0] == 4


def test_the_doctor_sees_a_silent_host(cloud: Cloud, done: Callable[..., Any]) -> None:
    sound = done("doctor")
    assert [one["what"] for one in sound if one["level"] == "problem"] == []
    silent = cloud.lab.hosts[1]
    cloud.lab.supervisor.stop(silent.part)
    try:
        cloud.lab.wait_host(silent.name, "disconnected")
        (problem,) = [one for one in done("doctor", code=1) if one["level"] == "problem"]
        assert problem["what"].startswith(f"Host {silent.name} is disconnected")
        assert "agent" in problem["remedy"]
    finally:
        cloud.lab.supervisor.release(silent.part)
        cloud.lab.wait_host(silent.name)
