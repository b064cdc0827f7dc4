"""Telling apart the refusals that concern an agent as such."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from grpclib.exceptions import GRPCError

from vestibule.calls.codes import BANNED, MUST_ATTEST
from vestibule.errors import VestibuleError
from vestibule.wire.gen.spire import types_pb2

_DENIED: Final = types_pb2.PermissionDeniedDetails
_MUST_ATTEST: Final = frozenset(
    {
        _DENIED.AGENT_EXPIRED,
        _DENIED.AGENT_NOT_ATTESTED,
        _DENIED.AGENT_NOT_ACTIVE,
        _DENIED.AGENT_MUST_REATTEST,
    }
)


@contextmanager
def standing() -> Iterator[None]:
    """Calls of an agent.  Raises, beside theirs: VST2330 (banned), VST2331 (attest again)."""
    try:
        yield
    except VestibuleError as error:
        reason = _reason(error.__cause__)
        if reason == _DENIED.AGENT_BANNED:
            raise BANNED.error(error.message) from error
        if reason in _MUST_ATTEST or error.code.kind is MUST_ATTEST.kind:
            raise MUST_ATTEST.error(error.message) from error
        raise


def _reason(cause: BaseException | None) -> int | None:
    if not isinstance(cause, GRPCError):
        return None
    name = _DENIED.DESCRIPTOR.full_name
    packed: Sequence[tuple[str, bytes]] = cause.details or ()
    return next((_DENIED.FromString(value).reason for kind, value in packed if kind == name), None)
