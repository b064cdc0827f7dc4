"""Who is calling: established anew for every RPC, and read by the code that answers it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from functools import lru_cache
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.net.codes import PEER_REFUSED
from vestibule.net.grpc import Stream
from vestibule.net.peer_chains import peer_chain
from vestibule.pki.chains import leaf_facts, verify_x509_svid
from vestibule.records import Entry
from vestibule.spiffe import SpiffeId, TrustBundle, TrustDomain

AGENT_PATH: Final = "/spire/agent/"
VERIFIED_FOR: Final = timedelta(seconds=20)
"""How long a verification of a chain against a bundle is remembered."""
VERIFICATIONS: Final = 4096
_PEERCRED: Final = struct.Struct("3i")


class CallerKind(Enum):
    """What a caller proved to be.  ``WORKLOAD`` has an SVID that is no agent's."""

    ANONYMOUS = "anonymous"
    AGENT = "agent"
    WORKLOAD = "workload"
    LOCAL = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The other end of a call.  ``serial`` (decimal) and ``not_after`` are of the certificate it showed.

    ``powers`` are the live entries of a workload's identity that let it do more than be one (``admin``,
    ``downstream``); looked up where the method is open to such callers.  ``chain`` is what it showed, verified.
    """

    kind: CallerKind
    address: str
    spiffe_id: SpiffeId | None = None
    serial: str = ""
    not_after: datetime | None = None
    powers: tuple[Entry, ...] = ()
    chain: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def is_downstream(self) -> bool:
        """Whether the caller is a server below this one."""
        return any(entry.downstream for entry in self.powers)

    def __str__(self) -> str:
        """As audit records and logs name it."""
        return str(self.spiffe_id) if self.spiffe_id else f"{self.kind.value}:{self.address}"


BundleOf = Callable[[TrustDomain], TrustBundle | None]
"""The current trust bundle of a trust domain; None for one that is not trusted."""

_current: ContextVar[Caller] = ContextVar("vestibule_caller")


def current_caller() -> Caller:
    """The authenticated caller of the RPC that is being answered.  Raises: LookupError outside of one."""
    return _current.get()


def set_caller(caller: Caller) -> None:
    """Note the caller of the RPC that this task answers; for the door that authenticated it."""
    _current.set(caller)


def identify(stream: Stream, bundle_of: BundleOf, now: datetime) -> Caller:
    """Establish the caller of one RPC from its connection.

    The handshake's own verification is not relied upon: connections outlive certificates and bundles, and
    a TLS stack that knows several trust domains accepts an ID signed by the wrong one.  Raises: VST2322.
    """
    transport = stream.peer._transport
    # 1. A Unix socket: its file's mode has let in only the operator, who is known by uid.
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_UNIX:
        return Caller(kind=CallerKind.LOCAL, address=_unix_address(sock))
    address = _address(transport.get_extra_info("peername"))
    # 2. TLS without a client certificate: anonymous.
    tls = transport.get_extra_info("ssl_object")
    chain = peer_chain(tls) if tls is not None else ()
    if not chain:
        return Caller(kind=CallerKind.ANONYMOUS, address=address)
    try:
        # 3. The leaf names an ID, whose trust domain chooses the bundle.
        leaf = _facts(chain[0])
        bundle = bundle_of(leaf.spiffe_id.trust_domain)
        if bundle is None:
            raise PEER_REFUSED.error(f"trust domain {leaf.spiffe_id.trust_domain} is not trusted here")
        # 4. The whole chain holds against that bundle alone, now.
        spiffe_id = _verified(chain, bundle, leaf.not_after, now)
    except VestibuleError as error:
        if error.code is PEER_REFUSED:
            raise
        raise PEER_REFUSED.error(f"the caller's certificate is refused: {error.message}") from error
    # 5. Its path says whether it claims to be an agent; that it still is one is asked of the agents' records.
    agent = spiffe_id.path.startswith(AGENT_PATH)
    return Caller(
        kind=CallerKind.AGENT if agent else CallerKind.WORKLOAD,
        address=address,
        spiffe_id=spiffe_id,
        serial=leaf.serial,
        not_after=leaf.not_after,
        chain=chain,
    )


_facts = lru_cache(maxsize=4096)(leaf_facts)

_Verified = tuple[datetime, datetime, SpiffeId]
_verifications: Final[dict[tuple[tuple[bytes, ...], TrustBundle], _Verified]] = {}


def _verified(chain: tuple[bytes, ...], bundle: TrustBundle, not_after: datetime, now: datetime) -> SpiffeId:
    """``verify_x509_svid``, remembered for a moment: an agent's streams all come with the same chain.

    Remembered are the bytes of chain and bundle, so that neither can change meanwhile, only time can pass.
    """
    key = (chain, bundle)
    since, until, spiffe_id = _verifications.get(key, (now, now, None))
    if spiffe_id is not None and since <= now < until:
        return spiffe_id
    spiffe_id = verify_x509_svid(chain, bundle, now)
    while len(_verifications) >= VERIFICATIONS:
        del _verifications[next(iter(_verifications))]
    _verifications.pop(key, None)
    _verifications[key] = (now, min(not_after, now + VERIFIED_FOR), spiffe_id)
    return spiffe_id


def _unix_address(sock: socket.socket) -> str:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
    pid, uid, _ = _PEERCRED.unpack(raw)
    return f"uid={uid},pid={pid}"


def _address(peername: object) -> str:
    if isinstance(peername, tuple) and len(peername) >= 2:
        host, port = peername[0], peername[1]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return "unknown"
