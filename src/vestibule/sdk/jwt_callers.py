"""What both middlewares for JWT-SVIDs do with a request: who calls, or how it is refused."""

from __future__ import annotations

from collections.abc import Sequence

from vestibule.errors import Kind, VestibuleError
from vestibule.sdk.authorizers import Authorizer, is_wanted
from vestibule.sdk.bearer import Refusal, bearer_token
from vestibule.sdk.codes import NO_JWT_SVID, NOT_AUTHORIZED
from vestibule.sdk.jwt_source import JwtSource
from vestibule.spiffe import JwtSvid


class JwtCallers:
    """Knows callers by their JWT-SVIDs for ``audience``, and those whom ``authorize`` wants."""

    def __init__(self, audience: str | Sequence[str], authorize: Authorizer | None) -> None:
        self._audience = (audience,) if isinstance(audience, str) else tuple(audience)
        if not all(self._audience) or not self._audience:
            raise ValueError("a service without an audience of its own would take everybody else's tokens")
        self._authorize = authorize

    def of(self, authorization: Sequence[str], source: JwtSource) -> JwtSvid:
        """The token of a request.  Raises: VST2417 (none), VST2404 (not wanted), and as ``JwtSource.validate``."""
        svid = source.validate(bearer_token(authorization, NO_JWT_SVID), *self._audience)
        if self._authorize is not None and not is_wanted(self._authorize, svid.spiffe_id):
            raise NOT_AUTHORIZED.error(
                f"the caller is {svid.spiffe_id}, and only these are wanted: {self._authorize}"
            )
        return svid


def refusal_of(error: VestibuleError) -> Refusal:
    """How a request is refused: 401, 403, or 503 while nothing can be verified."""
    if error.code is NO_JWT_SVID:
        return Refusal(status=401, word="", error=error)
    if error.code is NOT_AUTHORIZED:
        return Refusal(status=403, word="insufficient_scope", error=error)
    if error.code.kind in (Kind.UNAUTHENTICATED, Kind.INVALID):
        return Refusal(status=401, word="invalid_token", error=error)
    return Refusal(status=503, word="temporarily_unavailable", error=error)
