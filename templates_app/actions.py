"""What may be asked for: to register a template, to have it on a pool."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from django.db import transaction

from accounts_app.models import Account, User
from agents.common.address_guard import check_url_syntax
from agents.common.checksums import parse_checksum
from agents.common.errors import CommandError
from agents.common.request_headers import parse_headers
from core_app.errors import InvalidInput, WrongState
from core_app.sealing import encrypt_at_rest
from core_app.transitions import transition
from infra_app.models import StoragePool, Zone
from operations_app.actions import submit
from operations_app.models import Operation
from templates_app.models import Placement, Template
from templates_app.sources import allowed_networks


@dataclass(frozen=True, slots=True)
class Registration:
    """A template as its user describes it. ``zones`` empty: all that are enabled."""

    name: str
    url: str
    format: str
    account: Account
    zones: Sequence[Zone] = ()
    checksum: str = ""
    public: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    secret_headers: Mapping[str, str] = field(default_factory=dict)
    follow_redirects: bool = True


def template_register(wanted: Registration, user: User | None = None) -> tuple[Template, Operation]:
    """Register a template for direct download; it is ready when a host has looked at its URL.

    Raises InvalidInput naming the field: URL, checksum, header or zone.
    """
    headers, secret_headers = _check_source(wanted)
    with transaction.atomic():
        zones = _zones(wanted)
        template = Template.objects.create(
            account=wanted.account,
            name=wanted.name,
            url=wanted.url,
            format=wanted.format,
            checksum=wanted.checksum,
            public=wanted.public,
            headers=headers,
            secret_headers=encrypt_at_rest(json.dumps(secret_headers)) if secret_headers else "",
            follow_redirects=wanted.follow_redirects,
        )
        template.zones.set(zones)
        operation = submit("template.register", template, exclusive=[("template", template.pk)], user=user)
    return template, operation


def _check_source(wanted: Registration) -> tuple[dict[str, str], dict[str, str]]:
    with _naming("url"):
        check_url_syntax(wanted.url, allowed_networks())
    if wanted.checksum:
        with _naming("checksum"):
            parse_checksum(wanted.checksum)
    with _naming("headers"):
        headers = parse_headers(wanted.headers)
    with _naming("secret_headers"):
        secret_headers = parse_headers(wanted.secret_headers)
    return headers, secret_headers


class _naming:  # noqa: N801  (a context manager reads as a verb)
    """Turns what the shared checks raise into a refusal of this field."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, CommandError):
            problem = error.problem
            raise InvalidInput(
                problem.cause,
                "The template was not registered.",
                problem.remedy,
                code=problem.code,
                errors={self.name: [problem.cause]},
            ) from error


def _zones(wanted: Registration) -> Sequence[Zone]:
    if not wanted.zones:
        zones = list(Zone.objects.filter(enabled=True))
        if not zones:
            raise InvalidInput(
                "There is no enabled zone.",
                "The template was not registered.",
                "Make or enable a zone first.",
                errors={"zones": ["There is no enabled zone."]},
            )
        return zones
    disabled = [zone.name for zone in wanted.zones if not zone.enabled]
    if disabled:
        raise InvalidInput(
            f"Zone {', '.join(disabled)} is disabled.",
            "The template was not registered.",
            "Enable the zone, or leave it out.",
            errors={"zones": [f"Disabled: {', '.join(disabled)}."]},
        )
    return wanted.zones


def template_prepare(template: Template, pool: StoragePool, user: User | None = None) -> Operation:
    """Have a template on a pool ahead of a deployment. Raises WrongState when it is there already, or not ready."""
    with transaction.atomic():
        _, operation = ensure_placement(template, pool, for_waiters=False, user=user)
    if operation is None:
        raise WrongState(
            f"{template} is on {pool} already.", "Nothing was downloaded.", "Deploy from it.", code="already_there"
        )
    return operation


def ensure_placement(
    template: Template, pool: StoragePool, *, for_waiters: bool, user: User | None = None
) -> tuple[Placement, Operation | None]:
    """The placement of a template on a pool, and the one operation that is bringing it there; None when it is there.

    Call it in a transaction. Any number of callers at once get the same operation. ``for_waiters``: an operation that
    this call begins is cancelled when nobody waits for it any more.
    """
    if template.state != Template.State.READY:
        raise WrongState(
            f"{template} is {template.state}.",
            "It cannot be put on a pool.",
            "Wait until its registration has succeeded, or register it again.",
        )
    found, _ = Placement.objects.get_or_create(
        template=template, pool=pool, defaults={"kind": Placement.Kind.POOL, "zone": pool.zone}
    )
    placement = Placement.objects.select_for_update().get(pk=found.pk)
    if placement.state == Placement.State.READY:
        return placement, None
    if placement.state == Placement.State.DOWNLOADING and placement.operation is not None:
        return placement, placement.operation
    operation = _begin_download(placement, for_waiters=for_waiters, user=user)
    return placement, operation


def _begin_download(placement: Placement, *, for_waiters: bool, user: User | None) -> Operation:
    transition(placement, Placement.State.DOWNLOADING, event="placement.downloading", sets={"error": None})
    operation = submit(
        "template.download",
        placement,
        exclusive=[("placement_download", placement.pk)],
        data={"for_waiters": for_waiters, "tried": [], "reasons": []},
        user=user,
    )
    Placement.objects.filter(pk=placement.pk).update(operation=operation)
    placement.operation = operation
    return operation
