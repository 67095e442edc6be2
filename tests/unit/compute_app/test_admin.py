"""The admin over a fleet: who enters, what forms take, what pages show, and that they stay fast and safe."""

import json
from typing import Any

import pytest
from django.contrib import admin
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts_app.models import Account, Role
from compute_app import actions
from compute_app.models import VM, Volume
from core_app import settings_rows
from core_app.models import Setting
from core_app.sealing import decrypt_at_rest
from infra_app.models import Agent, JoinToken, PoolReach, StoragePool, Zone
from operations_app.models import Operation
from templates_app.models import Template
from tests.unit.compute_app.cloud import deployed, existing
from tests.unit.compute_app.test_seeds import KEY
from tests.unit.people import Person, person
from tests.unit.templates_app.fleet import GIB, SHA256, Fleet, committed, in_transaction

DEPLOY = "/admin/compute_app/vm/do/deploy/"
REGISTER = "/admin/templates_app/template/do/register/"
HOSTILE = "<img src=x onerror=alert(1)> & \"'"


def at(who: Person) -> Client:
    browser = Client()
    browser.force_login(who.user)
    return browser


def page(browser: Client, path: str) -> str:
    answer = browser.get(path)
    assert answer.status_code == 200, (path, answer.status_code)
    return answer.content.decode()


def send(browser: Client, path: str, /, **fields: Any) -> Any:
    with committed():
        return browser.post(path, fields)


def vm_path(vm: VM, deed: str = "") -> str:
    return f"/admin/compute_app/vm/{vm.pk}/" + (f"do/{deed}/" if deed else "change/")


@pytest.fixture
def desk(olga: Person) -> Client:
    return at(olga)


@pytest.fixture
def vm(fleet: Fleet, template: Template, pool: StoragePool, host: Agent) -> VM:
    return existing(fleet, template, pool, host)


class TestWhoEnters:
    @pytest.mark.parametrize("role", [Role.ADMIN, Role.OPERATOR, Role.READ_ONLY])
    def test_those_who_see_the_fleet(self, db: None, role: Role) -> None:
        assert "Fleet" in page(at(person("someone", role)), "/admin/")

    def test_nobody_else(self, alice: Person, acme: Account) -> None:
        reader = person("reader", Role.READ_ONLY, acme)
        for who in (alice, reader):
            answer = at(who).get("/admin/compute_app/vm/")
            assert (answer.status_code, answer["Location"].partition("?")[0]) == (302, "/admin/login/")
        assert Client().get("/admin/").status_code == 302

    def test_the_entry_says_why_not(self, alice: Person) -> None:
        alice.user.set_password("a-long-password-1")
        alice.user.save()
        fields = {"username": "alice", "password": "a-long-password-1"}
        answer = Client().post("/admin/login/", fields)
        assert answer.status_code == 200
        assert b"it is for those who run the fleet" in answer.content

    def test_who_only_reads_sees_all_and_changes_nothing(self, rita: Person, vm: VM, zone: Zone) -> None:
        reader = at(rita)
        for path in ("/admin/compute_app/vm/", vm_path(vm), "/admin/core_app/setting/"):
            shown = page(reader, path)
            assert "/do/" not in shown
            assert "formaction" not in shown
            assert 'name="value"' not in shown
        for path in (vm_path(vm, "stop"), vm_path(vm, "expunge"), DEPLOY, REGISTER, "/admin/infra_app/zone/do/create/"):
            assert send(reader, path, name="x").status_code == 403
        send(reader, "/admin/core_app/setting/put/", name="ping.interval", value="5")
        assert settings_rows.get("ping.interval") == 60
        assert (Operation.objects.count(), VM.objects.get().state, Zone.objects.count()) == (0, "running", 1)


def test_every_page_opens_and_escapes_names(fleet: Fleet, desk: Client, pool: StoragePool, acme: Account) -> None:
    template = fleet.checked(HOSTILE)
    deployed(fleet, template, name=HOSTILE)
    Account.objects.filter(pk=acme.pk).update(name=HOSTILE)
    PoolReach.objects.update(reachable=False, reason=HOSTILE)
    for model in admin.site._registry:
        index = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
        shown = [page(desk, index), page(desk, f"{index}?q=x"), page(desk, f"{index}?q={template.pk}")]
        row = model._default_manager.first()
        if row is not None and model is not Setting:
            shown.append(page(desk, f"{index}{row.pk}/change/"))
        assert not [text for text in shown if "<img" in text], index
    assert "<img" not in page(desk, "/admin/")


def test_no_page_may_run_what_stands_in_it(desk: Client, vm: VM) -> None:
    answer = desk.get(vm_path(vm))
    policy = answer["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    for path in ("/admin/", "/admin/core_app/setting/", DEPLOY, vm_path(vm)):
        text = page(desk, path)
        assert "<style" not in text
        assert " style=" not in text
        assert " onclick" not in text
        assert text.count("<script ") == text.count("<script src=") == 2


def test_what_needs_a_person_comes_first(fleet: Fleet, desk: Client, pool: StoragePool, host: Agent) -> None:
    assert "Nothing needs a person" in page(desk, "/admin/")
    fleet.goes_away(host)
    StoragePool.objects.update(available_bytes=4 * GIB)
    text = page(desk, "/admin/")
    assert "Nothing needs a person" not in text
    needs = text[text.index("Needs a person") : text.index('class="figures"')]
    assert "host1" in needs
    assert "4 GiB" in needs


class TestTemplates:
    def test_one_is_registered_by_form(
        self, fleet: Fleet, desk: Client, host: Agent, zone: Zone, acme: Account
    ) -> None:
        assert zone.name in page(desk, REGISTER)
        fields = {
            "name": "debian",
            "url": "http://mirror.example.org/d.qcow2",
            "format": "qcow2",
            "account": acme.name,
            "zones": zone.name,
            "checksum": f"{{SHA-256}}{SHA256}",
            "headers": "X-Open: seen",
            "secret_headers": "X-Key: hidden-value",
            "follow_redirects": "on",
        }
        answer = send(desk, REGISTER, **fields)
        template = Template.objects.get()
        assert answer["Location"] == f"/admin/templates_app/template/{template.pk}/change/"
        assert (template.headers, template.account, list(template.zones.all())) == ({"X-Open": "seen"}, acme, [zone])
        assert template.secret_headers
        assert "hidden-value" not in page(desk, answer["Location"])

    def test_a_refusal_names_the_field_and_what_to_do(self, desk: Client, zone: Zone, acme: Account) -> None:
        fields = {
            "name": "t",
            "url": "ftp://x/y",
            "format": "qcow2",
            "account": acme.name,
            "secret_headers": "K: tellnobody",
        }
        answer = send(desk, REGISTER, **fields)
        text = answer.content.decode()
        assert answer.status_code == 200
        assert "<b>Remedy</b>" in text
        assert 'value="ftp://x/y"' in text
        assert text.index('class="wrong"') > text.index('value="ftp://x/y"')
        assert "tellnobody" not in text
        assert not Template.objects.exists()

    def test_a_page_shows_placements_with_percent_mirror_and_reason(
        self, fleet: Fleet, desk: Client, template: Template, pool: StoragePool
    ) -> None:
        path = f"/admin/templates_app/template/{template.pk}/"
        send(desk, f"{path}do/prepare/", pool=pool.name)
        command = fleet.the_open(Operation.objects.get())
        fleet.shows(command, 30 << 20, 100 << 20)
        text = page(desk, f"{path}change/")
        for part in ('value="30"', "30 MiB of 100 MiB", template.url, "downloading"):
            assert part in text
        fleet.fails(command, elsewhere=False, cause="The mirror is on fire.")
        assert "The mirror is on fire." in page(desk, f"{path}change/")


class TestVMs:
    @pytest.fixture
    def fields(self, template: Template, pool: StoragePool, acme: Account) -> dict[str, Any]:
        return {
            "name": "web",
            "template": template.name,
            "zone": "zone1",
            "account": acme.name,
            "memory_bytes": "1 GiB",
        }

    def test_one_is_deployed_by_form(self, fleet: Fleet, desk: Client, fields: dict[str, Any], olga: Person) -> None:
        page(desk, DEPLOY)
        fields |= {
            "cpus": "2",
            "root_size_bytes": "3 GiB",
            "data_disks": "1 GiB, 512 MiB",
            "host": "host1",
            "start": "on",
        }
        answer = send(desk, DEPLOY, **fields)
        vm = VM.objects.get()
        assert answer["Location"] == vm_path(vm)
        assert (vm.cpus, vm.memory_bytes, vm.host.name if vm.host else "") == (2, GIB, "host1")
        sizes = Volume.objects.order_by("device_index").values_list("size_bytes", flat=True)
        assert list(sizes) == [3 * GIB, GIB, GIB // 2]
        operation = Operation.objects.get(kind="vm.deploy")
        assert operation.requested_by == olga.user
        assert "1 of 4" in page(desk, vm_path(vm))
        fleet.works(operation)
        assert "running" in page(desk, vm_path(vm))

    def test_one_with_a_seed_and_cards(self, desk: Client, fields: dict[str, Any], host: Agent) -> None:
        network = {"name": "front", "zone": "zone1", "kind": "bridge", "source": "br0"}
        send(desk, "/admin/compute_app/network/do/create/", **network)
        # A browser sends the line ends of HTTP, and a script with those would not run.
        fields |= {"user_data": " #!/bin/sh\r\nid\r\n", "ssh_keys": f"{KEY}\r\n", "networks": "front, front"}
        send(desk, DEPLOY, **fields)
        vm = VM.objects.get()
        assert json.loads(decrypt_at_rest(vm.seed)) == {"user_data": " #!/bin/sh\nid\n", "ssh_keys": [KEY]}
        macs = list(vm.nics.values_list("mac", flat=True))
        shown = page(desk, vm_path(vm))
        assert len(macs) == 2
        assert all(mac in shown for mac in macs)
        assert macs[0] in page(
            desk, f"/admin/compute_app/network/{vm.nics.values_list('network', flat=True)[0]}/change/"
        )

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"template": "nonsense"}, "There is none with this name"),
            ({"memory_bytes": "much"}, "Write a size as 10 GiB"),
            ({"memory_bytes": "1 MiB"}, "greater than or equal to 16777216"),
            ({"data_disks": "1 GiB, tiny"}, "Write a size as 10 GiB"),
            ({"cpus": "0"}, "greater than or equal to 1"),
            ({"root_size_bytes": "1 MiB"}, "At least 1073741824"),
            ({"memory_bytes": "9000 GiB", "start": "on"}, "No host and pool of zone zone1 have room"),
            ({"name": ""}, "This field is required"),
            ({"account": ""}, "Name the account"),
        ],
    )
    def test_what_the_api_refuses_the_form_refuses(
        self, desk: Client, fields: dict[str, Any], charlie: Person, given: dict[str, str], said: str
    ) -> None:
        answer = send(desk, DEPLOY, **fields | given)
        assert answer.status_code == 200
        assert said in answer.content.decode()
        assert not VM.objects.exists()

    def test_of_several_with_one_name_the_id_chooses(
        self, fleet: Fleet, desk: Client, fields: dict[str, Any], template: Template
    ) -> None:
        other = fleet.template(template.name)
        answer = send(desk, DEPLOY, **fields)
        assert "Several have this name" in answer.content.decode()
        choice = f"{other.name} ({other.pk})"
        names = desk.get("/admin/names/templates_app/template/", {"q": template.name[:3].upper()}).json()["names"]
        assert set(names) == {choice, f"{template.name} ({template.pk})"}
        send(desk, DEPLOY, **fields | {"template": choice})
        assert VM.objects.get().template == other

    def test_buttons_follow_the_state_and_do_what_they_say(self, fleet: Fleet, desk: Client, vm: VM) -> None:
        assert vm_path(vm, "start") not in page(desk, vm_path(vm))
        answer = send(desk, vm_path(vm, "stop"))
        assert answer["Location"] == vm_path(vm)
        assert "Stop: accepted" in page(desk, vm_path(vm))
        text = page(desk, vm_path(vm))
        assert vm_path(vm, "stop") not in text
        fleet.works(Operation.objects.get())
        assert vm_path(vm, "start") in page(desk, vm_path(vm))
        assert "removed, for good" in page(desk, vm_path(vm, "expunge"))
        plan = send(desk, vm_path(vm, "expunge"), preview="1").content.decode()
        root = vm.volumes.get(device_index=0)
        assert f"volume-{root.pk}.qcow2" in plan[plan.index("What it would do") :]
        assert not Operation.objects.filter(kind="vm.destroy").exists()
        send(desk, vm_path(vm, "expunge"))
        fleet.works(Operation.objects.get(kind="vm.destroy"))
        assert "expunged" in page(desk, vm_path(vm))

    def test_a_refusal_says_cause_consequence_and_remedy_and_what_is_in_the_way(self, desk: Client, vm: VM) -> None:
        operation = in_transaction(actions.vm_stop, vm, force=False)
        send(desk, vm_path(vm, "stop"))
        text = page(desk, vm_path(vm))
        for part in ("vm is stopping.", "It cannot be stopped now.", "It can be stopped when it is running."):
            assert part in text
        assert f"/admin/operations_app/operation/{operation.pk}/change/" in text[: text.index('id="live"')]

    def test_the_console_is_shown_as_it_was_last_read(self, fleet: Fleet, desk: Client, vm: VM) -> None:
        send(desk, vm_path(vm, "console"))
        operation = Operation.objects.get(kind="vm.console")
        answer = {"text": "booting <b>\nlogin:", "truncated": False}
        fleet.says(fleet.the_open(operation), "COMPLETED", answer=answer)
        assert "booting &lt;b&gt;\nlogin:" in page(desk, vm_path(vm))


class TestSettings:
    PUT = "/admin/core_app/setting/put/"

    def test_each_has_unit_default_and_bounds(self, desk: Client) -> None:
        text = page(desk, "/admin/core_app/setting/")
        for one in settings_rows.definitions():
            assert f'id="{one.name}"' in text
        row = text[text.index('id="ping.interval"') :][:1600]
        for part in ('value="60"', ">s<", "0.5 to 3600", "Time between two pings"):
            assert part in row

    def test_one_is_changed(self, desk: Client) -> None:
        for name, text, value in (
            ("ping.interval", "5", 5),
            ("reconcile.commands.enabled", "false", False),
            ("host.accelerator", "tcg", "tcg"),
            ("download.address.allow", "10.0.0.0/8", "10.0.0.0/8"),
        ):
            assert send(desk, self.PUT, name=name, value=text)["Location"] == f"/admin/core_app/setting/#{name}"
            assert settings_rows.get(name) == value

    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("ping.interval", "0", "it must be from 0.5 to 3600"),
            ("ping.interval", "soon", "cannot be"),
            ("ping.interval", "nan", "cannot be"),
            ("command.redo.max", "1.5", "whole number"),
            ("nonsense", "1", "There is no setting nonsense"),
        ],
    )
    def test_what_is_out_of_bounds_is_refused(self, desk: Client, name: str, value: str, said: str) -> None:
        send(desk, self.PUT, name=name, value=value)
        assert said in page(desk, "/admin/core_app/setting/")
        assert not Setting.objects.exists()


def test_places_and_people_are_made_by_form_and_secrets_shown_once(desk: Client, zone: Zone, acme: Account) -> None:
    send(desk, "/admin/infra_app/zone/do/create/", name="north")
    north = Zone.objects.get(name="north")
    send(desk, "/admin/infra_app/storagepool/do/create/", name="p", zone="north", type="shared", path="/p")
    assert StoragePool.objects.get().zone == north
    answer = send(desk, "/admin/infra_app/storagepool/do/create/", name="q", zone="north", type="shared", path="p")
    assert "It must be absolute" in answer.content.decode()
    answer = send(desk, "/admin/infra_app/jointoken/do/create/", zone="north", valid_seconds="60")
    assert 'id="secret"' in answer.content.decode()
    assert JoinToken.objects.filter(zone=north).count() == 1
    account = f"/admin/accounts_app/account/{acme.pk}/"
    send(desk, f"{account}do/change_limits/", vms="3", primary_storage_bytes="10 GiB")
    limits = {row.resource: row.maximum for row in acme.limit_rows.all() if row.maximum is not None}
    assert limits == {"vms": 3, "primary_storage_bytes": 10 * GIB}
    assert 'value="10 GiB"' in page(desk, f"{account}do/change_limits/")


def test_lists_count_no_rows_and_ask_as_much_for_many_as_for_one(
    fleet: Fleet, desk: Client, vm: VM, django_assert_max_num_queries: Any
) -> None:
    for number in range(60):
        Operation.objects.create(kind="vm.start", target_type="vm", target_id=vm.pk, target_name=f"vm{number}")
    for path, most in (("operations_app/operation/", 12), ("compute_app/vm/", 12), ("", 30)):
        with CaptureQueriesContext(connection) as asked:
            text = page(desk, f"/admin/{path}")
        assert len(asked) <= most, [query["sql"] for query in asked]
        unbounded = [one["sql"] for one in asked if "COUNT(*)" in one["sql"] and "LIMIT" not in one["sql"]]
        assert not [sql for sql in unbounded if "operations_app_operation" in sql.partition("WHERE")[0]]
        assert len(text) < 300_000
    first = page(desk, "/admin/operations_app/operation/")
    assert "p=2" in first
    assert "vm9<" in page(desk, "/admin/operations_app/operation/?p=2")


def test_a_volume_is_made_attached_grown_detached_and_deleted_by_buttons(
    fleet: Fleet, desk: Client, vm: VM, acme: Account
) -> None:
    def settle() -> None:
        fleet.works(Operation.objects.order_by("-created_at")[0])

    fields = {"name": "data", "zone": "zone1", "account": acme.name, "size_bytes": "1 GiB"}
    path = send(desk, "/admin/compute_app/volume/do/create/", **fields)["Location"].removesuffix("change/")
    settle()
    volume = Volume.objects.get(name="data")
    send(desk, f"{path}do/attach/", vm=vm.name)
    settle()
    send(desk, f"{path}do/resize/", size_bytes="2 GiB")
    settle()
    volume.refresh_from_db()
    assert (volume.vm, volume.size_bytes) == (vm, 2 * GIB)
    assert f"{path}do/delete/" not in page(desk, f"{path}change/")
    send(desk, f"{path}do/detach/")
    settle()
    send(desk, f"{path}do/delete/")
    settle()
    volume.refresh_from_db()
    assert (volume.vm, volume.state) == (None, "removed")
