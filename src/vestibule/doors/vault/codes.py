"""Error codes of the secret manager's HTTP API."""

from vestibule.errors import Fault, Kind, define

VAULT_FIELD = define(
    "VST5210",
    "secret-request-field",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A field of the request has not the type that is expected.",
    advice="Compare the request with the API's page; numbers and durations may also be sent as text.",
)
VAULT_UNAUTHENTICATED = define(
    "VST5211",
    "secret-caller-unknown",
    Kind.UNAUTHENTICATED,
    Fault.CALLER,
    meaning="Who asks for the secret is not known: there is no client certificate, and no token that is accepted.",
    advice="Ask through the sidecar, with an X.509-SVID, or with a JWT-SVID made for the secret manager's SPIFFE ID.",
)
