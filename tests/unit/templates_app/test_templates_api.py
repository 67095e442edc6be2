"""``templates/`` over HTTP: shapes, who may what, pages of few queries, and names that nothing harms."""

from typing import Any
from uuid import uuid4

import pytest

from accounts_app.models import Account, User
from infra_app.actions import zone_create
from infra_app.models import Agent, StoragePool, Zone
from operations_app.models import Operation
from templates_app.actions import template_prepare
from templates_app.models import Placement, Template
from tests.unit.people import Person
from tests.unit.templates_app.fleet import GIB, TEMPLATE_BYTES, URL, Fleet, admin_browser, committed, in_transaction

TEMPLATES = "/api/v1/templates/"
NEW = {"name": "debian", "url": URL, "format": "qcow2"}
FIELDS = {
    "id", "name", "account", "url", "format", "checksum", "zones", "direct_download", "public", "headers",
    "follow_redirects", "is_iso", "state", "size_bytes", "virtual_size_bytes", "sha256", "unique_name", "error",
    "created_at",
}  # fmt: skip
PLACEMENT_FIELDS = {
    "id", "kind", "target", "zone", "state", "download_state", "percent", "progress", "attempt", "mirror", "operation",
    "path", "size_bytes", "virtual_size_bytes", "error", "created_at",
}  # fmt: skip
HOSTILE = [
    "\"quoted\" and 'single'",
    "<script>alert(1)</script>",
    "right\u200fto left",
    "naïve 日本 🐧",
    "'; DROP TABLE templates; --",
    "{{ 7*7 }} ${x} %s %(a)s",
    "../../etc/passwd",
    "n" * 255,
]


def post(person: Person, path: str, body: Any) -> Any:
    with committed():
        return person.post(path, body)


class TestRegister:
    def test_it_answers_202_with_where_to_look(self, alice: Person, zone: Zone, host: Agent) -> None:
        answer = post(alice, TEMPLATES, {**NEW, "zones": [str(zone.pk)]})
        assert answer.status_code == 202, answer.content
        body = answer.json()
        assert answer["Location"].endswith(f"/api/v1/operations/{body['id']}/")
        assert (body["kind"], body["target"]["type"], body["target"]["name"]) == (
            "template.register", "template", "debian",
        )  # fmt: skip
        shown = alice.get(f"{TEMPLATES}{body['target']['id']}/").json()
        assert set(shown) == FIELDS
        assert (shown["state"], shown["zones"], shown["is_iso"]) == ("allocated", [str(zone.pk)], False)
        assert shown["account"] == str(alice.user.account_id)
        assert alice.get(answer["Location"]).status_code == 200

    @pytest.mark.parametrize("zones", [{}, {"zones": "all"}])
    def test_all_zones(self, alice: Person, zone: Zone, host: Agent, zones: dict[str, str]) -> None:
        second = zone_create("zone2")
        answer = post(alice, TEMPLATES, {**NEW, **zones})
        assert answer.status_code == 202, answer.content
        shown = alice.get(f"{TEMPLATES}{answer.json()['target']['id']}/").json()
        assert set(shown["zones"]) == {str(zone.pk), str(second.pk)}

    def test_an_iso(self, alice: Person, host: Agent) -> None:
        answer = post(alice, TEMPLATES, {**NEW, "format": "iso", "is_iso": True})
        assert answer.status_code == 202
        assert alice.get(f"{TEMPLATES}{answer.json()['target']['id']}/").json()["is_iso"] is True

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"name": ""}, "name"),
            ({"name": "n" * 256}, "name"),
            ({"name": "a\x00b"}, "name"),
            ({"format": "vmdk"}, "format"),
            ({"format": "iso", "is_iso": False}, "is_iso"),
            ({"is_iso": True}, "is_iso"),
            ({"url": "ftp://mirror.example.org/x"}, "url"),
            ({"url": "http://me:secret@mirror.example.org/x"}, "url"),
            ({"checksum": "{MD5}12"}, "checksum"),
            ({"headers": {"X-A": "b\r\n"}}, "headers"),
            ({"headers": {"X-A": {"b": 1}}}, "headers.X-A"),
            ({"headers": ["X-A"]}, "headers"),
            ({"secret_headers": {"X-A": "b\n"}}, "secret_headers"),
            ({"direct_download": False}, "direct_download"),
            ({"zones": []}, "zones"),
            ({"zones": "some"}, "zones"),
            ({"zones": 7}, "zones"),
            ({"zones": ["nonsense"]}, "zones"),
            ({"zones": [{"id": 1}]}, "zones"),
            ({"zones": [True]}, "zones"),
            ({"zones": ["11111111-1111-1111-1111-111111111111"]}, "zones"),
        ],
    )
    def test_a_wrong_field_is_named(
        self, alice: Person, zone: Zone, host: Agent, given: dict[str, Any], field: str
    ) -> None:
        answer = post(alice, TEMPLATES, NEW | given)
        assert answer.status_code == 400, answer.content
        assert answer["Content-Type"] == "application/problem+json"
        (named,) = answer.json()["errors"]
        assert named == field or named.startswith(f"{field}.")
        assert not Template.objects.exists()

    def test_half_a_character_is_no_name(self, alice: Person) -> None:
        text = '{"name": "\\ud800", "url": "http://mirror.example.org/x", "format": "raw"}'
        answer = alice.generic("POST", TEMPLATES, text, content_type="application/json")
        assert (answer.status_code, list(answer.json()["errors"])) == (400, ["name"])

    def test_an_unknown_zone_is_named(self, alice: Person) -> None:
        unknown = str(uuid4())
        assert unknown in post(alice, TEMPLATES, {**NEW, "zones": [unknown]}).content.decode()


class TestPlacements:
    def test_a_row_for_the_zone_and_one_for_the_pool(
        self, fleet: Fleet, alice: Person, template: Template, pool: StoragePool
    ) -> None:
        answer = post(alice, f"{TEMPLATES}{template.pk}/prepare/", {"pool": str(pool.pk)})
        assert answer.status_code == 202, answer.content
        operation = Operation.objects.get(pk=answer.json()["id"])
        fleet.shows(fleet.the_open(operation), 30, 100)
        on_pool, in_zone = alice.get(f"{TEMPLATES}{template.pk}/placements/").json()["results"]
        assert set(on_pool) == set(in_zone) == PLACEMENT_FIELDS
        assert (in_zone["kind"], in_zone["target"], in_zone["state"]) == ("store", None, "ready")
        assert in_zone["download_state"] == "bypassed"
        assert on_pool["target"] == {"type": "storage_pool", "id": str(pool.pk), "name": "shared"}
        assert (on_pool["state"], on_pool["download_state"]) == ("downloading", "in_progress")
        assert (on_pool["percent"], on_pool["attempt"], on_pool["operation"]) == (30, 1, str(operation.pk))
        fleet.works(operation)
        on_pool, _ = alice.get(f"{TEMPLATES}{template.pk}/placements/").json()["results"]
        assert (on_pool["state"], on_pool["percent"], on_pool["size_bytes"]) == ("ready", 100, TEMPLATE_BYTES)
        assert on_pool["virtual_size_bytes"] == GIB
        assert on_pool["path"].startswith(pool.path)

    def test_the_mirror_is_shown_without_what_may_be_secret(
        self, fleet: Fleet, alice: Person, host: Agent, pool: StoragePool
    ) -> None:
        template = fleet.template(url=f"{URL}?token=secret")
        post(alice, f"{TEMPLATES}{template.pk}/prepare/", {"pool": str(pool.pk)})
        on_pool, _ = alice.get(f"{TEMPLATES}{template.pk}/placements/").json()["results"]
        assert on_pool["mirror"] == URL

    def test_pages(self, fleet: Fleet, alice: Person, template: Template, pool: StoragePool) -> None:
        post(alice, f"{TEMPLATES}{template.pk}/prepare/", {"pool": str(pool.pk)})
        first = alice.get(f"{TEMPLATES}{template.pk}/placements/?page_size=1").json()
        second = alice.get(first["next"]).json()
        assert [row["kind"] for row in first["results"] + second["results"]] == ["pool", "store"]
        assert second["next"] is None
        assert alice.get(f"{TEMPLATES}{template.pk}/placements/?state=ready").status_code == 400

    def test_the_schema_says_what_it_takes(self, alice: Person) -> None:
        document = alice.get("/api/schema/", headers={"accept": "application/vnd.oai.openapi+json"}).json()
        taken = document["paths"][f"{TEMPLATES}{{id}}/placements/"]["get"]["parameters"]
        assert {parameter["name"] for parameter in taken} == {"id", "cursor", "page_size"}

    def test_polling_a_placement_is_304_until_it_changes(
        self, fleet: Fleet, alice: Person, template: Template, pool: StoragePool
    ) -> None:
        post(alice, f"{TEMPLATES}{template.pk}/prepare/", {"pool": str(pool.pk)})
        path = f"{TEMPLATES}{template.pk}/placements/"
        tag = alice.get(path)["ETag"]
        again = alice.get(path, headers={"if-none-match": tag})
        assert (again.status_code, again.content) == (304, b"")
        fleet.shows(fleet.the_open(Placement.objects.get(pool=pool).operation), 1, 2)  # type: ignore[arg-type]
        changed = alice.get(path, headers={"if-none-match": tag})
        assert (changed.status_code, changed["ETag"] == tag) == (200, False)


class TestPrepare:
    def test_a_wrong_pool_is_400(self, alice: Person, template: Template) -> None:
        for given in ({}, {"pool": "nonsense"}, {"pool": str(uuid4())}):
            answer = post(alice, f"{TEMPLATES}{template.pk}/prepare/", given)
            assert (answer.status_code, list(answer.json()["errors"])) == (400, ["pool"])

    def test_what_is_there_is_409(self, fleet: Fleet, alice: Person, template: Template, pool: StoragePool) -> None:
        path, body = f"{TEMPLATES}{template.pk}/prepare/", {"pool": str(pool.pk)}
        fleet.works(Operation.objects.get(pk=post(alice, path, body).json()["id"]))
        answer = post(alice, path, body)
        assert (answer.status_code, answer.json()["type"]) == (409, "/problems/already_there")

    def test_one_that_goes_back_is_409_and_named(
        self, fleet: Fleet, alice: Person, template: Template, pool: StoragePool
    ) -> None:
        path, body = f"{TEMPLATES}{template.pk}/prepare/", {"pool": str(pool.pk)}
        operation = post(alice, path, body).json()["id"]
        assert post(alice, f"/api/v1/operations/{operation}/cancel/", None).status_code == 202
        answer = post(alice, path, body)
        assert (answer.status_code, answer.json()["operation"]) == (409, operation)


class TestWhoSeesWhat:
    def test_an_outsider_sees_nothing_of_it(
        self, charlie: Person, bob: Person, template: Template, pool: StoragePool
    ) -> None:
        path = f"{TEMPLATES}{template.pk}/"
        assert bob.get(path).status_code == 200
        for answer in (
            charlie.get(path),
            charlie.get(f"{path}placements/"),
            post(charlie, f"{path}prepare/", {"pool": str(pool.pk)}),
        ):
            assert answer.status_code == 404, answer.content
        assert charlie.get(TEMPLATES).json()["results"] == []
        assert charlie.get(f"{TEMPLATES}?account={template.account_id}").json()["results"] == []

    def test_a_public_one_is_seen_by_all_and_prepared_by_its_owners(
        self, charlie: Person, bob: Person, olga: Person, template: Template, pool: StoragePool
    ) -> None:
        Template.objects.update(public=True)
        path = f"{TEMPLATES}{template.pk}/"
        assert charlie.get(path).status_code == 200
        assert len(charlie.get(TEMPLATES).json()["results"]) == 1
        assert post(charlie, f"{path}prepare/", {"pool": str(pool.pk)}).status_code == 403
        assert not Placement.objects.filter(pool=pool).exists()
        answers = [post(person, f"{path}prepare/", {"pool": str(pool.pk)}) for person in (bob, olga)]
        assert {(answer.status_code, answer.json()["id"]) for answer in answers} == {
            (202, str(Operation.objects.get(kind="template.download").pk))
        }
        assert bob.get(answers[0]["Location"]).status_code == 200

    def test_another_account_cannot_be_written_to_nor_told_from_none(
        self, alice: Person, charlie: Person, host: Agent
    ) -> None:
        for account in (alice.user.account_id, uuid4()):
            answer = post(charlie, TEMPLATES, {**NEW, "account": str(account)})
            assert answer.status_code == 404, answer.content
        assert not Template.objects.exists()

    def test_the_own_account_may_be_named(self, alice: Person, acme: Account, host: Agent) -> None:
        assert post(alice, TEMPLATES, {**NEW, "account": str(acme.pk)}).status_code == 202

    def test_an_operator_names_the_account_where_there_are_several(
        self, olga: Person, acme: Account, charlie: Person, host: Agent
    ) -> None:
        refused = post(olga, TEMPLATES, NEW)
        assert (refused.status_code, list(refused.json()["errors"])) == (400, ["account"])
        assert post(olga, TEMPLATES, {**NEW, "account": str(acme.pk)}).status_code == 202
        assert Template.objects.get().account == acme

    def test_a_user_of_no_account_makes_nothing(self, acme: Account, alice: Person, host: Agent) -> None:
        User.objects.filter(pk=alice.user.pk).update(account=None)
        assert post(alice, TEMPLATES, NEW).status_code == 403
        assert not Template.objects.exists()

    def test_a_reader_changes_nothing(self, rita: Person, template: Template) -> None:
        assert rita.get(f"{TEMPLATES}{template.pk}/").status_code == 200
        assert post(rita, TEMPLATES, NEW).status_code == 403

    def test_it_cannot_be_written_to_directly(self, alice: Person, template: Template) -> None:
        path = f"{TEMPLATES}{template.pk}/"
        assert [alice.put(path, NEW).status_code, alice.patch(path, NEW).status_code] == [405, 405]


def test_names_are_kept_unharmed(fleet: Fleet, alice: Person, host: Agent, pool: StoragePool) -> None:
    for name in HOSTILE:
        answer = post(alice, TEMPLATES, {**NEW, "name": name})
        assert answer.status_code == 202, answer.content
        template_id = answer.json()["target"]["id"]
        fleet.works(Operation.objects.get(pk=answer.json()["id"]))
        assert post(alice, f"{TEMPLATES}{template_id}/prepare/", {"pool": str(pool.pk)}).status_code == 202
        assert alice.get(f"{TEMPLATES}{template_id}/").json()["name"] == name
        (found,) = alice.get(TEMPLATES, {"name": name}).json()["results"]
        assert found["id"] == template_id
    browser = admin_browser()
    for path in ("template/", "placement/"):
        page = browser.get(f"/admin/templates_app/{path}")
        assert page.status_code == 200
        assert b"<script>alert" not in page.content
        assert b"&lt;script&gt;alert" in page.content


class TestQueries:
    """As many for fifty rows as for one."""

    @pytest.fixture
    def many(self, fleet: Fleet, acme: Account, zone: Zone, template: Template, pool: StoragePool) -> Template:
        operation = in_transaction(template_prepare, template, pool)
        for number in range(20):
            row = Template.objects.create(account=acme, name=f"t{number}", url=URL, format="raw")
            row.zones.add(zone)
            other = StoragePool.objects.create(name=f"p{number}", zone=zone, type="shared", path=f"/p{number}")
            Placement.objects.create(
                template=template, kind="pool", zone=zone, pool=other, state="downloading", operation=operation
            )
        return template

    def test_templates(self, many: Template, alice: Person, django_assert_max_num_queries: Any) -> None:
        alice.get(TEMPLATES)
        with django_assert_max_num_queries(4):
            assert len(alice.get(TEMPLATES).json()["results"]) == 21

    def test_placements(self, many: Template, alice: Person, django_assert_max_num_queries: Any) -> None:
        alice.get(TEMPLATES)
        with django_assert_max_num_queries(5):
            assert len(alice.get(f"{TEMPLATES}{many.pk}/placements/").json()["results"]) == 22

    def test_the_admin(self, many: Template, django_assert_max_num_queries: Any) -> None:
        browser = admin_browser()
        for path in ("template/", "placement/", f"template/{many.pk}/change/"):
            with django_assert_max_num_queries(12):
                assert browser.get(f"/admin/templates_app/{path}").status_code == 200


def test_unknown_filters_are_refused(alice: Person) -> None:
    for query in ("nane=x", "state=ready&nonsense=1", "ordering=url"):
        answer = alice.get(f"{TEMPLATES}?{query}")
        assert (answer.status_code, answer.json()["type"]) == (400, "/problems/invalid_query")


def test_filters_and_orders(fleet: Fleet, alice: Person, host: Agent) -> None:
    fleet.template("b")
    fleet.template("a", format="raw")
    fleet.registered("c")

    def names(query: str) -> list[str]:
        return [row["name"] for row in alice.get(f"{TEMPLATES}?{query}").json()["results"]]

    assert names("state=ready&ordering=name") == ["a", "b"]
    assert names("state=allocated") == ["c"]
    assert names("format=raw") == ["a"]
    assert names("ordering=-name") == ["c", "b", "a"]
    assert names(f"zones={fleet.zone.pk}") == ["c", "a", "b"]
    assert names(f"account={fleet.account.pk}&name=b") == ["b"]
