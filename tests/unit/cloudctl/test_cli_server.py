"""The command line against a server of its own that really listens, with the real API behind it."""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pytest_django.live_server_helper import LiveServer

from accounts_app.actions import token_create, user_create
from accounts_app.models import Account, Role
from cloudctl.cli import doctor
from cloudctl.cli.access import Access
from cloudctl.cli.client import Client
from cloudctl.cli.errors import CliError, ExitCode, RefusedError, UnreachableError
from cloudctl.cli.main import main
from cloudctl.cli.references import References
from cloudctl.cli.resources import BY_NAME
from cloudctl.cli.waiting import wait
from core_app import events
from infra_app import actions
from infra_app.models import Agent, Zone
from operations_app.models import Operation
from templates_app.models import Template

ERROR = {"code": "x", "cause": "The disk is full.", "consequence": "It is off.", "remedy": "Free some room."}

Cloudctl = Callable[..., tuple[int, str, str]]


@pytest.fixture
def operator(live_server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> Access:
    """An operator's access to the server, which the environment has as well."""
    olga = user_create(name="olga", role=Role.OPERATOR, account=None, password=None, by=None)
    _, secret = token_create(olga, name="test", by=None)
    access = Access(live_server.url, secret)
    monkeypatch.setenv("CLOUDCTL_URL", access.url)
    monkeypatch.setenv("CLOUDCTL_TOKEN", access.token)
    return access


@pytest.fixture
def cloudctl(operator: Access, capsys: pytest.CaptureFixture[str]) -> Cloudctl:
    """Runs a command line; exit code, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def test_lists_are_filtered_ordered_and_in_pages(cloudctl: Cloudctl) -> None:
    for name in ("south", "north", "west"):
        actions.zone_create(name)
    code, out, err = cloudctl("zones", "list", "--ordering", "name", "--page-size", "2")
    assert (code, [line.split()[1] for line in out.splitlines()]) == (0, ["NAME", "north", "south"])
    assert "--all" in err
    code, out, err = cloudctl("zones", "list", "--ordering", "name", "--page-size", "2", "--all", "-o", "json")
    assert (code, [row["name"] for row in json.loads(out)], err) == (0, ["north", "south", "west"], "")
    code, out, _ = cloudctl("zones", "list", "--name", "west", "--enabled", "-o", "json")
    assert [row["name"] for row in json.loads(out)] == ["west"]
    assert json.loads(cloudctl("zones", "list", "--no-enabled", "-o", "json")[1]) == []


def test_objects_are_made_shown_and_referred_to_by_name(cloudctl: Cloudctl) -> None:
    assert cloudctl("zones", "create", "--name", "north")[0] == 0
    code, out, _ = cloudctl(
        "storage-pools", "create", "--name", "nfs1", "--zone", "north", "--type", "nfs", "--path", "/p"
    )
    assert code == 0
    assert "north" in out, "a table shows the zone's name"
    shown = json.loads(cloudctl("storage-pools", "show", "nfs1", "-o", "json")[1])
    assert cloudctl("storage-pools", "show", shown["id"])[0] == 0
    assert json.loads(cloudctl("accounts", "create", "--name", "acme", "-o", "json")[1])["name"] == "acme"
    changed = json.loads(
        cloudctl("accounts", "update", "acme", "--limits", "vms=3,primary-storage=1G", "-o", "json")[1]
    )
    assert (changed["limits"]["vms"], changed["limits"]["primary_storage_bytes"]) == (3, 1 << 30)
    set_to = cloudctl("settings", "set", "ping.interval", "30", "-o", "json")
    assert json.loads(set_to[1])["value"] == 30
    assert "ping.interval" in cloudctl("settings", "list")[1]


def test_a_refusal_is_told_with_its_parts(cloudctl: Cloudctl, monkeypatch: pytest.MonkeyPatch) -> None:
    actions.zone_create("north")
    code, out, err = cloudctl("zones", "create", "--name", "north")
    assert (code, out) == (ExitCode.FAILED, "")
    assert [line.split()[0] for line in err.splitlines()] == ["Error:", "consequence:", "remedy:"]
    code, _, err = cloudctl("zones", "show", "nowhere")
    assert (code, "Nothing in zones is called nowhere" in err) == (ExitCode.FAILED, True)
    monkeypatch.setenv("CLOUDCTL_TOKEN", "0" * 64)
    code, _, err = cloudctl("zones", "list")
    assert (code, "token" in err) == (ExitCode.FAILED, True)


def test_a_name_of_several_is_refused_and_one_of_what_is_gone_is_free(operator: Access, acme: Account) -> None:
    rows = [Template.objects.create(name="debian", account=acme, url="https://a/b", state="ready") for _ in range(2)]
    references = References(Client(operator))
    with pytest.raises(CliError, match="2 in templates are called debian") as error:
        references.id_of(BY_NAME["templates"], "debian")
    assert {one for _, one in error.value.details} == {str(row.pk) for row in rows}
    Template.objects.filter(pk=rows[0].pk).update(state="deleted")
    assert references.id_of(BY_NAME["templates"], "debian") == str(rows[1].pk)


def test_what_others_named_cannot_act_on_the_terminal(cloudctl: Cloudctl) -> None:
    # No action takes such a name; a row may still have one.
    Zone.objects.create(name="a\x1b[2Jb\x9b1m")
    for output in ("table", "json"):
        out = cloudctl("zones", "list", "--output", output)[1]
        assert not {char for char in out if not char.isprintable() and char != "\n"}


def operation(**fields: Any) -> Operation:
    target = {"target_type": "zone", "target_id": "8a1c1d53-8c7a-4f0e-9d54-0f4c5a1d3f10", "target_name": "north"}
    return Operation.objects.create(**{"kind": "vm_start", "state": "running", **target, **fields})


@pytest.mark.parametrize(("state", "code"), [("succeeded", 0), ("failed", 1), ("needs_attention", 3), ("cancelled", 4)])
def test_the_exit_code_of_watch_is_the_worst_outcome(cloudctl: Cloudctl, state: str, code: int) -> None:
    ids = [str(operation(state="succeeded").pk), str(operation(state=state, error=ERROR if code else None).pk)]
    found, _, err = cloudctl("operations", "watch", *ids)
    assert found == code
    assert ("The disk is full." in err, "remedy: Free some room." in err) == (bool(code), bool(code))


def test_a_wait_ends_after_its_time_and_says_how_to_go_on(operator: Access) -> None:
    row = operation()
    with pytest.raises(CliError, match=f"Watch: cloudctl operations watch {row.pk}") as error:
        wait(Client(operator), [str(row.pk)], timeout=0.0)
    assert error.value.exit_code == ExitCode.TIMED_OUT


def test_a_wait_sees_the_end_that_comes_while_it_waits(operator: Access, capsys: pytest.CaptureFixture[str]) -> None:
    row = operation()

    class Ending:
        """Once the operation was seen to run, it ends."""

        def __enter__(self) -> "Ending":
            return self

        def __exit__(self, *_: object) -> None: ...

        def show(self, shown: Any) -> None:
            Operation.objects.filter(pk=row.pk).update(state="succeeded")

    (ended,) = wait(Client(operator), [str(row.pk)], timeout=10, views=Ending)
    assert ended["state"] == "succeeded"


def test_in_a_terminal_a_bar_is_drawn_and_no_name_acts_on_it(operator: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    row = operation(state="failed", target_name="web1\x1b]0;owned\x07")
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen, os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        wait(Client(operator), [str(row.pk)], timeout=10)
        terminal.flush()
        drawn = screen.read(1 << 16).decode()
    assert "\x1b[" in drawn, "it is drawn as a terminal wants it"
    assert "vm_start web1\\x1b]0;owned\\x07" in drawn
    assert "\x1b]" not in drawn
    assert "\x07" not in drawn


def test_the_doctor_looks_at_the_fleet(operator: Access, zone: Zone, agent: Agent) -> None:
    client = Client(operator)
    actions.storage_pool_create(name="empty", zone=zone, type="nfs", path="/p", host=None)
    Zone.objects.filter(pk=zone.pk).update(deletions_suspended=True)
    Agent.objects.filter(pk=agent.pk).update(ahead=True)
    stuck = operation(state="needs_attention", error=ERROR)
    events.record("agent.ahead", agent, "It is ahead.", level="alarm")
    found = {finding.what: finding for look in doctor.FLEET for finding in look(client)}
    assert [what.split(",")[0] for what in found] == [
        "Host host1 is joined",
        "Host host1 knows commands that the database never issued.",
        "Pool empty: no host has told of its room.",
        "Zone zone1: deletions are suspended.",
        f"Operation {stuck.pk} (vm_start north) needs a person: The disk is full.",
        "Alarm agent.ahead",
    ]
    assert all(finding.remedy for finding in found.values())
    (whose,) = doctor.token(client)
    assert whose.what == "The token is valid: user olga, role operator."
    assert not list(doctor.encryption(client))
    assert list(doctor.encryption(Client(Access("http://cloud.example", ""))))


class Relay:
    """Passes connections on to a server, but cuts the first answers off; keeps what was sent."""

    def __init__(self, port: int, cut: int) -> None:
        self.sent: list[bytes] = []
        self._to, self._cut = port, cut
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            taken, _ = self._listener.accept()
            with taken:
                asked = taken.recv(1 << 16)
                if not asked:
                    return
                while b"Content-Length" in asked and len(asked.split(b"\r\n\r\n", 1)[1]) < _length(asked):
                    asked += taken.recv(1 << 16)
                self.sent.append(asked)
                answer = self._pass_on(asked.replace(b"Connection: keep-alive", b"Connection: close"))
                if len(self.sent) > self._cut:
                    taken.sendall(answer)

    def _pass_on(self, asked: bytes) -> bytes:
        answer = b""
        with socket.create_connection(("127.0.0.1", self._to)) as server:
            server.sendall(asked)
            while part := server.recv(1 << 16):
                answer += part
        return answer

    def stop(self) -> None:
        # A connection that says nothing is the end.
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join()
        self._listener.close()


def _length(request: bytes) -> int:
    (line,) = [line for line in request.split(b"\r\n") if line.startswith(b"Content-Length")]
    return int(line.split(b":")[1])


@pytest.fixture
def cutting(live_server: LiveServer) -> Iterator[Callable[[int], Relay]]:
    relays: list[Relay] = []

    def start(cut: int) -> Relay:
        relays.append(Relay(live_server.thread.port, cut))
        return relays[-1]

    yield start
    for relay in relays:
        relay.stop()


def through(access: Access, relay: Relay) -> Client:
    return Client(Access(f"http://127.0.0.1:{relay.port}", access.token), pauses=(0.01, 0.01))


def test_a_post_whose_answer_is_lost_is_sent_again_with_its_key(
    operator: Access, cutting: Callable[[int], Relay]
) -> None:
    relay = cutting(1)
    made = through(operator, relay).send("POST", "zones/", body={"name": "north"}).body
    assert [row["id"] for row in Client(operator).rows("zones/")] == [made["id"]], "it was made once"
    keys = [line for sent in relay.sent for line in sent.split(b"\r\n") if line.startswith(b"Idempotency-Key: ")]
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_a_deletion_whose_answer_is_lost_is_not_sent_again(operator: Access, cutting: Callable[[int], Relay]) -> None:
    relay = cutting(1)
    with pytest.raises(UnreachableError, match="may or may not have been done"):
        through(operator, relay).send("DELETE", "tokens/8a1c1d53-8c7a-4f0e-9d54-0f4c5a1d3f10/")
    assert len(relay.sent) == 1


def test_a_server_that_is_not_there_is_exit_code_5(unused_port: int) -> None:
    with pytest.raises(UnreachableError, match=r"Connection refused.*Nothing was done") as error:
        Client(Access(f"http://127.0.0.1:{unused_port}", ""), pauses=(0.01,)).get("zones/")
    assert error.value.exit_code == ExitCode.UNREACHABLE


def test_a_server_that_is_something_else_is_told(live_server: LiveServer) -> None:
    with pytest.raises(RefusedError, match="There is nothing at /elsewhere") as error:
        Client(Access(f"{live_server.url}/elsewhere", "")).get("zones/")
    assert error.value.status == 404
