"""What an agent must know of a template's source."""

import json
from typing import Any

from agents.protocol.kinds import DownloadLimits, Source
from core_app import settings_rows
from core_app.sealing import decrypt_at_rest
from templates_app.models import Template


def allowed_networks() -> tuple[str, ...]:
    """Networks (CIDR) that downloads may reach although they are not public."""
    return tuple(network for network in settings_rows.get("download.address.allow").split(",") if network)


def source_of(template: Template) -> Source:
    """The template's source without its secrets."""
    return Source.model_validate(
        {
            "url": template.url,
            "headers": template.headers,
            "follow_redirects": template.follow_redirects,
            "format": template.format,
            "checksum": template.checksum or None,
        }
    )


def secrets_of(template: Template) -> dict[str, Any]:
    """What travels sealed; empty when there is nothing."""
    if not template.secret_headers:
        return {}
    return {"secret_headers": json.loads(decrypt_at_rest(template.secret_headers))}


def limits() -> DownloadLimits:
    """The settings ``download.*`` in force."""
    values = settings_rows.values()
    return DownloadLimits(
        connect_timeout_seconds=values["download.connect.timeout"],
        read_timeout_seconds=values["download.read.timeout"],
        stall_bytes_per_second=values["download.stall.bytes_per_second"],
        stall_seconds=values["download.stall.seconds"],
        total_timeout_seconds=values["download.total.timeout"],
        allowed_networks=allowed_networks(),
    )
