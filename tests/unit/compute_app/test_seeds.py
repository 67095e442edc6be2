"""User data and SSH keys: checked, kept encrypted, sealed on their way, gone with the VM."""

import base64
import json
import struct
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute_app.actions import vm_destroy, vm_start, vm_stop
from compute_app.models import VM
from compute_app.rules import hostname_of
from compute_app.ssh_keys import KEY_TYPES, check_public_key
from core_app.sealing import decrypt_at_rest
from infra_app.models import Agent, StoragePool
from operations_app.models import Command, Operation
from templates_app.models import Template
from tests.unit.compute_app.cloud import deploy, deployed
from tests.unit.people import Person
from tests.unit.templates_app.fleet import Fleet, in_transaction, state_of

USER_DATA = "  #cloud-config\r\npassword: hunter2 '\"<b>\u202e\n\n"
VM_ID = UUID("6b1c5c5e-0000-4000-8000-000000000001")


def key_of(key_type: str, comment: str = "", says: str = "") -> str:
    blob = struct.pack(">I", len(key_type)) + key_type.encode() + b"\0\0\0\x01x"
    return f"{says or key_type} {base64.b64encode(blob).decode()} {comment}".strip()


KEY = key_of("ssh-ed25519", "alice@example.org")


@pytest.mark.parametrize("key_type", sorted(KEY_TYPES))
@pytest.mark.parametrize("comment", ["", "alice", 'o\'brien "x" <b> 日本'])
def test_a_public_key_is_taken(key_type: str, comment: str) -> None:
    check_public_key(key_of(key_type, comment))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "type"),
        ("ssh-ed25519", "damaged"),
        ("ssh-ed25519 AAAA", "damaged"),
        ("ssh-ed25519 !!!!", "damaged"),
        (f"{KEY}\nssh-rsa more", "control character"),
        (f"{KEY} \u202e", "control character"),
        (f'command="sh" {KEY}', "type"),
        (key_of("ssh-rsa", says="ssh-ed25519"), "another type"),
        (f"{KEY} {'x' * 8192}", "longer"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "type"),
    ],
)
def test_anything_else_is_refused(line: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_public_key(line)


@pytest.mark.parametrize(
    ("name", "hostname"),
    [
        ("web", "web"),
        ("Web 01.example", "web-01-example"),
        ("Büro & <b>", "buro-b"),
        ("--'; rm -rf /", "rm-rf"),
        ("日本", "vm-6b1c5c5e0000"),
        ("x" * 255, "x" * 63),
    ],
)
def test_a_guests_name_is_made_from_the_vms(name: str, hostname: str) -> None:
    assert hostname_of(name, VM_ID) == hostname


@given(st.text())
def test_a_guests_name_is_always_one_label(name: str) -> None:
    label = hostname_of(name, VM_ID)
    assert 0 < len(label) <= 63
    assert label.strip("-") == label
    assert set(label) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@pytest.mark.usefixtures("pool")
class TestOnItsWay:
    def test_it_is_written_before_each_start_and_removed_with_the_root_disk(
        self, fleet: Fleet, template: Template
    ) -> None:
        vm = deployed(fleet, template, user_data=USER_DATA, ssh_keys=[KEY], data_disk_sizes=[1 << 20])
        seed = Command.objects.get(kind="seed.create")
        start = Command.objects.get(kind="vm.start")
        assert seed.payload["file_name"] == f"seed-{vm.pk}.iso"
        assert start.payload["seed_path"] == f"/pools/shared/seed-{vm.pk}.iso"
        fleet.works(in_transaction(vm_stop, vm, force=True))
        again = fleet.works(in_transaction(vm_start, vm))
        assert fleet.kinds(again) == ["seed.create", "vm.start"]
        fleet.works(in_transaction(vm_destroy, vm, expunge=True))
        removals = Command.objects.filter(kind="volume.remove")
        removed = [name for command in removals for name in command.payload["file_names"]]
        assert removed.count(f"seed-{vm.pk}.iso") == 1

    def test_it_is_readable_nowhere_on_the_server(self, fleet: Fleet, template: Template) -> None:
        vm = deployed(fleet, template, user_data=USER_DATA, ssh_keys=[KEY])
        seed = Command.objects.get(kind="seed.create")
        operation = Operation.objects.get(kind="vm.deploy")
        assert seed.sealed
        kept = (vm.seed, seed.sealed, seed.payload, seed.answer, operation.data, operation.result)
        assert not [text for text in map(str, kept) if "hunter2" in text or "alice" in text]
        fleet.works(in_transaction(vm_destroy, vm, expunge=True))
        vm.refresh_from_db()
        assert vm.seed == ""

    def test_without_any_there_is_none(self, fleet: Fleet, template: Template) -> None:
        vm = deployed(fleet, template)
        assert not Command.objects.filter(kind="seed.create").exists()
        assert Command.objects.get(kind="vm.start").payload["seed_path"] == ""
        assert vm.seed == ""

    def test_where_it_cannot_be_written_nothing_is_left(self, fleet: Fleet, template: Template) -> None:
        vm, operation = deploy(fleet, template, user_data=USER_DATA)
        fleet.works(operation, until="seed.create")
        fleet.fails(fleet.the_open(operation), "pool_full", elsewhere=False)
        (removal,) = fleet.open(operation)
        assert f"seed-{vm.pk}.iso" in removal.payload["file_names"]
        fleet.works(operation)
        assert (state_of(operation), state_of(vm)) == ("failed", "error")


class TestApi:
    @pytest.fixture
    def body(self, template: Template, pool: StoragePool, host: Agent) -> dict[str, Any]:
        return {"name": "vm", "template": str(template.pk), "zone": str(pool.zone_id), "memory_bytes": 16 << 20}

    def test_it_is_taken_byte_for_byte_and_never_shown(self, alice: Person, body: dict[str, Any]) -> None:
        answer = alice.post("/api/v1/vms/", {**body, "user_data": USER_DATA, "ssh_keys": [KEY]})
        assert answer.status_code == 202, answer.content
        vm = VM.objects.get()
        assert json.loads(decrypt_at_rest(vm.seed)) == {"user_data": USER_DATA, "ssh_keys": [KEY]}
        shown = alice.get(f"/api/v1/vms/{vm.pk}/")
        assert b"hunter2" not in shown.content + answer.content
        assert not {"seed", "user_data", "ssh_keys"} & set(shown.json())

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"user_data": "é" * (32 << 10) + "x"}, "user_data"),
            ({"user_data": ["x"]}, "user_data"),
            ({"ssh_keys": [KEY, "ssh-ed25519 AAAA"]}, "ssh_keys.1"),
            ({"ssh_keys": [KEY] * 65}, "ssh_keys"),
        ],
    )
    def test_what_is_wrong_is_named(self, alice: Person, body: dict[str, Any], given: Any, field: str) -> None:
        answer = alice.post("/api/v1/vms/", body | given)
        assert (answer.status_code, list(answer.json()["errors"])) == (400, [field])
