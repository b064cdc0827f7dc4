"""Who calls, by what the platform's Envoy says of the client's certificate.

Envoy has verified the certificate already; it is verified once more, against the bundle and the list of what is
revoked as the server knows them now, so that neither a connection that is old nor a list that is on its way lets
anybody in.  That is done once per certificate, bundle and list; a request then costs a look-up.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import unquote_to_bytes

from vestibule.clock import Clock
from vestibule.doors.platform.codes import NO_CALLER
from vestibule.errors import VestibuleError
from vestibule.pki.certificates import load_certificate
from vestibule.pki.revocation import verify_unrevoked
from vestibule.spiffe import Revocations, SpiffeId, TrustBundle

MOST_KNOWN: Final = 4096
_PEM: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)\s+-----END CERTIFICATE-----", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Presented:
    """What a certificate proves.  ``thumbprint`` is the SHA-256 of it in DER (RFC 8705, section 3.1)."""

    spiffe_id: SpiffeId
    thumbprint: bytes


@dataclass(frozen=True, slots=True)
class _Known:
    """A caller, for as long as the certificate lasts, and bundle and list are these."""

    presented: Presented
    until: datetime
    bundle: TrustBundle
    revocations: Revocations


class Certificates:
    """Reads and believes ``x-forwarded-client-cert``; only what comes through the guarded socket may get here."""

    def __init__(
        self, bundle: Callable[[], TrustBundle], revocations: Callable[[], Revocations], clock: Clock
    ) -> None:
        self._bundle = bundle
        self._revocations = revocations
        self._clock = clock
        self._known: dict[bytes, _Known] = {}

    def caller_of(self, header: bytes) -> SpiffeId:
        """Whom a header's certificate proves, now.  Raises: VST5201."""
        return self.presented(header).spiffe_id

    def presented(self, header: bytes) -> Presented:
        """The same, and by which certificate.  Raises: VST5201."""
        known, now = self._known.get(header), self._clock.now()
        if (
            known is not None
            and now < known.until
            and known.bundle is self._bundle()
            and known.revocations is self._revocations()
        ):
            return known.presented
        return self._verified(header, now)

    def _verified(self, header: bytes, now: datetime) -> Presented:
        named, chain = _read(header)
        bundle, revocations = self._bundle(), self._revocations()
        try:
            spiffe_id = verify_unrevoked(chain, bundle, now, revocations)
        except VestibuleError as error:
            self._known.pop(header, None)
            raise NO_CALLER.error(f"the certificate does not count: {error}") from error
        if str(spiffe_id) != named:
            raise NO_CALLER.error("the certificate is not that of the identity that Envoy names")
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        until = load_certificate(chain[0]).not_valid_after_utc
        found = Presented(spiffe_id, hashlib.sha256(chain[0]).digest())
        self._known[header] = _Known(found, until, bundle, revocations)
        return found


def _read(header: bytes) -> tuple[str, tuple[bytes, ...]]:
    """The one URI and the chain (DER, leaf first).  Raises: VST5201."""
    if b"," in header:
        raise NO_CALLER.error("several proxies speak for the caller")
    found: dict[bytes, list[bytes]] = {}
    for part in header.split(b";"):
        name, _, value = part.partition(b"=")
        found.setdefault(name, []).append(value.strip(b'"'))
    uris, chains = found.get(b"URI", []), found.get(b"Chain", [])
    if len(uris) != 1 or len(chains) != 1:
        raise NO_CALLER.error("there is no certificate with exactly one SPIFFE ID")
    try:
        pem = unquote_to_bytes(chains[0])
        chain = tuple(base64.b64decode(b"".join(each.split()), validate=True) for each in _PEM.findall(pem))
        named = uris[0].decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        raise NO_CALLER.error("what Envoy says of the certificate cannot be read") from None
    if not chain:
        raise NO_CALLER.error("there is no certificate")
    return named, chain
