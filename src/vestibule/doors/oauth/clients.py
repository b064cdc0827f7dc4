"""Who asks: client authentication without secrets (draft-ietf-oauth-spiffe-client-auth; RFC 8705; RFC 7523).

1. A certificate: the connection's X.509-SVID, which Envoy and ``Certificates`` have verified.
2. Else an assertion: a JWT-SVID whose only audience is the issuer.  One that is called ``jwt-bearer`` and has a ``jti``
   counts once; not so ``jwt-spiffe``: those who issue JWT-SVIDs give the same one again while it lasts.
3. Whoever shows both is the same with both, and so says ``client_id``, wherever it stands.
Client secrets mean nothing.  What libraries send for want of a choice is ignored where the connection says who asks,
and refused where nothing else does.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote_plus

from vestibule.clock import Clock
from vestibule.doors.oauth.codes import CLIENT_UNKNOWN
from vestibule.doors.oauth.forms import Form
from vestibule.doors.platform.certificates import Presented
from vestibule.errors import VestibuleError
from vestibule.pki.jwt import BundleOf
from vestibule.pki.revocation import verify_unrevoked_token
from vestibule.spiffe import JwtSvid, Revocations, SpiffeId
from vestibule.tokens.codes import REPLAYED
from vestibule.tokens.ports import Client, Proof

JWT_SPIFFE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"
JWT_BEARER: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_TYPES: Final = (JWT_SPIFFE, JWT_BEARER)
_BASIC: Final = b"basic "

Once = Callable[[str, Mapping[str, Any]], Awaitable[None]]
"""Takes note of an assertion, by who issued it and its claims.  Raises: VST6008 if it was shown before."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a request says of who sends it.  ``certificate`` is the header that Envoy sets."""

    certificate: bytes
    authorization: bytes = field(repr=False)
    form: Form


class Clients:
    """Finds the client of a request."""

    def __init__(
        self,
        presented: Callable[[bytes], Presented],
        issuer: str,
        bundle_of: BundleOf,
        revocations: Callable[[], Revocations],
        once: Once,
        clock: Clock,
    ) -> None:
        self._presented = presented
        self._issuer = issuer
        self._bundle_of = bundle_of
        self._revocations = revocations
        self._once = once
        self._clock = clock

    def connected(self, certificate: bytes) -> Client | None:
        """Whom the connection shows (step 1); None without a certificate.  Raises: VST6072."""
        if not certificate:
            return None
        try:
            shown = self._presented(certificate)
        except VestibuleError as error:
            raise CLIENT_UNKNOWN.error(error.message) from error
        return Client(spiffe_id=shown.spiffe_id, thumbprint=shown.thumbprint)

    async def of(self, claimed: Claimed) -> Client:
        """The client.  Raises: VST6072, and what keeps assertions from being counted (VST5000, VST80nn)."""
        form = claimed.form
        connected = self.connected(claimed.certificate)  # 1
        asserted = self._asserted(form)  # 2
        if connected is None and asserted is None:
            raise CLIENT_UNKNOWN.error("the request has neither a client certificate nor a client_assertion")
        if connected is not None and asserted is not None and connected.spiffe_id != asserted.spiffe_id:
            raise CLIENT_UNKNOWN.error("the certificate and the assertion are of different identities")  # 3
        client = connected or Client(spiffe_id=_of(asserted), proof=Proof.JWT_SVID)
        self._check_name(client.spiffe_id, form.get("client_id"))
        self._check_basic(claimed.authorization, client)
        if connected is None and form.get("client_secret"):
            raise CLIENT_UNKNOWN.error("a client_secret proves nothing here")
        if asserted is not None and form.get("client_assertion_type") == JWT_BEARER:
            await self._count(asserted)
        return client

    def _asserted(self, form: Form) -> JwtSvid | None:
        kind, text = form.get("client_assertion_type"), form.get("client_assertion")
        if not kind and not text:
            return None
        if not text or kind not in ASSERTION_TYPES:
            raise CLIENT_UNKNOWN.error(
                "client_assertion and client_assertion_type belong together, and the type is jwt-spiffe or jwt-bearer"
            )
        try:
            svid = verify_unrevoked_token(
                text, (self._issuer,), self._bundle_of, self._clock.now(), self._revocations()
            )
        except VestibuleError as error:
            raise CLIENT_UNKNOWN.error(f"the assertion does not count: {error.message}") from error
        if tuple(svid.audience) != (self._issuer,):
            # Whoever else it is for could show it here.
            raise CLIENT_UNKNOWN.error(f"the assertion must be for {self._issuer} and for nobody else")
        return svid

    async def _count(self, svid: JwtSvid) -> None:
        try:
            await self._once(str(svid.spiffe_id), svid.claims)
        except VestibuleError as error:
            if error.code is not REPLAYED:
                raise
            raise CLIENT_UNKNOWN.error(error.message) from error

    def _check_name(self, spiffe_id: SpiffeId, client_id: str) -> None:
        if client_id and client_id != str(spiffe_id):
            raise CLIENT_UNKNOWN.error(f"client_id must be {spiffe_id}")

    def _check_basic(self, authorization: bytes, client: Client) -> None:
        """RFC 6749, section 2.3.1, as far as clients cannot do without.  Other schemes are not for us."""
        if authorization[:6].lower() != _BASIC:
            return
        if client.proof is not Proof.X509_SVID:
            raise CLIENT_UNKNOWN.error("a password proves nothing here")
        try:
            pair = base64.b64decode(authorization[6:].strip(), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            raise CLIENT_UNKNOWN.error("the Authorization header cannot be read") from None
        name, colon, _ = pair.rpartition(":")
        if not colon or str(client.spiffe_id) not in (name, unquote_plus(name)):
            raise CLIENT_UNKNOWN.error(f"the Authorization header must be of {client.spiffe_id}")


def _of(svid: JwtSvid | None) -> SpiffeId:
    assert svid is not None
    return svid.spiffe_id
