"""The agent's only HTTP call, against a real HTTP server that answers as each test wants."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agents.main import EXIT_STATE, main
from agents.state import StateFolder

GIVEN = {"id": "3f1c2b6e-0000-4000-8000-000000000001", "broker_url": "redis://:secret@broker:6379/0"}


class ManagementServer(ThreadingHTTPServer):
    status = 201
    body = json.dumps(GIVEN).encode()
    headers: dict[str, str] = {}

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Join)
        self.asked: list[tuple[str, dict[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Join(BaseHTTPRequestHandler):
    server: ManagementServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body))
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def management() -> Iterator[ManagementServer]:
    server = ManagementServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def join(url: str, folder: Path, role: str = "image-store", libvirt_uri: str = "qemu:///system") -> int:
    token = folder / "token"
    token.write_text("the-token\n")
    options = ["--server", url, "--token-file", str(token), "--name", "store1", "--role", role]
    return main(["join", "--state-dir", str(folder / "state"), "--libvirt-uri", libvirt_uri, *options])


def test_a_join_writes_an_identity_that_a_run_can_read(management: ManagementServer, tmp_path: Path) -> None:
    assert join(management.url + "/", tmp_path) == 0
    path, application = management.asked[0]
    assert path == "/api/v1/agents/join/"
    assert set(application) == {"join_token", "name", "role", "host_uuid", "machine_id", "public_key"}
    assert application["join_token"] == "the-token"
    folder = StateFolder(tmp_path / "state")
    identity = folder.read_identity()
    assert (identity.agent_id, identity.broker_url) == (GIVEN["id"], GIVEN["broker_url"])
    assert folder.private_key() not in json.dumps(application)


def test_a_join_whose_answer_was_lost_is_asked_again_with_the_same_key(
    management: ManagementServer, tmp_path: Path
) -> None:
    management.status = 503
    assert join(management.url, tmp_path) == EXIT_STATE
    management.status = 201
    assert join(management.url, tmp_path) == 0
    first, second = (application for _path, application in management.asked)
    assert first == second


def test_it_joins_once(management: ManagementServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    join(management.url, tmp_path)
    before = (tmp_path / "state" / "identity.json").read_bytes()
    assert join(management.url, tmp_path) == EXIT_STATE
    assert "has joined already" in capsys.readouterr().err
    assert (tmp_path / "state" / "identity.json").read_bytes() == before
    assert len(management.asked) == 1


@pytest.mark.parametrize(
    ("status", "body", "headers", "says"),
    [
        (403, b'{"title": "The join token is unknown.", "remedy": "Make a new one."}', {}, "unknown. Make a new one."),
        (500, b"<html>", {}, "status 500. It gave no reason."),
        (200, b"<html>", {}, "not a management server"),
        (201, b"[]", {}, "not a management server"),
        (307, b"", {"Location": "http://127.0.0.1:1/"}, "not a management server"),
    ],
)
def test_a_refusal_is_told_and_leaves_no_identity(  # noqa: PLR0917
    management: ManagementServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    status: int,
    body: bytes,
    headers: dict[str, str],
    says: str,
) -> None:
    management.status, management.body, management.headers = status, body, headers
    assert join(management.url, tmp_path) == EXIT_STATE
    error = capsys.readouterr().err
    assert says in error
    assert "the-token" not in error
    assert not (tmp_path / "state" / "identity.json").exists()


def test_no_server_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert join("http://127.0.0.1:1", tmp_path) == EXIT_STATE
    assert "does not answer at http://127.0.0.1:1/api/v1/agents/join/" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("uri", "says"),
    [("qemu+unix:///system?socket=/nowhere", "libvirt does not answer"), ("test:///default", "has no uuid")],
)
def test_a_host_joins_only_with_its_libvirt(
    management: ManagementServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], uri: str, says: str
) -> None:
    assert join(management.url, tmp_path, "host", uri) == EXIT_STATE
    assert says in capsys.readouterr().err
    assert management.asked == []


def test_a_run_without_a_join_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--state-dir", str(tmp_path / "state")]) == EXIT_STATE
    assert "python -m agents join" in capsys.readouterr().err
