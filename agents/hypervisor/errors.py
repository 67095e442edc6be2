# ruff: noqa: N818  (an error's name says what is the case)
"""What libvirt's errors mean. This is the only place that reads its error codes.

Codes and domains: libvirt's ``include/libvirt/virterror.h``.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import libvirt

from agents.common.errors import CannotTell, Interrupted


class HypervisorError(Exception):
    """Something was asked of libvirt and did not simply succeed; the text is libvirt's."""


class HypervisorUnreachable(HypervisorError):
    """libvirtd could not be asked, or its answer was lost. What was asked may or may not happen: it did not fail."""


class DomainNotFound(HypervisorError):
    """No such domain here; a transient domain that is off does not exist either."""


class WrongState(HypervisorError):
    """The domain is not in a state that allows it: it already runs, or does not run any more."""


class DomainBusy(HypervisorError):
    """Something asked earlier is still at work on the domain."""


class GuestAgentSilent(HypervisorError):
    """The guest's agent is not connected or did not answer in time."""


class NoMetadata(HypervisorError):
    """The domain does not carry the metadata element that was asked for."""


class NetworkNotFound(HypervisorError):
    """libvirt has no network of that name."""


class HypervisorRefused(HypervisorError):
    """libvirt answered, and the answer is no."""


_WIRE = frozenset({libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE})
"""Errors of these domains are made on our side of the socket or on the way."""

_LOST = frozenset(
    {
        libvirt.VIR_ERR_INTERNAL_ERROR,
        libvirt.VIR_ERR_NO_CONNECT,
        libvirt.VIR_ERR_INVALID_CONN,
        libvirt.VIR_ERR_SYSTEM_ERROR,
        libvirt.VIR_ERR_RPC,
    }
)

_MEANINGS: dict[int, type[HypervisorError]] = {
    libvirt.VIR_ERR_NO_DOMAIN: DomainNotFound,
    libvirt.VIR_ERR_NO_DOMAIN_METADATA: NoMetadata,
    libvirt.VIR_ERR_NO_NETWORK: NetworkNotFound,
    libvirt.VIR_ERR_OPERATION_INVALID: WrongState,
    libvirt.VIR_ERR_OPERATION_TIMEOUT: DomainBusy,
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE: GuestAgentSilent,
    libvirt.VIR_ERR_AGENT_UNSYNCED: GuestAgentSilent,
}


def translate(error: libvirt.libvirtError) -> HypervisorError:
    """The meaning of an error that libvirt raised."""
    code, domain, text = error.get_error_code(), error.get_error_domain(), str(error)
    if code is None or (domain in _WIRE and code in _LOST):
        return HypervisorUnreachable(text)
    return _MEANINGS.get(code, HypervisorRefused)(text)


@contextmanager
def translated() -> Iterator[None]:
    """Calls of libvirt inside raise HypervisorError instead of libvirt's own error."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise translate(error) from error


@contextmanager
def unknown_outcome_interrupts() -> Iterator[None]:
    """For commands: what libvirt does not answer, or answers unexpectedly, is left to evidence. It did not fail."""
    try:
        yield
    except HypervisorError as error:
        raise Interrupted(f"the hypervisor does not say what became of it: {error}") from error


@contextmanager
def for_evidence() -> Iterator[None]:
    """For probes: what libvirt does not answer, nobody here can tell."""
    try:
        yield
    except HypervisorError as error:
        raise CannotTell(str(error)) from error
