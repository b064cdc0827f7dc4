"""What a request asks for, before anybody has decided whether it may.

Each engine has a file in this folder with a ``Backend``: it turns a request into an ``Operation`` (pure: nothing is
read or changed yet); the pipeline asks whether the caller may, records it, runs it, records what came of it, answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Protocol, TypeVar, dataclass_transform

from vestibule.secrets.ports import Verb
from vestibule.spiffe import SpiffeId

CERTIFICATE: Final = "mtls"
"""How it is known who asks, where the connection says so."""

OPERATOR: Final = "operator"
"""How it is known who asks, where that came over the server's private socket."""

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def passing(cls: type[T]) -> type[T]:
    """A value that is made with every request and frozen, as the type checker sees to.

    At run time it is not: to check each of a request's thirty assignments costs more than to decrypt what is read.
    """
    return dataclass(slots=True, kw_only=True)(cls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, and how that is known: ``mtls``, ``jwt-svid``, ``token`` (``accessor`` names it in the audit log).

    Or ``operator``, who is named by ``operator`` and may do everything; the SPIFFE ID is nobody else's then.
    """

    spiffe_id: SpiffeId
    via: str = CERTIFICATE
    accessor: str = ""
    operator: str = ""

    @property
    def name(self) -> str:
        """As records name it."""
        return self.operator or str(self.spiffe_id)


@passing
class VaultRequest:
    """One request.  ``path`` is what follows ``/v1/``, without empty segments.

    ``method`` is one of GET, LIST, POST, PATCH and DELETE: PUT comes as POST, and GET with ``list=true`` as LIST.
    ``body`` may hold secrets.  ``caller_now`` finds the caller once more, and raises if it no longer is one.
    """

    method: str
    path: str
    caller: Caller
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    wrap_ttl: timedelta | None = None
    token: str = field(default="", repr=False)
    request_id: str = ""
    caller_now: Callable[[], Awaitable[Caller]] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseAnswer:
    """The lease of what is answered: its ID, how long it lasts from now, whether it can be renewed."""

    lease_id: str
    duration: timedelta
    renewable: bool


@passing
class Answer:
    """What is answered: ``data`` inside Vault's envelope, or ``top`` in its place; nothing at all is 204.

    ``status`` 0 is the usual one.  404 with neither data nor warnings is ``{"errors": []}``, else the envelope.

    ``detail`` is what the audit log keeps of the outcome (a version, a lease's ID; never a secret).
    """

    data: Mapping[str, Any] | None = field(default=None, repr=False)
    top: Mapping[str, Any] | None = field(default=None, repr=False)
    auth: Mapping[str, Any] | None = field(default=None, repr=False)
    lease: LeaseAnswer | None = None
    status: int = 0
    warnings: Sequence[str] = ()
    detail: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """Something that belongs to one identity, such as a lease.

    For whom ``owner`` names (None: there is no such thing) ``verb`` on the resource suffices, or, where that is None,
    being the owner; everybody else needs the operation's own verb.
    """

    owner: Callable[[], Awaitable[SpiffeId | None]]
    verb: Verb | None = None


@passing
class Operation:
    """What would be done: ``verb`` on the logical path ``resource`` is what must be allowed.

    ``changes`` says that something is changed, so that it is on record before it happens, too.  ``open`` operations are
    for every caller that has an identity (looking at one's own token, unwrapping); ``operators`` for administrators.
    ``or_operators`` lets administrators do without a rule, unless one forbids it.
    ``owned`` eases what its owner needs; it is asked before anything else, also of ``operators``' operations.
    ``waits`` says that ``run`` may take up to a minute by itself, so that behind it, before the answer leaves, it is
    found out again who the caller is (it may be revoked by then), and decided again whether it may.
    What is not ``recorded`` tells nothing but whether the manager works, as probes ask time and again.
    """

    verb: Verb
    resource: str
    run: Callable[[], Awaitable[Answer]]
    changes: bool = False
    open: bool = False
    operators: bool = False
    or_operators: bool = False
    owned: Owned | None = None
    waits: bool = False
    recorded: bool = True
    detail: Mapping[str, str | int] = field(default_factory=dict)


class Backend(Protocol):
    """One engine's part of the API."""

    def operation(self, request: VaultRequest) -> Operation | None:
        """What the request asks for; ``request.path`` still begins with the mount (``secret/data/a``).

        None when there is no such path.  Raises: errors of kind INVALID for a body or query that makes no sense.
        """
        ...
