"""Error codes of the compiler, and of the answers that proxies give by themselves."""

from vestibule.errors import Fault, Kind, define

UNKNOWN_INSTANCE = define(
    "VST3000",
    "unknown-instance",
    Kind.NOT_FOUND,
    Fault.OPERATOR,
    meaning="There is nothing to compile for a proxy, because its instance is not registered.",
    advice="Start the service with `vestibule sidecar`, which registers it.",
)
PATH_NOT_NORMAL = define(
    "VST3001",
    "path-not-normal",
    Kind.DENIED,
    Fault.CALLER,
    meaning="The request's path could mean one thing to the proxy and another to the app: it has an empty or "
    "dot segment, a ';', a backslash, an escaped slash or a character that no URL holds. Such paths are refused "
    "before any rule is looked at.",
    advice="Send the path in its normal form: /a/b, not /a//b, /a/../b, /a;x/b or /a%2Fb.",
)
UNKNOWN_DESTINATION = define(
    "VST3002",
    "unknown-destination",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="The sidecar was asked for a host that is no service of the mesh.",
    advice="Use the name of a service in the intent, such as http://payments/; `vestibule validate` lists them.",
)
TUNNEL_REFUSED = define(
    "VST3003",
    "tunnel-refused",
    Kind.UNIMPLEMENTED,
    Fault.CALLER,
    meaning="The sidecar was asked for a tunnel (CONNECT), as HTTP clients do for https:// URLs and gRPC clients "
    "do for any. A tunnel would hide the calls from policy.",
    advice="Call http://NAME/ (the sidecars encrypt), or use the dedicated port in VESTIBULE_UPSTREAM_NAME.",
)
NOT_HTTP = define(
    "VST3004",
    "destination-not-http",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The sidecar was asked by HTTP for a service that has only TCP ports.",
    advice="Connect to the dedicated port in VESTIBULE_UPSTREAM_NAME.",
)
CALLEE_UNREACHABLE = define(
    "VST3010",
    "callee-unreachable",
    Kind.UNAVAILABLE,
    Fault.PEER,
    meaning="The caller's sidecar could not reach the callee's, or they did not accept each other's identity.",
    advice="Look for the request id in the access log: its flags and transport failure name the cause.",
)
NO_INSTANCE = define(
    "VST3011",
    "no-instance",
    Kind.UNAVAILABLE,
    Fault.PEER,
    meaning="The called service has no running instance.",
    advice="Start it, or look in `vestibule status` for why it is not registered.",
)
CALL_TIMEOUT = define(
    "VST3012",
    "call-timeout",
    Kind.UNAVAILABLE,
    Fault.PEER,
    meaning="The called service did not answer within the timeout of the intent.",
    advice="Look at the callee's own duration for the request id; raise `defaults.timeout` if it is right.",
)
APP_UNREACHABLE = define(
    "VST3013",
    "app-unreachable",
    Kind.UNAVAILABLE,
    Fault.PEER,
    meaning="The callee's sidecar accepted the call and could not reach the app beside it.",
    advice="Check that the app runs, listens on the port it was given and speaks the port's protocol.",
)
POLICY_NOT_LOADED = define(
    "VST3014",
    "policy-not-loaded",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="A sidecar has no policy for a port yet, or its policy was withdrawn; it refuses every call.",
    advice="See in `vestibule status` whether the proxy is in sync with its server.",
)
PROXY_REFUSED = define(
    "VST3015",
    "proxy-refused",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A sidecar refused a request that breaks HTTP, or a limit of the proxy.",
    advice="Look for the request id in the access log: its details name the reason.",
)
OUTSIDE_UNREACHABLE = define(
    "VST3030",
    "outside-host-unreachable",
    Kind.UNAVAILABLE,
    Fault.PEER,
    meaning="The caller's sidecar could not connect to a host outside, or lost the connection before an answer.",
    advice="Look for the request id in the access log: flags and transport failure name the cause.  Check routes and "
    "firewalls from the caller's machine.",
)
OUTSIDE_UNRESOLVED = define(
    "VST3031",
    "outside-host-without-address",
    Kind.UNAVAILABLE,
    Fault.PEER,
    meaning="There is no address to dial for a host outside: DNS gave none for its name, or every one it gave "
    "failed so often that it is left out for a while.",
    advice="Resolve the name on the caller's machine; correct `hosts` in egress/NAME.yaml, or write `addresses`.",
)
OUTSIDE_NOT_TRUSTED = define(
    "VST3032",
    "outside-host-not-trusted",
    Kind.UNAUTHENTICATED,
    Fault.PEER,
    meaning="A host outside showed a certificate that is not accepted: of an unknown authority, for another name, or "
    "expired.  Nothing was sent to it.",
    advice="The transport failure in the access log says which.  For a private authority, name its certificate under "
    "`tls: {ca: FILE}` in egress/NAME.yaml.",
)
CREDENTIAL_MISSING = define(
    "VST3033",
    "outside-credential-missing",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="Calls to a host outside carry a credential that the sidecar adds, and it has none: its file is missing on "
    "this machine, cannot be read by the sidecar's user, or is no single line.  Calls without it are not made.",
    advice="The sidecar's log names the file and what is wrong; no restart is needed once it is mended.",
)
OUTSIDE_UNVERIFIABLE = define(
    "VST3036",
    "outside-host-unverifiable",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="A host outside is to be verified by the public authorities of the caller's machine, and its sidecar has "
    "found none there.  Nothing was sent.",
    advice="The sidecar's log says where it looked; install the package ca-certificates, or name a bundle with "
    "`vestibule sidecar --ca-bundle FILE`.",
)
NO_GATEWAY_ROUTE = define(
    "VST3034",
    "no-gateway-route",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="A gateway was asked for a host or path that none of its routes matches.",
    advice="Check the address; routes stand in gateways/NAME.yaml.",
)
ISSUER_WITHOUT_KEYS = define(
    "VST6142",
    "issuer-without-keys",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="A gateway's route asks for a token of an issuer whose keys are not known, so that none can be verified: "
    "they are published at a URL that could not be fetched yet, or not for too long.",
    advice="`vestibule status` says why the keys cannot be fetched; the log of the server has each attempt.",
)
GATEWAY_NOT_ALLOWED = define(
    "VST3035",
    "gateway-not-allowed",
    Kind.DENIED,
    Fault.OPERATOR,
    meaning="A route of a gateway leads to a service that does not allow the gateway to call it.",
    advice="Write a rule with `from: [GATEWAY]` in the service's file, or remove the route.",
)
RATE_LIMITED = define(
    "VST3016",
    "rate-limited",
    Kind.EXHAUSTED,
    Fault.CALLER,
    meaning="The called instance takes no more requests for now: a rate limit of its service is used up, in all or by "
    "this caller. The header x-vestibule-limit names the limit: payments/limits/1 is the first in payments.yaml.",
    advice="Call less often, or try again after the seconds in the header retry-after; or have the limit raised.",
)
TOO_MANY_CALLS = define(
    "VST3017",
    "too-many-calls",
    Kind.EXHAUSTED,
    Fault.CALLER,
    meaning="The caller's sidecar has as many connections, waiting or unfinished requests to the called service as "
    "its circuit_limits allow, so that this one failed at once.",
    advice="See whether the called service is slow; raise its circuit_limits if it can take more.",
)
FAULT_INJECTED = define(
    "VST3018",
    "fault-injected",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The call failed on purpose: the intent injects faults into this route, until the time that it says there.",
    advice="Nothing is broken. Take the fault out of the route, or wait until it ends by itself.",
)
PLAINTEXT_ENDED = define(
    "VST3019",
    "plaintext-ended",
    Kind.DENIED,
    Fault.CALLER,
    meaning="The called service accepted calls in plain text only until a date, which has passed.",
    advice="Call through a sidecar, which brings an identity; or have permissive_until moved.",
)
CALLER_REVOKED = define(
    "VST3020",
    "caller-revoked",
    Kind.DENIED,
    Fault.OPERATOR,
    meaning="The caller showed a certificate that was revoked, by itself or with its identity, with the agent that it "
    "came through, or with an authority above it. Such calls are refused before any rule is looked at.",
    advice="`vestibule revoke list` on the server says what was revoked, by whom and why; the callee's access log has "
    "the caller's identity and serial number. A caller that was revoked with --allow-new has a new certificate "
    "within seconds; one that was revoked for good stays so until `vestibule revoke lift`.",
)
TOKEN_REVOKED = define(
    "VST6100",
    "token-revoked",
    Kind.DENIED,
    Fault.CALLER,
    meaning="The call carries a token of the mesh's own token service that was revoked: by itself or with the token it "
    "was got for, with its client or anybody in its chain of actors, with its subject, or with the key that signed it. "
    "Such calls are refused before any rule is looked at.",
    advice="Get a new token from the token service. If it refuses, whoever revoked the client or subject says why: "
    "`vestibule audit list --action token.revoke` on the server.",
)
TOKEN_UNASKED = define(
    "VST6101",
    "token-unasked",
    Kind.DENIED,
    Fault.CALLER,
    meaning="The call carries an Authorization header, and the called port takes none (`authorization: refuse`): no "
    "rule of it asks for a token, so nobody would look at it, and the app is not to have it.",
    advice="Call without the header. A token for another service is that service's only: send it nowhere else.",
)
TOKEN_NOT_SENT = define(
    "VST6102",
    "token-not-sent",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The caller's sidecar is to send a token of the mesh's own token service along with calls to this service "
    "(`inject: true` in a rule), and has none: the token service cannot be reached, or does not give it one.",
    advice="The sidecar's log says why it got none (VST6103). Who may have which token is said in tokens/*.yaml: the "
    "caller needs a rule with `may: [mint]` for the audience and scopes that the called service demands.",
)
NOT_MCP = define(
    "VST3021",
    "not-mcp",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The port speaks MCP, and the request is no message of MCP: not POST with JSON-RPC 2.0, nor GET of a "
    "stream of events, nor DELETE of a session. Batches and messages that are not sound JSON are none, either.",
    advice="Send one JSON-RPC message by POST, with content-type application/json and an accept header that has "
    "application/json and text/event-stream.",
)
MCP_AMBIGUOUS = define(
    "VST3022",
    "mcp-ambiguous",
    Kind.DENIED,
    Fault.CALLER,
    meaning="The MCP message could mean one thing to the proxy and another to the server: a key comes twice, or in "
    "other letters (Name beside name), a request has a result, the body is encoded, or its JSON is not strict.",
    advice="Send strict JSON with each key once, as the specification of MCP spells it, and no content-encoding.",
)
MCP_TOO_LARGE = define(
    "VST3023",
    "mcp-too-large",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The MCP message has more than a mebibyte, which is as much as a proxy reads before it decides.",
    advice="Hand large data over by a resource's URI, or by a port of another protocol.",
)
MCP_UNKNOWN_METHOD = define(
    "VST3024",
    "mcp-unknown-method",
    Kind.DENIED,
    Fault.CALLER,
    meaning="Neither MCP nor a rule of the called port knows the method of the message.",
    advice="If the server has a method of its own, ask its owner for a rule that names it under `mcp_methods`.",
)
MCP_TARGET_NOT_NORMAL = define(
    "VST3025",
    "mcp-target-not-normal",
    Kind.DENIED,
    Fault.CALLER,
    meaning="The message names no tool, prompt or resource, or one that could be read in two ways: a URI with a dot "
    "segment, a backslash, a needless or dangerous percent-escape or a scheme in capitals, or a name with control "
    "characters.",
    advice="Name it as the server lists it; write URIs in their normal form, such as file:///docs/a.txt.",
)
