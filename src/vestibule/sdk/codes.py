"""Error codes of the SDK."""

from vestibule.errors import Fault, Kind, define

NO_ENDPOINT = define(
    "VST2400",
    "workload-endpoint-unknown",
    Kind.INVALID,
    Fault.CALLER,
    meaning="Nothing says where the Workload API is: no address was given and SPIFFE_ENDPOINT_SOCKET is not set.",
    advice="Set SPIFFE_ENDPOINT_SOCKET, for example to unix:///run/vestibule/agent.sock, or give the address; "
    "`vestibule up` and `vestibule sidecar` set the variable for the apps that they start.",
)
MALFORMED_ENDPOINT = define(
    "VST2401",
    "workload-endpoint-malformed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The address of the Workload API is none of the forms of the standard (SPIFFE_Workload_Endpoint.md, "
    "section 4).",
    advice="Write unix:///absolute/path.sock, or tcp://IP:PORT.",
)
NO_SVID = define(
    "VST2402",
    "no-valid-svid",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="A source holds no valid SVID at the moment: none came yet, the last one expired while the Workload API "
    "could not be reached, or the workload lost its identity.",
    advice="Read the reason in the message; look at the agent (vestibule status) and at the registration entries "
    "(vestibule entry show).",
)
NO_BUNDLE = define(
    "VST2403",
    "no-bundle-of-trust-domain",
    Kind.UNAUTHENTICATED,
    Fault.OPERATOR,
    meaning="The Workload API gave no trust bundle for a trust domain, so nothing of that domain can be verified.",
    advice="Check that the peer belongs to the expected trust domain; federate with it if it should be trusted.",
)
NOT_AUTHORIZED = define(
    "VST2404",
    "peer-not-authorized",
    Kind.DENIED,
    Fault.CALLER,
    meaning="The peer proved its SPIFFE ID, and it is not one that this side wants to talk to.",
    advice="Check the address that was dialled, or add the ID to the authorizer.",
)
NO_PEER_CERTIFICATE = define(
    "VST2405",
    "no-peer-certificate",
    Kind.UNAUTHENTICATED,
    Fault.PEER,
    meaning="The connection has no verified peer: it did not end its handshake, or was not made with a context of the "
    "SDK.",
    advice="Ask after the handshake, on a connection made with client_context or server_context.",
)
NO_SECRETS_ADDRESS = define(
    "VST2406",
    "secrets-address-unknown",
    Kind.INVALID,
    Fault.CALLER,
    meaning="Nothing says where the secret manager is, or what says it is no address: none was given and neither "
    "VESTIBULE_UPSTREAM_SECRETS nor VAULT_ADDR is set.",
    advice="Give http://HOST:PORT of the sidecar's upstream, or https://HOST:PORT of the secret manager itself; "
    "`vestibule up` and `vestibule sidecar` set the variables for the apps that they start.",
)
SECRETS_UNREACHABLE = define(
    "VST2407",
    "secrets-unreachable",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The secret manager did not answer, or what answered does not speak its language.",
    advice="Look at the address and at the sidecar (vestibule status); try again: nothing is known of what was asked.",
)
SECRETS_REFUSED = define(
    "VST2408",
    "secrets-refused",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="The secret manager refused a request for a reason that this version has no code for.",
    advice="Read the message; it is the secret manager's own.",
)
NO_SUCH_SECRET = define(
    "VST2409",
    "no-such-secret",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="There is nothing at a secret's path, or the version that is meant was deleted or destroyed.",
    advice="Check the path (vestibule secret list) and its history (vestibule secret history).",
)
CREDENTIAL_ENDED = define(
    "VST2410",
    "credential-ended",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="A credential that was to be kept renewed has ended, and no other one could be had until then.",
    advice="Read the reason in the message; the secret manager or its database was away for too long.",
)
CONNECTION_ENDED = define(
    "VST2411",
    "connection-ended",
    Kind.UNAVAILABLE,
    Fault.CALLER,
    meaning="A connection was still in use when one of the certificates of its handshake was about to end.",
    advice="Connect again; a call that takes longer than half the life of a certificate should resume where it was.",
)
SOURCE_FORKED = define(
    "VST2412",
    "source-forked",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="A source was entered, then the process was forked, and the child uses it: the tasks and threads that keep "
    "it current are the parent's, so in the child it would grow old unseen.",
    advice="Enter a source after the fork, in each child; with gunicorn's --preload, do it in post_fork or at the "
    "first request.",
)
SOURCE_LOOP_CLOSED = define(
    "VST2413",
    "source-loop-closed",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="A source is used whose event loop was closed without leaving it, so that nothing keeps it current.",
    advice="Keep the source entered inside of the coroutine that uses it; code that blocks enters it with `with`, not "
    "`async with`.",
)
REFUSED_BY_PEER = define(
    "VST2414",
    "refused-by-peer",
    Kind.UNAUTHENTICATED,
    Fault.PEER,
    meaning="The peer ended the handshake: it does not accept our certificate, or nothing of TLS that we offer.",
    advice="Read the peer's log, which says why: whether it has the trust bundle of our trust domain, whether its "
    "clock is right, and whether our SPIFFE ID is one that it wants.",
)
NOT_TLS = define(
    "VST2415",
    "peer-speaks-no-tls",
    Kind.UNAVAILABLE,
    Fault.CALLER,
    meaning="What answers at the address does not speak TLS 1.3.",
    advice="Check the address and the port: a service that takes plain text there has to be given a certificate first.",
)
MALFORMED_PATTERN = define(
    "VST2416",
    "malformed-peer-pattern",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A pattern of SPIFFE IDs is none: it lacks spiffe://, the trust domain or the path.",
    advice="Write spiffe://TRUST-DOMAIN/ns/*/sa/NAME, where each * is one whole segment, or end it with /**.",
)
NO_JWT_SVID = define(
    "VST2417",
    "jwt-svid-missing",
    Kind.UNAUTHENTICATED,
    Fault.CALLER,
    meaning="A request has no JWT-SVID, or has several.",
    advice="Send one: Authorization: Bearer … (JWT-SVID.md, section 5.1), made for the audience of the service called.",
)
PLAINTEXT_REFUSED = define(
    "VST2430",
    "plaintext-refused",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A client that speaks mutual TLS was to send a request without any TLS.",
    advice="Write https://; for what is to go in plain text on purpose, use a client of its own.",
)
NOT_ANSWERED = define(
    "VST2431",
    "connection-not-answered",
    Kind.UNAUTHENTICATED,
    Fault.PEER,
    meaning="A new connection was ended by the other side before it answered anything. In TLS 1.3 that is how servers "
    "refuse a client's certificate; it may also have stopped, or be overloaded.",
    advice="Look into the log of the other side, which says why: does it trust our trust domain, and does it want our "
    "SPIFFE ID?",
)
MALFORMED_OUTSIDE = define(
    "VST2432",
    "outside-host-malformed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="What is to be called with ordinary TLS is no name of a host.",
    advice="Write api.example.com, api.example.com:8443 or *.example.com.",
)
NOT_REACHED = define(
    "VST2433",
    "endpoint-not-reached",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="Nothing answers at an address, or what answers does not speak HTTP.",
    advice="Check the address and the port, and that the service runs there.",
)
NO_SIDECAR = define(
    "VST2434",
    "sidecar-unknown",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="A service of the mesh was named, and nothing says where the sidecar is that knows the way.",
    advice="Set VESTIBULE_EGRESS, which sidecars set for the apps that they start; or call the endpoint itself, with "
    "https://HOST:PORT and --expect SPIFFE-ID.",
)
NO_TOKENS_ADDRESS = define(
    "VST6120",
    "tokens-address-unknown",
    Kind.INVALID,
    Fault.CALLER,
    meaning="Nothing says where the token service is, or what says it is no address: none was given and neither "
    "VESTIBULE_UPSTREAM_TOKENS nor VESTIBULE_EGRESS is set.",
    advice="Give http://HOST:PORT of the sidecar's upstream, or https://HOST:PORT of the token service itself; "
    "`vestibule up` and `vestibule sidecar` set the variables for the apps that they start.",
)
TOKENS_UNREACHABLE = define(
    "VST6121",
    "tokens-unreachable",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The token service did not answer, or what answered does not speak OAuth 2.",
    advice="Look at the address and at the sidecar (vestibule status); try again.",
)
TOKENS_REFUSED = define(
    "VST6122",
    "tokens-refused",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="The token service refused a request for a reason that this version has no code for.",
    advice="Read the message; it is the token service's own, and its first word is of RFC 6749, section 5.2.",
)
TOKEN_NOT_FOR_US = define(
    "VST6123",
    "token-not-for-us",
    Kind.UNAUTHENTICATED,
    Fault.CALLER,
    meaning="A token is of another issuer than the one that is believed, or was made for another audience.",
    advice="Ask for a token whose audience is the service that is called; give one for another in exchange for it.",
)
TOKEN_LACKS_SCOPE = define(
    "VST6124",
    "token-lacks-scope",
    Kind.DENIED,
    Fault.CALLER,
    meaning="A token is valid, and lacks a scope that is wanted here.",
    advice="Ask for the scope when the token is made; a rule of the intent (tokens/NAME.yaml) has to allow it.",
)
NO_TOKEN_KEYS = define(
    "VST6125",
    "token-keys-unknown",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The issuer's keys could not be had, not even once, so no token can be verified.",
    advice="Read the reason in the message; look at the address and at the sidecar (vestibule status).",
)
TOKEN_OF_ANOTHER = define(
    "VST6126",
    "token-of-another-caller",
    Kind.UNAUTHENTICATED,
    Fault.PEER,
    meaning="The caller shows a token that was given to somebody else: it may be stolen.",
    advice="Ask for a token of one's own, or exchange the given one for it (RFC 8693); tokens are not handed around.",
)
NO_TOKEN = define(
    "VST6127",
    "token-missing",
    Kind.UNAUTHENTICATED,
    Fault.CALLER,
    meaning="A request has no access token, or has several.",
    advice="Send one: Authorization: Bearer … (RFC 6750, section 2.1).",
)
