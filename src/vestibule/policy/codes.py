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
