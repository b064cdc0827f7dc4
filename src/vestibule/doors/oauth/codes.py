"""Error codes of the token service's HTTP API."""

from collections.abc import Mapping
from typing import Final

from vestibule.errors import ErrorCode, Fault, Kind, define

MALFORMED = define(
    "VST6070",
    "oauth-request-malformed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A request to the token service is no form, says one thing twice, or leaves out what it needs.",
    advice="Send `application/x-www-form-urlencoded` in the body of a POST, each parameter once (`audience` and "
    "`resource` as often as needed); docs/tokens-api.md lists them.",
)
TOO_LARGE = define(
    "VST6071",
    "oauth-request-too-large",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A request to the token service is longer than 64 KiB.",
    advice="No request that makes sense is that long: look at the token that is sent.",
)
CLIENT_UNKNOWN = define(
    "VST6072",
    "oauth-client-unknown",
    Kind.UNAUTHENTICATED,
    Fault.CALLER,
    meaning="Who asks is not known: there is no client certificate and no assertion, one that does not count, or "
    "`client_id` is somebody else's.",
    advice="Ask through the sidecar or with an X.509-SVID, or send a JWT-SVID made for the issuer's URL alone as "
    "`client_assertion`; `client_id`, if it is sent, must be your SPIFFE ID.  There are no client secrets.",
)
GRANT_UNSUPPORTED = define(
    "VST6073",
    "oauth-grant-unsupported",
    Kind.UNIMPLEMENTED,
    Fault.CALLER,
    meaning="The token service does not know this kind of grant.",
    advice="Use client_credentials, urn:ietf:params:oauth:grant-type:token-exchange or "
    "urn:ietf:params:oauth:grant-type:jwt-bearer.",
)
NO_SUCH_ENDPOINT = define(
    "VST6075",
    "oauth-endpoint-unknown",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="The token service has nothing at this path.",
    advice="/.well-known/oauth-authorization-server lists the endpoints.",
)
METHOD_REFUSED = define(
    "VST6076",
    "oauth-method-refused",
    Kind.UNIMPLEMENTED,
    Fault.CALLER,
    meaning="The endpoint is not asked by this method: parameters of tokens never belong into a URL.",
    advice="POST to /oauth2/token, /oauth2/introspect and /oauth2/revoke; GET the others.",
)
TOO_MANY_AT_ONCE = define(
    "VST6077",
    "oauth-too-many-at-once",
    Kind.EXHAUSTED,
    Fault.CALLER,
    meaning="As many requests of one identity are under way as may be at a time: 400.",
    advice="Keep a token until shortly before it ends, and share it between the instances' requests.",
)
NO_TOKEN_SERVICE = define(
    "VST6078",
    "tokens-off",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The server issues no tokens.",
    advice="Turn the token service on in the server's settings: tokens (it needs secrets_seal).",
)

WORDS: Final[Mapping[ErrorCode, str]] = {
    CLIENT_UNKNOWN: "invalid_client",
    GRANT_UNSUPPORTED: "unsupported_grant_type",
}
"""The ``error`` of a response (RFC 6749, section 5.2), of errors of the door's own."""
