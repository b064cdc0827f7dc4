"""What the caller of the RPC that is being answered may administer; noted by ``doors.access``, which decided it."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from vestibule.identity.administration import NOTHING, Scope
from vestibule.records import Entry

_current: ContextVar[Scope] = ContextVar("vestibule_scope", default=NOTHING)


def current_scope() -> Scope:
    """The caller's scope; nothing for whoever is no administrator, and outside of RPCs."""
    return _current.get()


def set_scope(scope: Scope) -> None:
    """Note the scope of the caller of the RPC that this task answers; for the check before it."""
    _current.set(scope)


def visible_entries() -> Callable[[Entry], bool]:
    """Which entries the caller may learn of."""
    return current_scope().sees
