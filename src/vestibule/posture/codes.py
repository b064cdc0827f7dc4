"""Error codes of posture: what a scan of endpoints cannot be asked, and what it finds."""

from vestibule.errors import Fault, Kind, define

MALFORMED_TARGET = define(
    "VST2470",
    "scan-target-malformed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="What should be scanned is not a host and a port.",
    advice="Write HOST:PORT, such as payments.internal:8443, 10.0.0.7:443 or [2001:db8::1]:443; in a file one per "
    "line, # starts a comment.",
)
MALFORMED_SCAN = define(
    "VST2471",
    "saved-scan-malformed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A file that should hold a saved scan does not, or it is one of a newer version.",
    advice="Name a file that `vestibule scan --save FILE` wrote.",
)
UNREACHABLE = define(
    "VST2472",
    "endpoint-unreachable",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="No connection to the endpoint could be made, so nothing is known of it.",
    advice="Check that it runs, its address, and the network between; scan from a machine that may reach it.",
)
PLAINTEXT_ONLY = define(
    "VST2473",
    "endpoint-without-tls",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The endpoint answers without encryption, and does not speak TLS: whoever is on the way reads and changes "
    "everything, and neither side knows who the other is.",
    advice="Put mutual TLS before it: a sidecar (docs/sidecar.md), the library (docs/sdk.md), or certificates on disk "
    "for what ends TLS itself (docs/one-service-this-week.md).",
)
PLAINTEXT_BESIDE_TLS = define(
    "VST2474",
    "endpoint-plaintext-beside-tls",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The port speaks TLS, and answers requests without it as well: a caller that does not insist is neither "
    "encrypted nor identified.",
    advice="Let the port take TLS only, once `vestibule scan` of its callers' side shows that nobody is left without "
    "(with a mesh: mtls: strict).",
)
OLD_TLS = define(
    "VST2475",
    "endpoint-old-tls",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The endpoint accepts TLS 1.0 or 1.1, which RFC 8996 forbids: their hashes and ciphers are broken.",
    advice="Set the lowest version to TLS 1.2, better 1.3 (nginx: ssl_protocols TLSv1.3;).",
)
WEAK_CIPHERS = define(
    "VST2476",
    "endpoint-weak-ciphers",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The endpoint accepts cipher suites that are broken (no encryption, no authentication, export keys, RC4, "
    "DES, 3DES), or that lack forward secrecy or authenticated encryption (RFC 9325, section 4).",
    advice="Allow ECDHE with AES-GCM or ChaCha20-Poly1305 only; with TLS 1.3 alone there is nothing to choose.",
)
NO_TLS_13 = define(
    "VST2477",
    "endpoint-without-tls13",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The endpoint does not offer TLS 1.3, so certificates, its own and those of its callers, cross the network "
    "in clear.",
    advice="Offer TLS 1.3; every TLS library that is still maintained has it.",
)
NOT_VALID_NOW = define(
    "VST2478",
    "endpoint-certificate-not-valid-now",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The endpoint's certificate has expired, is not valid yet, or is about to end although it should have been "
    "renewed.",
    advice="Renew it, and look why the renewal did not happen by itself; compare the clocks of both machines.",
)
UNTRUSTED_CHAIN = define(
    "VST2479",
    "endpoint-chain-not-trusted",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The certificates that the endpoint shows do not lead to an authority that was to be believed: an "
    "intermediate is missing, the certificate is self-signed, or another authority signed it.",
    advice="Let the endpoint send its intermediates, leaf first; name the authorities with --trust-bundle, or take "
    "those of the agent with --with-svid.",
)
WRONG_HOST_NAME = define(
    "VST2480",
    "endpoint-host-name-not-in-certificate",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The host that was called does not stand in the certificate, and no SPIFFE ID says who it is instead: a "
    "caller cannot tell this endpoint from another one.",
    advice="Give the endpoint an SVID, or a certificate with its host name among the subject alternative names.",
)
WEAK_KEY = define(
    "VST2481",
    "endpoint-weak-key",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="A certificate of the endpoint's chain has a short key, or is signed with SHA-1 or MD5.",
    advice="Have it issued anew, with an EC key of 256 bits or an RSA key of 2048 and more, signed with SHA-256.",
)
LONG_LIVED = define(
    "VST2482",
    "endpoint-certificate-long-lived",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The endpoint's certificate lives so long that whoever steals its key has use of it for a long time.",
    advice="Issue certificates for an hour and renew them by themselves; Vestibule's agent does, also into files.",
)
SPIFFE_ID = define(
    "VST2483",
    "endpoint-spiffe-id-missing",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The endpoint's certificate does not hold exactly one well-formed SPIFFE ID, so callers cannot authorise "
    "it as the service that it is (X509-SVID.md, section 2).",
    advice="Give it an X.509-SVID: by a sidecar, the library, or `vestibule svid write`.",
)
NO_CLIENT_CERTIFICATE = define(
    "VST2484",
    "endpoint-asks-for-no-client-certificate",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The endpoint does not ask its callers for a certificate: TLS tells callers who it is, and tells it "
    "nothing of its callers.",
    advice="Require client certificates (nginx: ssl_verify_client on; PostgreSQL: clientcert=verify-full), or put a "
    "sidecar or the library's server before it.",
)
NOT_ENFORCED = define(
    "VST2485",
    "endpoint-client-certificate-not-enforced",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The endpoint asks for a client certificate, and goes on without one.",
    advice="Require it rather than ask for it: ssl_verify_client on instead of optional, CERT_REQUIRED instead of "
    "CERT_OPTIONAL, require_client_certificate: true in Envoy.",
)
OWN_REFUSED = define(
    "VST2486",
    "endpoint-refuses-our-svid",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The endpoint refused the SVID of whoever scanned it. That is as it should be where no rule allows this "
    "caller.",
    advice="If this identity should be let in, look at the endpoint's rules and its trust bundle "
    "(`vestibule explain`).",
)
RESUMPTION = define(
    "VST2487",
    "endpoint-resumes-sessions",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The endpoint resumes sessions of callers that it asks for certificates: whoever comes back with a session "
    "is not asked again, so a certificate that expired or was revoked meanwhile may still let its holder in.",
    advice="Switch session resumption off where callers are known by certificates (nginx: ssl_session_tickets off; "
    "ssl_session_cache off;).",
)
MISBEHAVES = define(
    "VST2488",
    "endpoint-misbehaves",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The endpoint took a connection and then said nothing, spoke neither TLS nor HTTP, or sent without end; "
    "the scan gave up at its limits of time and bytes, so some of its facts may be missing.",
    advice="Check that this is the port that was meant; raise --timeout for a slow network; for PostgreSQL add "
    "--starttls postgres, for mail --starttls smtp.",
)
ANY_CERTIFICATE = define(
    "VST2489",
    "endpoint-believes-any-client-certificate",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The endpoint let in a caller whose certificate the scan had signed itself a moment before: it asks for "
    "certificates, and does not verify them.",
    advice="Name the authorities that callers' certificates must come from (nginx: ssl_client_certificate with "
    "ssl_verify_client on, never optional_no_ca).",
)
