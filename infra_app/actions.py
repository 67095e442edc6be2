"""What agents, operators and sweeps may do to zones, hosts and pools. Each function is one transaction."""

import base64
import hashlib
import posixpath
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Q
from django.db.models.functions import Greatest, Now
from django.utils import timezone
from nacl.public import PublicKey

from agents.protocol.messages import Hello, Ping, PoolFact, command_queue
from core_app import events, settings_rows
from core_app.errors import InvalidInput, NotFound, NotPermitted, WrongState
from core_app.names import check_name
from core_app.transitions import transition
from infra_app.models import Agent, Host, JoinToken, PoolReach, StoragePool, Zone

SILENT_BATCH = 100
SYSTEM_FOLDERS = frozenset(
    {"/", "/home", "/opt", "/root", "/tmp", "/var", "/var/cache", "/var/lib", "/var/log", "/var/spool", "/var/tmp"}  # noqa: S108
)
"""No pool's folder, though a pool may lie below; hier(7)."""
SYSTEM_TREES = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/lost+found", "/proc", "/run", "/sbin"),
    *("/sys", "/usr", "/var/run"),
)
"""Where nothing may be a pool."""
SETTINGS_OF_AGENTS = ("ping.interval", "host.accelerator")


# --- joining -------------------------------------------------------------------------------------------------------


def join_token_create(
    zone: Zone, *, role: str = "", valid: timedelta = timedelta(hours=1), reusable: bool = False
) -> tuple[JoinToken, str]:
    """Make a join token. The secret is returned this once; only its hash is stored."""
    secret = secrets.token_urlsafe(32)
    with transaction.atomic():
        token = JoinToken.objects.create(
            digest=_digest(secret), zone=zone, role=role, reusable=reusable, expires_at=timezone.now() + valid
        )
        events.record("join_token.created", token)
    return token, secret


@dataclass(frozen=True)
class Application:
    """What an agent says of itself when it asks to join. ``public_key``: base64 of a libsodium public key."""

    name: str
    role: str
    host_uuid: str
    machine_id: str
    public_key: str


def join(secret: str, application: Application) -> Agent:
    """Take an agent in. The same application with the same token again is the same agent: its answer may be lost.

    Raises NotPermitted for a token that is unknown, expired, used or for another role; InvalidInput for a malformed
    key; WrongState if the name or host is taken.
    """
    _check_public_key(application.public_key)
    with transaction.atomic():
        token = _token_of(secret, application.role)
        known = Agent.objects.filter(**asdict(application), zone=token.zone).first()
        if known and (token.reusable or token.used_by_id == known.pk):
            return known
        unused = JoinToken.objects.filter(Q(reusable=True) | Q(used_at=None), pk=token.pk)
        if not unused.update(used_at=Now()):
            raise _join_refused("The join token was used already.")
        agent = _take_in(token.zone, application)
        JoinToken.objects.filter(pk=token.pk).update(used_by=agent)
    return agent


def _take_in(zone: Zone, application: Application) -> Agent:
    try:
        with transaction.atomic():
            agent = Agent.objects.create(zone=zone, **asdict(application))
    except IntegrityError:
        raise WrongState(
            f"An agent in the role {application.role} with the name {application.name} or for the same host is here.",
            "This one was not taken in.",
            "Choose another name, or remove the agent that is there first.",
            code="agent_exists",
        )
    if agent.role == Agent.Role.HOST:
        Host.objects.create(agent=agent)
    events.record("agent.joined", agent, f"{agent.name} joined as {agent.role}")
    return agent


def _token_of(secret: str, role: str) -> JoinToken:
    token = JoinToken.objects.select_related("zone").filter(digest=_digest(secret), expires_at__gt=Now()).first()
    if token is None:
        raise _join_refused("The join token is unknown or has expired.")
    if token.role not in {"", role}:
        raise _join_refused(f"The join token is for an agent in the role {token.role}.")
    return token


def _join_refused(cause: str) -> NotPermitted:
    return NotPermitted(
        cause, "The agent was not taken in.", "Make a new token at hosts/join-tokens/.", code="join_refused"
    )


def _check_public_key(text: str) -> None:
    try:
        PublicKey(base64.b64decode(text, validate=True))
    except (ValueError, TypeError):
        raise InvalidInput(
            "The public key is not base64 of 32 bytes.",
            "The agent was not taken in.",
            "Let the agent make its key pair anew and join again.",
            errors={"public_key": ["It must be base64 of 32 bytes."]},
        )


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


# --- hello and ping ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Greeting:
    """What becomes of a hello. ``epoch_floor``: highest epoch known here; a refused agent starts above it."""

    accepted: bool
    epoch_floor: int
    reason: str = ""


def record_hello(hello: Hello) -> Greeting:
    """Take an agent's start for true if its epoch is higher than any before, or is the same start's again.

    Refused: an unknown agent, another machine, an epoch that is not higher. An accepted agent is ``up``; one in
    maintenance stays there, a fenced one goes there. One that has seen sequence numbers which were never issued is
    ``ahead`` and its zone deletes nothing.
    """
    with transaction.atomic():
        agent = Agent.objects.select_related("zone").filter(pk=hello.agent_id).first()
        if agent is None:
            return Greeting(accepted=False, epoch_floor=0, reason="There is no such agent; join again.")
        if not _same_machine(agent, hello):
            events.alarm_once("agent.wrong_machine", agent, f"A hello of {agent.name} came from another machine.")
            return Greeting(accepted=False, epoch_floor=agent.epoch, reason="This agent belongs to another machine.")
        _lock_zone_if_ahead(hello)
        if not _take_epoch(agent, hello):
            agent.refresh_from_db(fields=["epoch"])
            return Greeting(accepted=False, epoch_floor=agent.epoch, reason=f"A start of epoch {agent.epoch} is known.")
        agent.refresh_from_db()
        _record_facts(agent, hello)
        _note_if_ahead(agent)
        _come_back(agent)
    return Greeting(accepted=True, epoch_floor=agent.epoch)


def record_ping(ping: Ping) -> bool:
    """Note that an agent lives, and what it says of its pools. False: not its current start, nothing was noted."""
    with transaction.atomic():
        current = Agent.objects.filter(pk=ping.agent_id, epoch=ping.epoch)
        _lock_zone_if_ahead(ping)
        if not current.update(last_ping_at=Now(), highest_seq_seen=Greatest(F("highest_seq_seen"), ping.highest_seq)):
            return False
        agent = current.select_related("zone").get()
        _note_if_ahead(agent)
        if agent.state == Agent.State.DISCONNECTED:
            transition(agent, Agent.State.UP, event="agent.up", message=f"{agent.name} answers again")
        _record_pools(agent, ping.pools)
    return True


def issue_seq(agent_id: UUID | str) -> int:
    """The agent's next sequence number. Call it in the transaction that writes the command: numbers follow commits."""
    with transaction.atomic():
        if not Agent.objects.filter(pk=agent_id).update(last_seq=F("last_seq") + 1):
            raise NotFound(
                "There is no such agent.", "No command was made.", "Look at hosts/ for the agents that joined."
            )
        return Agent.objects.values_list("last_seq", flat=True).get(pk=agent_id)


def mark_silent(cutoff: datetime) -> list[Agent]:
    """Move agents that were last heard of before ``cutoff`` (the database's clock) from up to disconnected.

    At most ``SILENT_BATCH`` at once; returns those that this call moved.
    """
    silent = {"last_ping_at__lt": cutoff}
    candidates = Agent.objects.filter(state=Agent.State.UP, **silent).order_by("last_ping_at")[:SILENT_BATCH]
    return [agent for agent in candidates if _disconnect(agent, silent)]


def _disconnect(agent: Agent, where: dict[str, datetime]) -> bool:
    message = f"{agent.name} has been silent since {agent.last_ping_at}; what it was doing goes on unseen"
    return transition(
        agent, Agent.State.DISCONNECTED, event="agent.disconnected", message=message, where=where, level="warning"
    )


def _same_machine(agent: Agent, hello: Hello) -> bool:
    return (agent.machine_id, agent.host_uuid, agent.role) == (hello.machine_id, hello.host_uuid, hello.role)


def _take_epoch(agent: Agent, hello: Hello) -> bool:
    newer = Q(epoch__lt=hello.epoch)
    again = Q(epoch=hello.epoch, boot_id=hello.boot_id)
    rows = Agent.objects.filter(newer | again, pk=agent.pk).update(
        epoch=hello.epoch,
        boot_id=hello.boot_id,
        agent_version=hello.agent_version,
        highest_seq_seen=Greatest(F("highest_seq_seen"), hello.highest_seq),
        # A hello is a sign of life: silence counts from here.
        last_ping_at=Now(),
    )
    return bool(rows)


def _record_facts(agent: Agent, hello: Hello) -> None:
    if agent.role == Agent.Role.HOST:
        Host.objects.filter(pk=agent.pk).update(**hello.facts.model_dump())


def _come_back(agent: Agent) -> None:
    if agent.state == Agent.State.DOWN:
        message = f"{agent.name} was declared off and is back; it runs nothing new until it is activated"
        transition(agent, Agent.State.MAINTENANCE, event="agent.back_from_fence", message=message, level="alarm")
    elif agent.state in {Agent.State.JOINED, Agent.State.DISCONNECTED}:
        transition(agent, Agent.State.UP, event="agent.up", message=f"{agent.name} is up in epoch {agent.epoch}")


def _lock_zone_if_ahead(said: Hello | Ping) -> None:
    """Before the agent's row: whoever makes commands locks a zone and then its agents. The number that was issued last
    only grows, so an agent that is not ahead now will not be found so."""
    ahead = Agent.objects.filter(pk=said.agent_id, ahead=False, last_seq__lt=said.highest_seq)
    list(Zone.objects.select_for_update(no_key=True).filter(pk__in=ahead.values("zone")).values_list("pk"))


def _note_if_ahead(agent: Agent) -> None:
    """A sequence number that was never issued here: this database is older than the world, so it deletes nothing."""
    if agent.highest_seq_seen > agent.last_seq:
        mark_ahead(agent, f"has seen command {agent.highest_seq_seen}, but only {agent.last_seq} were issued here")


def mark_ahead(agent: Agent, why: str) -> None:
    """No commands to it, and no automatic deletion in its zone, until an operator adopts what exists.

    Called while an agent's or an operation's row is locked, its zone's must be locked before.
    """
    if agent.ahead:
        return
    with transaction.atomic():
        Zone.objects.filter(pk=agent.zone_id).update(deletions_suspended=True)
        if Agent.objects.filter(pk=agent.pk, ahead=False).update(ahead=True):
            message = f"{agent.name} {why}: the database was restored from a backup. Nothing in zone {agent.zone} is "
            events.record("agent.ahead", agent, f"{message}deleted until it is adopted.", level="alarm")
    agent.ahead = True


def _record_pools(agent: Agent, facts: Sequence[PoolFact]) -> None:
    """A local pool is taken from its own host only, any other from every host of its zone."""
    if agent.role != Agent.Role.HOST or not facts:
        return
    theirs = Q(host_id=agent.pk) | Q(host=None, zone_id=agent.zone_id)
    pools = StoragePool.objects.filter(theirs).in_bulk([fact.pool_id for fact in facts])
    # In one order everywhere: two hosts that reach the same pools must not wait for each other's rows.
    for fact in sorted(facts, key=attrgetter("pool_id")):
        if pool := pools.get(UUID(fact.pool_id)):
            _record_pool(agent, pool, fact)


def _record_pool(agent: Agent, pool: StoragePool, fact: PoolFact) -> None:
    room = {"capacity_bytes": fact.capacity_bytes, "available_bytes": fact.available_bytes}
    seen = {
        "reachable": fact.reachable,
        "reason": fact.reason,
        "reported_at": Now(),
        **(room if fact.reachable else {}),
    }
    PoolReach.objects.update_or_create(pool=pool, host_id=agent.pk, defaults=seen)
    if fact.reachable:
        StoragePool.objects.filter(pk=pool.pk).update(**room)


# --- places --------------------------------------------------------------------------------------------------------


def zone_create(name: str) -> Zone:
    """Raises WrongState if the name is taken, InvalidInput if it cannot be a name."""
    check_name(name)
    try:
        with transaction.atomic():
            zone = Zone.objects.create(name=name)
            events.record("zone.created", zone)
    except IntegrityError:
        raise WrongState(
            f"There is a zone {name} already.", "No other was made.", "Choose another name.", "zone_exists"
        )
    return zone


def storage_pool_create(*, name: str, zone: Zone, type: str, path: str, host: Host | None) -> StoragePool:  # noqa: A002
    """Make a pool's rows; its hosts are told of it with the answer to their next ping.

    Raises InvalidInput for a name or path that cannot be one, a folder of the host's own system, or a host that does
    not fit the type; WrongState if the name is taken or another pool has files at the path.
    """
    check_name(name)
    _check_pool(zone, type, path, host)
    with transaction.atomic():
        Zone.objects.select_for_update().get(pk=zone.pk)  # one at a time: the next look must see this pool
        for other in StoragePool.objects.filter(zone=zone):
            if other.name == name:
                raise _name_taken(other)
            if _same_folder(other, path, host):
                raise _folder_taken(other, path)
        pool = StoragePool.objects.create(name=name, zone=zone, type=type, path=path, host=host)
        events.record("storage_pool.created", pool)
    return pool


def _name_taken(other: StoragePool) -> WrongState:
    return WrongState(
        f"Zone {other.zone} has a pool {other.name} already, at {other.path}.",
        "No other was made.",
        "Choose another name, or use the pool that is there.",
        code="pool_exists",
    )


def _folder_taken(other: StoragePool, path: str) -> WrongState:
    return WrongState(
        f"{path} and the folder of pool {other.name}, {other.path}, are the same or lie one in the other.",
        "No pool was made: two pools in one folder would overwrite each other's files.",
        "Choose a folder apart from it, or use the pool that is there.",
        code="pool_exists",
    )


def _same_folder(pool: StoragePool, path: str, host: Host | None) -> bool:
    """Whether files at ``path`` would lie in, or around, the pool's: on the one host, or on any if ``host`` is None."""
    on_one_host = host is None or pool.host_id in {None, host.pk}
    return on_one_host and posixpath.commonpath([pool.path, path]) in {pool.path, path}


def _check_pool(zone: Zone, kind: str, path: str, host: Host | None) -> None:
    errors = {}
    if not path.startswith("/") or path.startswith("//") or path != posixpath.normpath(path):
        errors["path"] = ["It must be absolute and plain, without //, . or .. and without a / at its end."]
    elif folder := _system_folder(path):
        errors["path"] = [f"{folder} is the host's own. Give the pool a folder or mount that nothing else uses."]
    if kind == StoragePool.Type.LOCAL and host is None:
        errors["host"] = ["A local pool needs the host whose folder it is."]
    if kind != StoragePool.Type.LOCAL and host is not None:
        errors["host"] = ["Only a local pool has a host; all hosts of the zone reach this one."]
    if host is not None and host.agent.zone_id != zone.pk:
        errors["host"] = ["The host is in another zone."]
    if errors:
        raise InvalidInput(
            "The pool is not described as it must be.", "No pool was made.", "Correct the fields.", errors=errors
        )


def _system_folder(path: str) -> str | None:
    """What of the host's own system the path would lie in, or be."""
    if path in SYSTEM_FOLDERS:
        return path
    return next((tree for tree in SYSTEM_TREES if path == tree or path.startswith(f"{tree}/")), None)


def introduction(agent: Agent) -> dict[str, object]:
    """What an agent must know to go on without HTTP: the broker, its queues and its first settings."""
    return {
        "broker_url": settings.CLOUDCTL_BROKER_URL,
        "queue_prefix": command_queue(str(agent.pk)),
        "settings": {name: settings_rows.get(name) for name in SETTINGS_OF_AGENTS},
    }
