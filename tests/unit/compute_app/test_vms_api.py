"""``vms/`` and ``volumes/`` over HTTP: shapes, who may what, pages of few queries, cheap polling."""

from typing import Any
from uuid import uuid4

import pytest

from accounts_app.models import Account
from compute_app.models import VM, Volume, VolumeFile
from infra_app.models import Agent, StoragePool, Zone
from operations_app.models import Operation
from templates_app.models import Template
from tests.unit.compute_app.cloud import MIB, existing, shown
from tests.unit.people import Person
from tests.unit.templates_app.fleet import GIB, Fleet, admin_browser, committed, state_of

VMS = "/api/v1/vms/"
FIELDS = {
    "id", "name", "account", "zone", "template", "cpus", "memory_bytes", "state", "host", "last_host", "power_state",
    "power_reason", "guest_agent", "volumes", "nics", "addresses", "restart_after_boot", "error", "created_at",
    "destroyed_at",
}  # fmt: skip
DEEDS = ("start", "stop", "reboot", "resume", "console", "recover")
VOLUME_FIELDS = {
    "id", "name", "account", "vm", "device", "outlives_vm", "pool", "path", "size_bytes", "chain_length",
    "state", "format", "created_at",
}  # fmt: skip
HOSTILE = ['"it\'s" <b>bold</b>', "right\u200fto left", "日本 🐧", "n" * 255]


def post(person: Person, path: str, body: Any = None) -> Any:
    with committed():
        return person.post(path, body)


def delete(person: Person, path: str) -> Any:
    with committed():
        return person.delete(path)


@pytest.fixture
def body(template: Template, pool: StoragePool, zone: Zone) -> dict[str, Any]:
    return {"name": "vm", "template": str(template.pk), "zone": str(zone.pk), "memory_bytes": GIB}


@pytest.fixture
def vm(fleet: Fleet, template: Template, pool: StoragePool, host: Agent) -> VM:
    return existing(fleet, template, pool, host)


class TestDeploy:
    def test_it_answers_202_with_where_to_look(
        self, fleet: Fleet, alice: Person, body: dict[str, Any], host: Agent
    ) -> None:
        answer = post(alice, VMS, {**body, "cpus": 2, "data_disks": [{"size_bytes": MIB}], "host": str(host.pk)})
        assert answer.status_code == 202, answer.content
        operation = answer.json()
        assert answer["Location"].endswith(f"/api/v1/operations/{operation['id']}/")
        assert (operation["kind"], operation["target"]["type"], operation["target"]["name"]) == (
            "vm.deploy",
            "vm",
            "vm",
        )
        path = f"{VMS}{operation['target']['id']}/"
        created = alice.get(path).json()
        assert set(created) == FIELDS
        assert (created["state"], created["host"], len(created["volumes"])) == ("creating", str(host.pk), 2)
        fleet.works(Operation.objects.get(pk=operation["id"]))
        running = alice.get(path).json()
        assert (running["state"], running["power_state"], running["error"]) == ("running", "running", None)
        assert alice.get(answer["Location"]).json()["result"] == {"host": "host1", "accelerator": "tcg"}
        root, _ = running["volumes"]
        volume = alice.get(f"/api/v1/volumes/{root}/").json()
        assert set(volume) == VOLUME_FIELDS
        assert (volume["format"], volume["chain_length"], volume["size_bytes"]) == ("qcow2", 1, GIB)
        assert volume["path"] == f"/pools/shared/volume-{root}.qcow2"

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"name": ""}, "name"),
            ({"name": "a\x00b"}, "name"),
            ({"memory_bytes": 0}, "memory_bytes"),
            ({"memory_bytes": "much"}, "memory_bytes"),
            ({"memory_bytes": 1 << 70}, "memory_bytes"),
            ({"cpus": 0}, "cpus"),
            ({"cpus": 1.5}, "cpus"),
            ({"root_size_bytes": GIB - 1}, "root_size_bytes"),
            ({"root_size_bytes": -1}, "root_size_bytes"),
            ({"data_disks": [{"size_bytes": MIB}, {"size_bytes": 5}]}, "data_disks.1.size_bytes"),
            ({"data_disks": [{}]}, "data_disks.0.size_bytes"),
            ({"data_disks": [{"size_bytes": MIB}] * 24}, "data_disks"),
            ({"data_disk": [{"size_bytes": MIB}]}, "data_disk"),
            ({"data_disks": [{"size_bytes": MIB, "pool": "x"}]}, "data_disks.0.pool"),
            ({"zone": str(uuid4())}, "zone"),
            ({"template": "nonsense"}, "template"),
            ({"template": None}, "template"),
            ({"template": {"id": 1}}, "template"),
            ({"pool": str(uuid4())}, "pool"),
            ({"host": str(uuid4())}, "host"),
            ({"host": "nonsense"}, "host"),
            ({"start": "maybe"}, "start"),
            ({"networks": [str(uuid4())]}, "networks"),
        ],
    )
    def test_a_wrong_field_is_named(
        self, alice: Person, body: dict[str, Any], given: dict[str, Any], field: str
    ) -> None:
        answer = post(alice, VMS, body | given)
        assert answer.status_code == 400, answer.content
        assert answer["Content-Type"] == "application/problem+json"
        assert list(answer.json()["errors"]) == [field]
        assert not VM.objects.exists()

    def test_what_is_not_there_yet_may_be_left_empty(self, alice: Person, body: dict[str, Any]) -> None:
        answer = post(alice, VMS, {**body, "networks": [], "ssh_keys": [], "user_data": "", "data_disks": []})
        assert answer.status_code == 202, answer.content

    def test_no_room_is_409_with_the_reasons(self, alice: Person, body: dict[str, Any]) -> None:
        answer = post(alice, VMS, {**body, "memory_bytes": 100 * GIB})
        assert (answer.status_code, answer.json()["type"]) == (409, "/problems/no_room")
        assert "host host1" in answer.json()["cause"]

    def test_names_are_kept_unharmed(self, fleet: Fleet, alice: Person, body: dict[str, Any]) -> None:
        for name in HOSTILE:
            answer = post(alice, VMS, {**body, "name": name, "memory_bytes": 16 * MIB})
            assert answer.status_code == 202, answer.content
            vm = answer.json()["target"]["id"]
            operation = fleet.works(Operation.objects.get(pk=answer.json()["id"]))
            assert (operation.state, operation.target_name) == ("succeeded", name)
            assert alice.get(f"{VMS}{vm}/").json()["name"] == name
            assert operation.commands.get(kind="vm.start").payload["name"] == name
        page = admin_browser().get("/admin/compute_app/vm/")
        assert (page.status_code, b"<b>bold" in page.content) == (200, False)


class TestPower:
    def test_stop_start_and_delete(self, fleet: Fleet, alice: Person, vm: VM) -> None:
        path = f"{VMS}{vm.pk}/"
        for deed, state in ((f"{path}stop/", "stopped"), (f"{path}start/", "running")):
            answer = post(alice, deed)
            assert answer.status_code == 202, answer.content
            fleet.works(Operation.objects.get(pk=answer.json()["id"]))
            assert alice.get(path).json()["state"] == state
        answer = delete(alice, path)
        assert answer.status_code == 202
        fleet.works(Operation.objects.get(pk=answer.json()["id"]))
        destroyed = alice.get(path).json()
        assert (destroyed["state"], len(destroyed["volumes"])) == ("destroyed", 2)
        fleet.works(Operation.objects.get(pk=delete(alice, f"{path}?expunge=true").json()["id"]))
        expunged = alice.get(path).json()
        assert (expunged["state"], expunged["volumes"]) == ("expunged", [])

    def test_reboot_console_resume_and_recover(self, fleet: Fleet, alice: Person, vm: VM) -> None:
        path = f"{VMS}{vm.pk}/"
        for deed, body in (("reboot", {"timeout_seconds": 5}), ("resume", {}), ("console", {"lines": 3})):
            answer = post(alice, f"{path}{deed}/", body)
            assert answer.status_code == 202, answer.content
            fleet.works(Operation.objects.get(pk=answer.json()["id"]))
        assert alice.get(answer["Location"]).json()["result"] == {"text": "login: \n", "truncated": False}
        assert post(alice, f"{path}recover/").status_code == 409
        fleet.works(Operation.objects.get(pk=delete(alice, path).json()["id"]))
        assert alice.get(path).json()["destroyed_at"]
        recovered = post(alice, f"{path}recover/")
        assert (recovered.status_code, recovered.json()["state"]) == (200, "stopped")

    def test_by_force(self, fleet: Fleet, alice: Person, vm: VM) -> None:
        answer = post(alice, f"{VMS}{vm.pk}/stop/", {"force": True})
        assert fleet.the_open(Operation.objects.get(pk=answer.json()["id"])).payload["mode"] == "force"

    def test_another_deed_meanwhile_is_409_and_names_what_is_in_the_way(self, alice: Person, vm: VM) -> None:
        operation = post(alice, f"{VMS}{vm.pk}/stop/").json()["id"]
        for answer in (
            post(alice, f"{VMS}{vm.pk}/start/"),
            post(alice, f"{VMS}{vm.pk}/stop/"),
            delete(alice, f"{VMS}{vm.pk}/"),
        ):
            assert (answer.status_code, answer.json()["operation"]) == (409, operation)
            assert answer["Content-Type"] == "application/problem+json"

    def test_a_wrong_word_destroys_nothing(self, alice: Person, vm: VM) -> None:
        for query in ("expunge=maybe", "expnge=true", "dry=1"):
            assert delete(alice, f"{VMS}{vm.pk}/?{query}").status_code == 400
        assert post(alice, f"{VMS}{vm.pk}/stop/", {"force": "maybe"}).status_code == 400
        assert post(alice, f"{VMS}{vm.pk}/reboot/", {"timeout_seconds": 241}).status_code == 400
        assert post(alice, f"{VMS}{vm.pk}/console/", {"lines": 0}).status_code == 400
        assert shown(vm)[0] == "running"


class TestWhoSeesWhat:
    def test_an_outsider_finds_nothing(self, charlie: Person, bob: Person, vm: VM) -> None:
        volume = vm.volumes.first()
        assert volume
        for path in (f"{VMS}{vm.pk}/", f"/api/v1/volumes/{volume.pk}/"):
            assert bob.get(path).status_code == 200
            assert charlie.get(path).status_code == 404
        for path in (VMS, "/api/v1/volumes/"):
            assert charlie.get(path).json()["results"] == []
            assert charlie.get(f"{path}?account={vm.account_id}").json()["results"] == []
        answers = [post(charlie, f"{VMS}{vm.pk}/{deed}/") for deed in DEEDS]
        answers.append(delete(charlie, f"{VMS}{vm.pk}/?expunge=true"))
        assert [answer.status_code for answer in answers] == [404] * (len(DEEDS) + 1)
        assert shown(vm)[0] == "running"

    def test_anothers_template_and_account_are_as_if_they_did_not_exist(
        self, charlie: Person, body: dict[str, Any], acme: Account, template: Template
    ) -> None:
        for given in ({}, {"template": str(uuid4())}, {"account": str(acme.pk)}, {"account": str(uuid4())}):
            answer = post(charlie, VMS, body | given)
            assert answer.status_code == 404, answer.content
            assert template.name not in answer.json()["detail"]
        assert not VM.objects.exists()

    def test_a_public_template_serves_all(self, charlie: Person, body: dict[str, Any]) -> None:
        Template.objects.update(public=True)
        answer = post(charlie, VMS, body)
        assert answer.status_code == 202, answer.content
        assert charlie.get(answer["Location"]).status_code == 200
        assert VM.objects.get().account == charlie.user.account

    def test_readers_change_nothing(self, rita: Person, body: dict[str, Any], vm: VM) -> None:
        assert rita.get(f"{VMS}{vm.pk}/").status_code == 200
        answers = [post(rita, VMS, body), post(rita, f"{VMS}{vm.pk}/stop/"), delete(rita, f"{VMS}{vm.pk}/")]
        assert [answer.status_code for answer in answers] == [403] * 3

    def test_rows_are_not_written_to(self, olga: Person, vm: VM) -> None:
        assert olga.patch(f"{VMS}{vm.pk}/", {"state": "stopped"}).status_code == 400
        assert olga.patch(f"{VMS}{vm.pk}/", {}).status_code == 400
        assert shown(vm)[0] == "running"


def test_whether_it_is_restarted_can_be_changed(alice: Person, charlie: Person, rita: Person, vm: VM) -> None:
    path, wish = f"{VMS}{vm.pk}/", {"restart_after_boot": True}
    assert [person.patch(path, wish).status_code for person in (charlie, rita)] == [404, 403]
    assert alice.get(path).json()["restart_after_boot"] is False
    assert alice.patch(path, wish).json()["restart_after_boot"] is True
    assert alice.get(path).json()["restart_after_boot"] is True


def test_polling_is_304_until_something_changes(fleet: Fleet, alice: Person, vm: VM, host: Agent) -> None:
    for path in (f"{VMS}{vm.pk}/", VMS):
        tag = alice.get(path)["ETag"]
        again = alice.get(path, headers={"if-none-match": tag})
        assert (again.status_code, again.content, again["ETag"]) == (304, b"", tag)
        fleet.pings(host, vms=[{"vm_id": str(vm.pk), "power_state": "paused", "reason": path}])
        changed = alice.get(path, headers={"if-none-match": tag})
        assert (changed.status_code, changed["ETag"] == tag) == (200, False)


class TestQueries:
    """As many for fifty rows as for one."""

    @pytest.fixture
    def many(self, vm: VM) -> VM:
        root = vm.volumes.get(device_index=0)
        for number in range(20):
            copy = VM.objects.get(pk=vm.pk)
            copy.pk, copy.name = uuid4(), f"vm{number}"
            copy.save(force_insert=True)
            volume = Volume.objects.create(
                account=vm.account, name="v", vm=copy, pool=root.pool, size_bytes=1, state="ready"
            )
            volume.top = VolumeFile.objects.create(volume=volume, file_name=f"f{number}", virtual_size_bytes=1)
            volume.save()
        return vm

    @pytest.mark.parametrize(("path", "rows"), [(VMS, 21), ("/api/v1/volumes/", 22)])
    def test_lists(self, many: VM, alice: Person, path: str, rows: int, django_assert_max_num_queries: Any) -> None:
        alice.get(path)
        with django_assert_max_num_queries(5):
            assert len(alice.get(path).json()["results"]) == rows

    def test_the_admin(self, many: VM, django_assert_max_num_queries: Any) -> None:
        browser = admin_browser()
        for path in ("vm/", "volume/", "volumefile/"):
            with django_assert_max_num_queries(10):
                assert browser.get(f"/admin/compute_app/{path}").status_code == 200


def test_filters_and_orders(fleet: Fleet, alice: Person, vm: VM, host: Agent) -> None:
    template = vm.template
    existing(fleet, template, vm.volumes.get(device_index=0).pool, None, name="a")

    def names(query: str) -> list[str]:
        return [row["name"] for row in alice.get(f"{VMS}?{query}").json()["results"]]

    assert names("ordering=name") == ["a", "vm"]
    assert names("state=stopped") == ["a"]
    assert names(f"host={host.pk}") == ["vm"]
    assert names(f"zone={fleet.zone.pk}&name=a&template={template.pk}") == ["a"]
    assert names("guest_agent=silent") == []
    for query in ("nane=x", "ordering=memory_bytes", "state=ready"):
        assert alice.get(f"{VMS}?{query}").status_code == 400
    volumes = alice.get(f"/api/v1/volumes/?vm={vm.pk}&state=ready").json()["results"]
    assert {row["name"] for row in volumes} == {"vm-root", "vm-data1"}


def test_a_failed_deployment_shows_why(fleet: Fleet, alice: Person, body: dict[str, Any]) -> None:
    answer = post(alice, VMS, body)
    operation = Operation.objects.get(pk=answer.json()["id"])
    fleet.fails(fleet.the_open(operation), "checksum_mismatch", elsewhere=False)
    assert state_of(operation) == "failed"
    shown_vm = alice.get(f"{VMS}{answer.json()['target']['id']}/").json()
    assert (shown_vm["state"], shown_vm["error"]["code"], shown_vm["volumes"]) == ("error", "checksum_mismatch", [])
    assert set(alice.get(answer["Location"]).json()["error"]) >= {"cause", "consequence", "remedy"}
