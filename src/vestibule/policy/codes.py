"""Error codes of authorization."""

from vestibule.errors import Fault, Kind, define

CALL_DENIED = define(
    "VST4001",
    "call-denied",
    Kind.DENIED,
    Fault.OPERATOR,
    meaning="No rule of the called service allows this caller to make this call.",
    advice="If the call should be allowed, ask the owner of the called service for a rule under `allow` in "
    "its intent file.",
)
MALFORMED_PATH_PATTERN = define(
    "VST4010",
    "malformed-path-pattern",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="A path in a rule can never be the path of a request, or uses a wildcard that is not offered.",
    advice="Write an absolute path as it is after normalisation: /v1/charges, /v1/{id}/lines, or /v1/** for "
    "/v1 and everything below it.",
)
MALFORMED_IDENTITY_PATTERN = define(
    "VST4011",
    "malformed-identity-pattern",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="A wildcard in a SPIFFE ID stands elsewhere than in a trailing /**.",
    advice="Write spiffe://TRUST-DOMAIN/path for one identity, or spiffe://TRUST-DOMAIN/path/** for it and "
    "everything below it.",
)
TOO_MANY_IN_A_ROW = define(
    "VST4050",
    "too-many-rules-in-a-row",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="Rules that no index can tell apart would have to be asked one after the other about one call: paths "
    "such as /{tenant}/a, which begin alike, or conditions about the same callers in the same place.  That would "
    "make every call slower with every rule.",
    advice="Let the paths begin with different fixed segments (/v1/orders/{id}, not /{kind}/{id}), name paths or "
    "callers in the rules, or write one rule with one condition instead of many.",
)
POLICY_TOO_LARGE = define(
    "VST4052",
    "policy-too-large",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="The rules of a port, compiled for its proxies, are larger than what is sent to them.  What callers "
    "are is worked out when rules are compiled: where many rules compare labels of the caller with something that "
    "only the request tells, there is something else to ask for every caller.",
    advice="Compare labels with fixed values or the service's own labels, name callers or roles in the rules, or say "
    "decide: central.",
)
MALFORMED_CONDITION = define(
    "VST4040",
    "malformed-condition",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="A condition is no expression in CEL, or is longer or nested deeper than one that people can check.",
    advice="Write one expression that is true or false, such as: request.method == 'GET' && "
    "caller.labels.team == 'pay'",
)
UNKNOWN_CONDITION_NAME = define(
    "VST4041",
    "unknown-condition-name",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="A condition speaks of what nobody knows about a call, or of a token that its rule does not demand.",
    advice="Use the names that docs/authorization.md lists; token.* needs `token` in the same "
    "rule, mcp.* a port of MCP.",
)
CONDITION_TYPE = define(
    "VST4042",
    "condition-type",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="A condition compares or combines values of types that do not fit, or is neither true nor false.",
    advice="Compare values of one type: texts in quotes, numbers without; headers and labels are texts.",
)
CONDITION_NOT_OFFERED = define(
    "VST4043",
    "condition-not-offered",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="A condition uses a part of CEL that proxies do not evaluate, or evaluate in another way than the engine.",
    advice="Use comparisons, `in`, &&, ||, !, has(), startsWith, endsWith, contains, matches, size, timestamp and "
    "duration; functions of the time take a time zone.",
)
CONDITION_FAILED = define(
    "VST4044",
    "condition-failed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A condition could not be evaluated for a call: it asks for something that the call does not have, or that "
    "is of another type. A denial then denies, a permission does not permit.",
    advice="Ask whether it is there first: 'x-tenant' in request.headers && …, has(caller.labels.team) && …",
)
NO_CONDITIONS_HERE = define(
    "VST4045",
    "no-conditions-here",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="Conditions are checked and evaluated by cel-expr-python, which is not installed here.",
    advice="Install what server and agent need: pip install 'vestibule[all]'",
)
TOKEN_REFUSED = define(
    "VST4051",
    "token-refused",
    Kind.DENIED,
    Fault.CALLER,
    meaning="The call carries a bearer token that cannot be relied on: its signature is not by a key of its issuer, it "
    "has expired or is not valid yet, lives longer than is accepted, is for another audience, or its issuer is none of "
    "those that the called service's rules speak of.",
    advice="Fetch a new token for this service's audience from the right issuer; the proxy's access log says what was "
    "wrong, in `details`.",
)
UNREADABLE_POLICY = define(
    "VST4130",
    "unreadable-policy",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="A decision service was sent a port's policy that it cannot read: it is damaged, or a later version's.  "
    "Calls to the port that need a decision are refused.",
    advice="Bring the agents to the server's version.",
)
NO_POLICY_HERE = define(
    "VST4131",
    "no-policy-here",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="A decision service was asked about a port whose policy it does not have.  The call was refused.",
    advice="For a sidecar: look whether its agent reaches the server (vestibule check).  For an Envoy of your own: "
    "its context_extensions must name a service and a port of the intent.",
)
UNREADABLE_CHECK = define(
    "VST4132",
    "unreadable-check",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="A decision service was asked about a call without being told what it needs to know: who calls, by a "
    "SPIFFE ID in a certificate that was verified, and which service and port are meant.  The call was refused.",
    advice="Let the asking Envoy require client certificates of the mesh, and follow docs/central-decisions.md.",
)
NO_DECISION = define(
    "VST4133",
    "no-decision",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="Calls of this kind are decided about by a decision service, and there was no decision: it is down, too "
    "slow, or did not answer as it should.  Nobody was let through, and nobody was denied by a rule.",
    advice="Look at the agent of the called service's node: vestibule check, and its log.",
)
BODY_TOO_LARGE = define(
    "VST4134",
    "body-too-large-to-judge",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A rule of the called service looks at the body of requests, and this one is longer than what is "
    "looked at.",
    advice="Send less at once.  Rules that look at bodies are for small ones; see docs/central-decisions.md.",
)
