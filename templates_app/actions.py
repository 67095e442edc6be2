"""What may be asked for: to register a template, to have it on a pool."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from django.db import transaction

from accounts_app import limits
from accounts_app.models import Account, User
from agents.common.address_guard import check_url_syntax
from agents.common.checksums import parse_checksum
from agents.common.errors import CommandError
from agents.common.request_headers import parse_headers
from core_app.errors import Busy, InvalidInput, NotPermitted, WrongState
from core_app.names import check_name
from core_app.sealing import encrypt_at_rest
from core_app.transitions import transition
from infra_app.models import StoragePool, Zone
from operations_app import registry
from operations_app.actions import submit
from operations_app.models import Operation
from operations_app.rules import OPERATION_FINAL
from operations_app.workflow import locked
from templates_app.accounting import COUNTED, of_template, template_gone
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

    Raises InvalidInput naming the field (name, URL, checksum, header or zone), LimitExceeded.
    """
    check_name(wanted.name)
    headers, secret_headers = _check_source(wanted)
    with transaction.atomic():
        zones = _zones(wanted)
        limits.take(wanted.account, of_template())
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
    twice = sorted({name.lower() for name in headers} & {name.lower() for name in secret_headers})
    if twice:
        raise InvalidInput(
            f"The header {twice[0]} is given both openly and secretly.",
            "The template was not registered.",
            "Leave it among the secret headers only.",
            code="header_refused",
            errors={"secret_headers": [f"{twice[0]} is among the headers too."]},
        )
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


def lock_zone(zone_id: UUID) -> Zone:
    """One at a time in a zone where room is promised or downloads begin. Must be the first lock of the transaction."""
    return Zone.objects.select_for_update(no_key=True).get(pk=zone_id)


def template_prepare(template: Template, pool: StoragePool, user: User | None = None) -> Operation:
    """Have a template on a pool ahead of a deployment.

    Raises WrongState when it is there already, or not ready; InvalidInput when the pool is in none of its zones;
    NotPermitted when the template is another account's; Busy as :func:`ensure_placement`.
    """
    if user is not None and not user.operates and user.account_id != template.account_id:
        raise NotPermitted(f"{template} belongs to another account.", "Nothing was downloaded.", "Deploy a VM from it.")
    if not template.zones.filter(pk=pool.zone_id).exists():
        raise InvalidInput(
            f"{template} is not in zone {pool.zone}.",
            "Nothing was downloaded.",
            "Choose a pool in a zone of the template.",
            errors={"pool": ["It is in none of the template's zones."]},
        )
    with transaction.atomic():
        _, operation = ensure_placement(template, pool, for_waiters=False, user=user)
    if operation is None:
        raise WrongState(
            f"{template} is on {pool} already.", "Nothing was downloaded.", "Deploy from it.", code="already_there"
        )
    return operation


def template_delete(template: Template, user: User | None = None) -> Operation:
    """Delete a template: it is gone for its users at once, and its copies are removed from the pools.

    Raises NotPermitted when it is another account's; WrongState when it is in use or deleted already; Busy while it is
    being registered, downloaded or deployed from.
    """
    if user is not None and not user.operates and user.account_id != template.account_id:
        raise NotPermitted(f"{template} belongs to another account.", "Nothing was deleted.", "Ask its owner.")
    with transaction.atomic():
        for zone_id in template.placements.order_by("zone").values_list("zone", flat=True).distinct():
            lock_zone(zone_id)
        template = Template.objects.select_for_update(no_key=True).get(pk=template.pk)
        _check_may_be_deleted(template)
        placements = template.placements.exclude(pool=None).values_list("pk", flat=True)
        was_counted = template.state in COUNTED
        if transition(template, Template.State.DELETED, event="template.deleted"):
            template_gone(template, was_counted=was_counted)
        held = [("placement", pk) for pk in placements] + [("placement_download", pk) for pk in placements]
        return submit("template.delete", template, exclusive=[("template", template.pk), *held], user=user)


def _check_may_be_deleted(template: Template) -> None:
    reasons = registry.reasons_to_keep(template)
    if template.state == Template.State.DELETED:
        reasons = [f"{template} is deleted already."]
    if reasons:
        raise WrongState(
            " ".join(reasons), "Nothing was deleted.", "Expunge what was made from it first.", code="template_in_use"
        )


def ensure_placement(
    template: Template, pool: StoragePool, *, for_waiters: bool, user: User | None = None
) -> tuple[Placement, Operation | None]:
    """The placement of a template on a pool, and the one operation that is bringing it there; None when it is there.

    Call it in a transaction that has locked nothing but the pool's zone: it locks the zone, then the download, the
    order in which their rows are locked everywhere. Any number of callers at once get the same operation.
    ``for_waiters``: an operation that this call begins is cancelled when nobody waits for it any more. Raises
    WrongState when the template is not ready, Busy while a download to this pool is being put back.
    """
    lock_zone(pool.zone_id)
    template.refresh_from_db(fields=["state"])  # it may have been deleted until now
    if template.state != Template.State.READY:
        raise WrongState(
            f"{template} is {template.state}.",
            "It cannot be put on a pool.",
            "Wait until its registration has succeeded, or register it again.",
        )
    placement, _ = Placement.objects.get_or_create(
        template=template, pool=pool, defaults={"kind": Placement.Kind.POOL, "zone_id": pool.zone_id}
    )
    if placement.operation_id is not None:
        download = locked(placement.operation_id)
        if download.state not in OPERATION_FINAL:
            return placement, _join(download, for_waiters=for_waiters)
        placement.refresh_from_db()
    if placement.state == Placement.State.READY:
        return placement, None
    return placement, _begin_download(placement, for_waiters=for_waiters, user=user)


def _join(download: Operation, *, for_waiters: bool) -> Operation:
    """Share a locked download under way. One that goes back would take whoever joins now with it."""
    if download.cancel_requested_at or download.undoing:
        raise Busy(
            f"{download} is being put back.",
            "The template cannot be had there in this moment.",
            "Ask again when that operation has ended.",
            operation=download.pk,
        )
    if not for_waiters and download.data["for_waiters"]:
        download.data["for_waiters"] = False
        download.save(update_fields=["data"])
    return download


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
    return operation
