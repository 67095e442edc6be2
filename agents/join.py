"""Join: the agent's only HTTP call to a management server. It gives its public key and gets its id and broker."""

import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import requests

from agents.protocol.sealing import public_half
from agents.state import Identity, RoleName, StateError, StateFolder, machine_id

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0


@dataclass(frozen=True)
class Applicant:
    """Who wants to join."""

    name: str
    role: RoleName
    libvirt_uri: str


def join(folder: StateFolder, server: str, token: str, applicant: Applicant) -> Identity:
    """Join and write the identity. Raises StateError, for people, when already joined or refused."""
    folder.prepare()
    if folder.identity.exists():
        raise StateError(
            f"{folder.identity} exists: this agent has joined already. Nothing was changed. "
            f"To join anew, stop the agent and give it an empty --state-dir."
        )
    host_uuid = _host_uuid(applicant.role, applicant.libvirt_uri)
    given = _ask(
        server,
        {
            "join_token": token,
            "name": applicant.name,
            "role": applicant.role,
            "host_uuid": host_uuid,
            "machine_id": machine_id(),
            "public_key": public_half(folder.private_key()),
        },
    )
    identity = Identity(
        agent_id=given["id"],
        name=applicant.name,
        role=applicant.role,
        host_uuid=host_uuid,
        broker_url=given["broker_url"],
        libvirt_uri=applicant.libvirt_uri,
    )
    folder.write_identity(identity)
    return identity


def _host_uuid(role: RoleName, libvirt_uri: str) -> str:
    if role != "host":
        return str(uuid.UUID(hex=machine_id())) if machine_id() else str(uuid.uuid4())
    # Only this role needs libvirt; the others run where it is not installed.
    from agents.roles.host import host_uuid

    return host_uuid(libvirt_uri)


def _ask(server: str, application: dict[str, str]) -> dict[str, str]:
    url = urljoin(server.rstrip("/") + "/", "api/v1/agents/join/")
    try:
        # A redirect would carry the token elsewhere.
        answer = requests.post(url, json=application, timeout=(CONNECT_SECONDS, READ_SECONDS), allow_redirects=False)
    except requests.RequestException as error:
        raise StateError(
            f"The management server does not answer at {url} ({type(error).__name__}). This agent has not joined. "
            f"Check --server and the network, then try again."
        ) from None
    content = _json(answer)
    if not answer.ok:
        raise StateError(_refusal(url, answer.status_code, content))
    if not isinstance(content.get("id"), str) or not isinstance(content.get("broker_url"), str):
        raise StateError(
            f"What answers at {url} is not a management server of this version. This agent has not joined. "
            f"Check --server."
        )
    return content


def _refusal(url: str, status: int, content: dict[str, Any]) -> str:
    """From the server's problem details (RFC 9457)."""
    said = " ".join(str(content[key]) for key in ("title", "detail", "remedy") if content.get(key))
    return f"The management server at {url} refused the join with status {status}. {said or 'It gave no reason.'}"


def _json(answer: requests.Response) -> dict[str, Any]:
    try:
        content = answer.json()
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
