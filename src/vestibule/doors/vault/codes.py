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
