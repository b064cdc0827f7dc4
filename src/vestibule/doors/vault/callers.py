"""Who asks: by the connection, by a JWT-SVID, or by a token that one of them got."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vestibule.clock import Clock
from vestibule.doors.vault import fields
from vestibule.doors.vault.auth import JWT_LOGIN
from vestibule.doors.vault.codes import VAULT_UNAUTHENTICATED
from vestibule.doors.vault.operations import Caller
from vestibule.doors.vault.wrapping import is_wrapping_token
from vestibule.errors import VestibuleError
from vestibule.pki.jwt import BundleOf
from vestibule.pki.revocation import verify_unrevoked_token
from vestibule.secrets.client_tokens import PREFIX, ClientTokens
from vestibule.secrets.codes import TOKEN_REFUSED
from vestibule.spiffe import Revocations, SpiffeId


class Callers:
    """Finds the caller of a request.

    1. Over mTLS it is the connection's identity; a token that is shown beside must be of the same one.
    2. ``auth/jwt/login`` is by the JWT-SVID in its body.
    3. Else by a token of ours in ``X-Vault-Token``, or by a JWT-SVID there or in ``Authorization: Bearer``.
    Anything else is nobody; and so is whoever is revoked.
    """

    def __init__(
        self,
        tokens: ClientTokens,
        bundle_of: BundleOf,
        audience: str,
        clock: Clock,
        revocations: Callable[[], Revocations] = Revocations,
    ) -> None:
        """``audience`` is what JWT-SVIDs must be made for: our own SPIFFE ID."""
        self._tokens = tokens
        self._bundle_of = bundle_of
        self._audience = audience
        self._clock = clock
        self._revocations = revocations

    async def of(self, path: str, body: Mapping[str, Any], mtls: SpiffeId | None, token: str) -> Caller:
        """The caller.  ``token`` is what came in either header.  Raises: VST5211, VST5550, VST5000."""
        if is_wrapping_token(token):
            token = ""  # it opens what is wrapped, and says nothing of who shows it
        if mtls is not None:
            return await self._connected(mtls, token)
        if path == JWT_LOGIN:
            return self._by_jwt(fields.text(body, "jwt"))
        if token.startswith(PREFIX):
            found = await self._tokens.read(token)
            why = self._revocations().of_identity(found.spiffe_id, found.issued, self._clock.now())
            if why is not None:
                raise TOKEN_REFUSED.error(f"{found.spiffe_id} is revoked: {why}")
            return Caller(spiffe_id=found.spiffe_id, via="token", accessor=found.accessor)
        return self._by_jwt(token)

    async def _connected(self, mtls: SpiffeId, token: str) -> Caller:
        if token.startswith(PREFIX):
            found = await self._tokens.read(token, shown_by=mtls)
            return Caller(spiffe_id=mtls, accessor=found.accessor)
        return Caller(spiffe_id=mtls)

    def _by_jwt(self, text: str) -> Caller:
        if not text:
            raise VAULT_UNAUTHENTICATED.error("the request has neither a client certificate nor a token")
        try:
            svid = verify_unrevoked_token(
                text, (self._audience,), self._bundle_of, self._clock.now(), self._revocations()
            )
        except VestibuleError as error:
            raise VAULT_UNAUTHENTICATED.error(f"the JWT-SVID is not accepted: {error.message}") from error
        return Caller(spiffe_id=svid.spiffe_id, via="jwt-svid")
