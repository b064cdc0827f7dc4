"""What the authorization server says of itself: RFC 8414, and OpenID Connect Discovery for those who insist."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Final

from vestibule.doors.oauth.grants import GRANTS
from vestibule.intent.built_in import TOKENS_SERVICE
from vestibule.pki.jwk import ALGORITHMS

TOKEN: Final = "/oauth2/token"  # noqa: S105 - a path
INTROSPECT: Final = "/oauth2/introspect"
REVOKE: Final = "/oauth2/revoke"
JWKS: Final = "/oauth2/jwks"
METADATA: Final = "/.well-known/oauth-authorization-server"
OPENID: Final = "/.well-known/openid-configuration"
OPENAPI: Final = "/openapi.json"

_METHODS: Final = ["spiffe_x509", "spiffe_jwt", "tls_client_auth", "private_key_jwt"]
"""The first two are of the SPIFFE draft; the others are how RFC 8705 and RFC 7523 call the same."""


class Metadata:
    """The documents, for each name under which the service is reached.

    ``issuer`` is the same in all.  Endpoints are told where they can be reached from: whoever asked for
    ``http://tokens/…`` beside its sidecar is told that, whoever came to one of ``hosts`` (``HOST`` or ``HOST:PORT``)
    is told that.  Any other name is one that somebody made up: then they are below the issuer.
    """

    def __init__(self, issuer: str, hosts: Collection[str] = ()) -> None:
        self.issuer = issuer
        self._bases = {host: f"https://{host}" for host in hosts}
        self._bases[TOKENS_SERVICE] = f"http://{TOKENS_SERVICE}"
        self._written: dict[tuple[str, str], str] = {}

    def document(self, path: str, host: str) -> str:
        """The one at ``METADATA`` or ``OPENID``, in JSON."""
        base = self._bases.get(host.lower().removesuffix(":80"), self.issuer)
        written = self._written.get((path, base))
        if written is None:
            content = self._openid(base) if path == OPENID else self._oauth(base)
            written = self._written[path, base] = json.dumps(content)
        return written

    def _oauth(self, base: str) -> Mapping[str, Any]:
        algorithms = sorted(ALGORITHMS)
        found: dict[str, Any] = {
            "issuer": self.issuer,
            "token_endpoint": base + TOKEN,
            "jwks_uri": base + JWKS,
            "introspection_endpoint": base + INTROSPECT,
            "revocation_endpoint": base + REVOKE,
            "grant_types_supported": list(GRANTS),
            "response_types_supported": [],
            "tls_client_certificate_bound_access_tokens": True,
        }
        for endpoint in ("token", "introspection", "revocation"):
            found[f"{endpoint}_endpoint_auth_methods_supported"] = _METHODS
            found[f"{endpoint}_endpoint_auth_signing_alg_values_supported"] = algorithms
        return found

    def _openid(self, base: str) -> Mapping[str, Any]:
        """Section 3, without what logins of people need: there are none here."""
        return {
            **self._oauth(base),
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }
