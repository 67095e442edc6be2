"""Which hosts reach a pool."""

from uuid import UUID

from infra_app.models import Agent, StoragePool


def host_for_removal(pool: StoragePool, preferred: UUID | None) -> UUID | None:
    """A host that can remove files on a pool that nothing uses any more: the preferred one if it is up, else any.

    When none is up, one that will be asked when it comes back; None when no host ever reached the pool.
    """
    reaching = Agent.objects.filter(host__reaches__in=pool.reaches.filter(reachable=True))
    up = reaching.filter(state=Agent.State.UP, ahead=False)
    candidates: dict[UUID, Agent] = (up if up.exists() else reaching).order_by("pk").in_bulk()
    return preferred if preferred in candidates else next(iter(candidates), preferred)


def remover_of(pool: StoragePool, preferred: UUID | None = None) -> str | None:
    """Name of :func:`host_for_removal`, for plans."""
    host_id = host_for_removal(pool, preferred)
    return Agent.objects.values_list("name", flat=True).get(pk=host_id) if host_id else None
