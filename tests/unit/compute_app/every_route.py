"""All routes of the API, from its router, and an object of Alice's account for each."""

import re
from collections.abc import Iterator
from typing import Any

from accounts_app import usage
from accounts_app.models import Account, UsageRecord
from cloudctl.urls import router
from compute_app.actions import network_create
from compute_app.models import Volume
from core_app.models import Event
from infra_app import actions as infra
from infra_app.models import Agent, StoragePool
from operations_app.models import Command
from templates_app.models import Template
from tests.unit.compute_app.cloud import deploy, existing
from tests.unit.people import Person
from tests.unit.templates_app.fleet import Fleet

API = "/api/v1/"


def routes() -> Iterator[tuple[str, str]]:
    """Method and path below the API's own, ``{id}`` for an object."""
    for prefix, viewset, _basename in router.registry:
        for route in router.get_routes(viewset):
            path = route.url.format(prefix=prefix, lookup="{id}", trailing_slash="/").strip("^$")
            for method in router.get_method_map(viewset, route.mapping):
                yield method.upper(), path


def objects(fleet: Fleet, template: Template, pool: StoragePool, host: Agent, owner: Person) -> dict[str, Any]:
    """By the prefix of its route an object: of the owner's account, or the fleet's."""
    vm = existing(fleet, template, pool, host)
    volume = Volume.objects.get(vm=vm, device_index=1)
    usage.record("volume", volume, size_bytes=volume.size_bytes)
    _, operation = deploy(fleet, template, name="second")
    join_token, _ = infra.join_token_create(fleet.zone)
    return {
        "accounts": Account.objects.get(pk=fleet.account.pk).pk,
        "users": owner.user.pk,
        "tokens": owner.token.pk,
        "usage-records": UsageRecord.objects.get(target_id=volume.pk).pk,
        "events": Event.objects.filter(account_id=fleet.account.pk).earliest("created_at").pk,
        "settings": "ping.interval",
        "zones": fleet.zone.pk,
        "hosts/join-tokens": join_token.pk,
        "hosts": host.pk,
        "storage-pools": pool.pk,
        "operations": operation.pk,
        "commands": Command.objects.get(operation=operation).pk,
        "templates": template.pk,
        "networks": network_create(name="front", zone=fleet.zone, kind="bridge", source="br0").pk,
        "vms": vm.pk,
        "volumes": volume.pk,
    }


def path_of(path: str, known: dict[str, Any]) -> str:
    """The path with an object in it. Raises KeyError for a resource that has none: add one to ``objects``."""
    prefix = re.sub(r"/(\{id\}/.*)?$", "", path)
    return API + (path.format(id=known[prefix]) if "{id}" in path else path)
