"""Unsealing by peers: a server of several on one database asks one that is unsealed; shares are for when none is.

Who asks has proved three things.  That it is a server of this trust domain, by mTLS with an SVID that is not revoked
(the door's check).  That it writes to the same database: it has put a *claim* there, a row named for the public key for
which the answer is sealed.  And that key was made for this one question, so that an answer is worth nothing to
whoever records it.  Asking, answering and unsealing are on record on both sides.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from vestibule.audit import Audit, AuditEvent
from vestibule.errors import VestibuleError
from vestibule.records import Place, SealedRow
from vestibule.secrets.barrier import SPACE, SealedBarrier
from vestibule.secrets.sealed_boxes import PUBLIC_BYTES, boxed, unboxed
from vestibule.secrets.seals.codes import PEER_REFUSED, SEAL_UNAVAILABLE
from vestibule.secrets.seals.ports import Document
from vestibule.secrets.seals.shares import ShamirSeal
from vestibule.store import SealedRows

ASKING_SECONDS: Final = 10.0
_CONTEXT: Final = b"vestibule secrets: root key for a peer"
_log = logging.getLogger(__name__)


class Peer(Protocol):
    """Another server."""

    async def unseal(self, public_key: bytes) -> bytes:
        """The root key in a box for ``public_key``.  Raises: VestibuleError."""
        ...


class PeersSeal(ShamirSeal):
    """``secrets.seals.ports.Seal``: shares, or, without them, the answer of a peer.

    Its documents are those of shares, so that either kind opens what the other one sealed.
    """

    automatic = True

    def __init__(self, rows: SealedRows, peers: Sequence[Peer]) -> None:
        self._rows = rows
        self._peers = tuple(peers)

    async def unwrap(self, document: Document, shares: Sequence[bytes] = ()) -> bytes:
        """The root key.  Whether a peer gave the right one, the keyring tells."""
        if shares:
            return await super().unwrap(document, shares)
        private = X25519PrivateKey.generate()
        public = private.public_key().public_bytes_raw()
        async with self._claimed(public):
            for peer in self._peers:
                try:
                    async with asyncio.timeout(ASKING_SECONDS):
                        return unboxed(await peer.unseal(public), private, context=_CONTEXT)
                except (VestibuleError, TimeoutError, OSError) as error:
                    _log.info("a peer does not give the root key: %r", error)
        raise SEAL_UNAVAILABLE.error(f"none of {len(self._peers)} peers gives the root key")

    @asynccontextmanager
    async def _claimed(self, public: bytes) -> AsyncIterator[None]:
        place = _claim(public)
        row = SealedRow(space=place[0], key=place[1], revision=1, key_id=0, body=b"")
        await self._rows.revise([], lambda _there: [row], quiet=True)
        try:
            yield
        finally:
            await self._rows.revise([], lambda _there: [place], quiet=True)


class PeerAnswers:
    """Gives the root key to other servers, where that is configured."""

    def __init__(self, barrier: SealedBarrier, rows: SealedRows, audit: Audit) -> None:
        self._barrier = barrier
        self._rows = rows
        self._audit = audit

    async def answer(self, public_key: bytes, caller: str) -> bytes:
        """The root key in a box for ``public_key``; ``caller`` was authenticated as a server of ours.

        Raises: VST5000 (sealed itself), VST5030, VST8100.
        """
        root_key = self._barrier.root_key
        if len(public_key) != PUBLIC_BYTES or await self._rows.get(*_claim(public_key)) is None:
            await self._record(caller, "refused")
            raise PEER_REFUSED.error("there is no claim for this key in the database")
        try:
            box = boxed(root_key, public_key, context=_CONTEXT)
        except ValueError:  # a point of low order
            raise PEER_REFUSED.error("the public key is none") from None
        await self._record(caller, "ok")
        return box

    async def _record(self, caller: str, outcome: str) -> None:
        event = AuditEvent(actor=caller, action="secrets.unseal-peer", subject="root key", outcome=outcome)
        await self._audit.record([event])


def _claim(public_key: bytes) -> Place:
    return SPACE, f"peer/{hashlib.sha256(public_key).hexdigest()}"
