"""People and agents of the tests: real users with real tokens, and what an agent says."""

from typing import Any

from rest_framework.test import APIClient

from accounts_app.actions import token_create, user_create
from accounts_app.models import Account, Role, User
from agents.protocol.messages import Hello, HostFacts
from agents.protocol.sealing import new_key
from infra_app import actions
from infra_app.models import Agent, Zone


class Person(APIClient):
    """A client of the API that carries its user's token."""

    def __init__(self, user: User) -> None:
        super().__init__(raise_request_exception=False)
        self.user = user
        self.token, secret = token_create(user, name="test", by=None)
        self.credentials(HTTP_AUTHORIZATION=f"Token {secret}")


def person(name: str, role: Role, account: Account | None = None) -> Person:
    return Person(user_create(name=name, role=role, account=account, password=None, by=None))


def application(name: str, /, **changes: Any) -> actions.Application:
    parts = {"name": name, "role": "host", "host_uuid": f"uuid-of-{name}", "machine_id": f"machine-of-{name}"}
    return actions.Application(**{"public_key": new_key()[1], **parts, **changes})


def joined(zone: Zone, name: str, /, **changes: Any) -> Agent:
    _, secret = actions.join_token_create(zone)
    return actions.join(secret, application(name, **changes))


def hello(agent: Agent, epoch: int = 1, **changes: Any) -> Hello:
    """What the agent says at its start."""
    said: dict[str, Any] = {
        "agent_id": str(agent.pk),
        "epoch": epoch,
        "machine_id": agent.machine_id,
        "boot_id": f"boot-{epoch}",
        "host_uuid": agent.host_uuid,
        "role": agent.role,
        "agent_version": "0.1.0",
        "highest_seq": 0,
        "facts": HostFacts(cpus=4, memory_bytes=8 << 30, libvirt_version="9.0.0", qemu_version="7.2.0"),
    }
    return Hello(**(said | changes))
