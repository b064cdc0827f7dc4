"""Error codes of the doors."""

from vestibule.errors import Fault, Kind, define

NO_SECURITY_HEADER = define(
    "VST2200",
    "workload-header-missing",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A Workload API request came without the metadata workload.spiffe.io: true, so it may have been "
    "relayed by something that was tricked into it (SPIFFE_Workload_Endpoint.md, section 6).",
    advice="Use a SPIFFE client library, or send the metadata with every call.",
)
INVALID_JWT_SVID = define(
    "VST2201",
    "jwt-svid-invalid",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A token that the Workload API was asked to validate is not a JWT-SVID that the caller may accept, or the "
    "audience is missing.",
    advice="Refuse the request that came with the token.  The message says which check failed.",
)
UNUSABLE_CERTIFICATE = define(
    "VST2202",
    "certificate-files-unusable",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The certificate or key file of the OpenID Connect discovery pages, of the bundle endpoint of the "
    "profile https_web, or of the secret manager's port for clients with tokens, cannot be used.",
    advice="Give a PEM chain, leaf first, and its unencrypted PEM key, both readable by the user that runs the server.",
)
NO_LOG_LEVEL = define(
    "VST2203",
    "log-level-unknown",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A log level was asked for that does not exist.",
    advice="The levels are panic, fatal, error, warn, info, debug and trace.",
)
NO_HEALTH_OF_SERVICE = define(
    "VST2204",
    "health-of-one-service",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A gRPC health check asked about one service; only the component as a whole has a state.",
    advice="Ask with an empty service name.",
)
NO_SUBJECT = define(
    "VST2205",
    "delegation-subject-unclear",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A delegate has to say whose identities it wants, by selectors or by a pid: by one of them.",
    advice="Send either complete selectors (type and value) or a non-zero pid, never both.",
)
NOT_YOUR_SECRET = define(
    "VST2206",
    "secret-not-the-callers",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="An Envoy asked by SDS for a secret that is none of its own: a SPIFFE ID that no entry gives to it, a "
    "trust domain whose bundle it has not, or a name that does not exist.",
    advice="Compare the name in the Envoy's configuration with the identities of its process (vestibule svid fetch as "
    "the same user, vestibule entry show).",
)
WEBHOOK_REFUSED = define(
    "VST2207",
    "webhook-refused",
    Kind.UNAUTHENTICATED,
    Fault.CALLER,
    meaning="A message of a Git host was not taken: its signature is missing or wrong, or it is too long.",
    advice="Give both sides the same secret: the webhook's settings, and the file that `webhook_secret` names.",
)
