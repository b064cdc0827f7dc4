"""Error codes of the secret manager's HTTP API."""

from vestibule.errors import Fault, Kind, define

BAD_PATH = define(
    "VST5202",
    "secret-path-not-normal",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A path is not written in the one form that it has: it holds empty or dot segments, encoded slashes, "
    "control characters, or characters that look like others.",
    advice="Write the path plainly; percent-encode only what a URL cannot hold.",
)
BAD_REQUEST = define(
    "VST5203",
    "secret-request-malformed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A request's body, query or headers make no sense: the body must be one JSON object.",
    advice="Compare the request with the API's documentation; the message says what is wrong.",
)
TOO_LARGE = define(
    "VST5204",
    "secret-request-too-large",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A request's body is longer than 2 MiB.",
    advice="Keep a value within 1 MiB, or keep large files elsewhere and only their key here.",
)
NO_SUCH_PATH = define(
    "VST5205",
    "secret-path-unknown",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="The API has nothing at this path, or not with this method.",
    advice="Compare path and method with docs/secrets-api.md; engines are mounted at fixed places.",
)
OPERATORS_ONLY = define(
    "VST5206",
    "secret-operators-only",
    Kind.DENIED,
    Fault.CALLER,
    meaning="Only administrators of the server may do this, and the caller is none.",
    advice="Use an identity in the server's setting `admin_ids` (or an entry with `admin`), or the operator's socket.",
)
METHOD_REFUSED = define(
    "VST5207",
    "secret-method-unknown",
    Kind.UNIMPLEMENTED,
    Fault.CALLER,
    meaning="The API knows GET, LIST, POST, PUT, PATCH, DELETE and HEAD, and nothing else.",
    advice="Use one of these.",
)
NO_SECRET_MANAGER = define(
    "VST5212",
    "secrets-off",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The server runs without a secret manager.",
    advice="Choose a seal in the server's settings: secrets_seal.",
)
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
FIXED = define(
    "VST5208",
    "secret-setting-fixed",
    Kind.UNIMPLEMENTED,
    Fault.CALLER,
    meaning="Mounts, authentication methods, audit logs and policies are not changed by the API: engines stand at "
    "fixed places, and the intent in Git says who may do what.",
    advice="Change secrets/NAME.yaml in the intent, or the server's settings.",
)
TOO_MANY_AT_ONCE = define(
    "VST5213",
    "vault-too-many-at-once",
    Kind.EXHAUSTED,
    Fault.CALLER,
    meaning="As many requests of one identity are under way as may be at a time: 400, 8 of more than 64 KiB.",
    advice="Send fewer at a time, and try again after a while.  Let instances of an app wait for a secret once, and "
    "share it.",
)
