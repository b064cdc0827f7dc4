"""Error codes of the intent language: files (000n), YAML (001n), shapes (002n–003n), meaning (004n–006n)."""

from typing import Final

from vestibule.errors import ErrorCode, Fault, Kind, define


def _intent(code: str, name: str, *, meaning: str, advice: str) -> ErrorCode:
    return define(code, name, Kind.INVALID, Fault.OPERATOR, meaning=meaning, advice=advice)


NO_INTENT = _intent(
    "VST0001",
    "no-intent",
    meaning="The directory does not exist, cannot be listed, or lacks a file that it must have.",
    advice="Give the directory that holds mesh.yaml and services/.",
)
UNREADABLE_FILE = _intent(
    "VST0002",
    "unreadable-intent-file",
    meaning="A file of the intent cannot be read, is no regular file, is too large, or is not UTF-8.",
    advice="Make it a readable UTF-8 text file of at most 1 MiB.",
)
STRAY_FILE = _intent(
    "VST0003",
    "stray-intent-file",
    meaning="A file or folder in the intent directory looks like intent but would not be read.",
    advice="Services belong in services/NAME.yaml, outside hosts in egress/NAME.yaml, gateways in gateways/NAME.yaml, "
    "rules for secrets in secrets/NAME.yaml, for tokens in tokens/NAME.yaml, the mesh in mesh.yaml, "
    "apps of `vestibule up` in up.yaml.",
)
FILE_NAME_MISMATCH = _intent(
    "VST0004",
    "intent-file-name-mismatch",
    meaning="A file or folder is not named after what it declares, so that who owns the file does not say who "
    "owns what is in it.",
    advice="Name it services/SERVICE.yaml, egress/EXTERNAL.yaml, gateways/GATEWAY.yaml, secrets/GROUP.yaml, "
    "tokens/GROUP.yaml or environments/ENVIRONMENT, or correct the name inside.",
)
TOO_MANY_PROBLEMS = _intent(
    "VST0005",
    "too-many-problems",
    meaning="A file has more problems than are worth listing.",
    advice="Mend those listed, then validate again.",
)
WHICH_ENVIRONMENT = _intent(
    "VST0006",
    "which-environment",
    meaning="An intent holds several environments and it is not said which one is meant, or one is meant that it "
    "does not hold.",
    advice="Say which one: the server's setting `environment`, or --environment.",
)
YAML_SYNTAX = _intent(
    "VST0010",
    "yaml-syntax",
    meaning="The text is not YAML.",
    advice="Indent with spaces, quote texts that hold ': ', ' #' or begin with one of @`%&*!|>[]{}.",
)
YAML_FEATURE = _intent(
    "VST0011",
    "yaml-feature-refused",
    meaning="Anchors, aliases, tags, directives, several documents in one file and keys that are not plain "
    "texts are not part of the language: a reviewer should see what is meant where it stands.",
    advice="Write the value out where it is needed.",
)
DUPLICATE_KEY = _intent(
    "VST0012",
    "duplicate-key",
    meaning="A key occurs twice in one mapping; YAML readers disagree on which of them counts.",
    advice="Keep one of the two.",
)
YAML_TOO_COMPLEX = _intent(
    "VST0013",
    "yaml-too-complex",
    meaning="A file nests deeper, or has more parts, than any intent needs.",
    advice="Keep to the documented keys; split what one file holds.",
)
INVISIBLE_CHARACTER = _intent(
    "VST0014",
    "invisible-character",
    meaning="A text holds control, formatting or private characters, which could show a reviewer something "
    "else than what is meant.",
    advice="Remove the character, or type the text again.",
)
UNKNOWN_KEY = _intent(
    "VST0020",
    "unknown-key",
    meaning="A key is not known at this place.",
    advice="Correct or remove the key.",
)
MISSING_KEY = _intent(
    "VST0021",
    "missing-key",
    meaning="A key that is required at this place is missing.",
    advice="Add the key.",
)
WRONG_TYPE = _intent(
    "VST0022",
    "wrong-type",
    meaning="A value is of another type than its key needs.",
    advice="Write a value of the type that is named.",
)
NOT_SUPPORTED = _intent(
    "VST0023",
    "not-supported-by-this-version",
    meaning="The intent language knows this, but this version of Vestibule does not act on it, and does not "
    "pretend to.",
    advice="Remove it, or use a version that supports it.",
)
MALFORMED_NAME = _intent(
    "VST0024",
    "malformed-name",
    meaning="A name cannot be used in host names, SPIFFE IDs, metrics and environment variables alike.",
    advice="Use 1 to 63 of a-z, 0-9 and '-', beginning with a letter, not ending with '-'.",
)
MALFORMED_VALUE = _intent(
    "VST0025",
    "malformed-value",
    meaning="A value has the right type, and a form or size that is not accepted.",
    advice="Write the value in the form that is named.",
)
DUPLICATE_ITEM = _intent(
    "VST0026",
    "duplicate-item",
    meaning="A list or a set of names holds the same thing twice.",
    advice="Remove one of the two.",
)
EXCLUSIVE_KEYS = _intent(
    "VST0027",
    "exclusive-keys",
    meaning="Two keys stand beside each other of which only one can hold.",
    advice="Keep one of the two.",
)
UNKNOWN_NAME = _intent(
    "VST0040",
    "unknown-name",
    meaning="A name refers to a service, role, port, scope or issuer that no file declares.",
    advice="Correct the name, or declare what it names.",
)
BAD_IDENTITY_TEMPLATE = _intent(
    "VST0041",
    "bad-identity-template",
    meaning="The identity template does not give every service a valid SPIFFE ID of its own.",
    advice="Write a path that holds {service}, such as /ns/{environment}/sa/{service}.",
)
RESERVED_IDENTITY = _intent(
    "VST0042",
    "reserved-identity",
    meaning="Identities under /spire and /vestibule belong to servers, agents and the platform's own services.",
    advice="Change the identity template or the name, so that the path begins otherwise.",
)
CALLER_OUT_OF_REACH = _intent(
    "VST0043",
    "caller-out-of-reach",
    meaning="A rule or role names identities that can never be callers here, or a whole trust domain at once.",
    advice="Name services, roles, or SPIFFE IDs of the mesh's own trust domain with at least one path segment.",
)
UNSAID_PORT = _intent(
    "VST0044",
    "unsaid-port",
    meaning="A rule does not say which port it is for, and the service does not have exactly one.",
    advice="Add port: to the rule.",
)
HTTP_ON_TCP = _intent(
    "VST0050",
    "http-field-on-tcp-port",
    meaning="A rule for a TCP port speaks of what only requests have: methods, paths, conditions or tokens.",
    advice="Keep to from, port and expires, or declare the port as http, http2 or grpc.",
)
GRPC_METHOD = _intent(
    "VST0051",
    "method-on-grpc-port",
    meaning="A rule for a gRPC port lists methods other than POST, the only one that gRPC uses.",
    advice="Remove methods; name RPCs by path, such as /shop.Payments/Charge or /shop.Payments/**.",
)
REDUNDANT = _intent(
    "VST0052",
    "redundant-match",
    meaning="Everything that a rule or path matches is matched by another one already, so that removing it "
    "would change nothing although it looks as if it would.",
    advice="Remove it, or narrow the other one.",
)
UNREACHABLE_ROUTE = _intent(
    "VST0053",
    "unreachable-route",
    meaning="A route is never used, because an earlier one matches every request that it matches: the first "
    "route that matches decides.",
    advice="Put it before the other one, narrow the other one, or remove it.",
)
NO_EFFECT = _intent(
    "VST0054",
    "key-without-effect",
    meaning="A key can have no effect beside what else is said there.",
    advice="Remove the key, or what keeps it from having an effect.",
)
WEIGHTS = _intent(
    "VST0055",
    "weights-not-a-hundred",
    meaning="The weights of a split do not add up to 100.",
    advice="Change the weights so that they add up to 100; a version may have 0.",
)
TRIES_EXCEED_TIMEOUT = _intent(
    "VST0056",
    "tries-exceed-timeout",
    meaning="The tries of a call cannot all take place: together they may take longer than the call's timeout.",
    advice="Lower attempts or per_try, or raise the timeout.",
)
REDIRECT_LEADS_BACK = _intent(
    "VST0057",
    "redirect-leads-back",
    meaning="A redirect sends callers to an address that is redirected by the same route again.",
    advice="Redirect to a path, host or scheme that the route does not match.",
)
CHECK_TOO_SLOW = _intent(
    "VST0058",
    "check-overtaken",
    meaning="A health check may take longer than the time until the next one begins.",
    advice="Lower timeout, or raise every.",
)
CHECK_ON_OTHER_PORT = _intent(
    "VST0059",
    "check-on-unfitting-port",
    meaning="A health check asks for something that the port it goes to does not speak.",
    advice="Name a port that speaks it, or check otherwise: http, grpc, or tcp: true for any port.",
)
NOBODY_ALLOWED = _intent(
    "VST0060",
    "nobody-allowed",
    meaning="A service has ports and no rules: every call to it is denied.",
    advice="Write rules under allow, or `allow: []` if nobody should call it.",
)
RETRIED_UNSAFELY = _intent(
    "VST0061",
    "unsafe-retry",
    meaning="Requests that may change something, such as POST, are tried again after outcomes that do not tell "
    "whether the first try was carried out: it may be carried out twice.",
    advice="Retry only on connect-failure, refused-stream and reset-before-request, or only on a route whose "
    "methods are safe to repeat (GET, HEAD, OPTIONS, PUT, DELETE).",
)
UNFITTING_PORT = _intent(
    "VST0067",
    "mcp-key-on-other-port",
    meaning="A rule speaks of tools, resources, prompts or methods of MCP, and its port speaks something else.",
    advice="Remove them, or declare the port's protocol as mcp.",
)
NOT_KEYS = _intent(
    "VST0068",
    "no-key-set",
    meaning="A file that should hold an issuer's public keys as a JWK set (RFC 7517) holds something else, or keys "
    "that tokens are not verified with.",
    advice="Put there what the issuer's jwks_uri answers: keys of EC (P-256, P-384, P-521), RSA of at least 2048 bits, "
    "or Ed25519.",
)
ROLE_CYCLE = _intent(
    "VST0069",
    "role-cycle",
    meaning="A role holds itself, by way of the roles that it holds.",
    advice="Take one of these roles out of the other.",
)
ANYONE_UNEXPLAINED = _intent(
    "VST0070",
    "anyone-unexplained",
    meaning="A rule allows a call to everybody who has an identity, and does not say why, or not until when.",
    advice="Add reason: and expires:, or name the callers.",
)
DENIED_WHOLE = _intent(
    "VST0071",
    "rule-denied-whole",
    meaning="Everything that a rule allows is denied by another one: it allows nothing, although it looks as if it "
    "did.",
    advice="Remove it, or narrow what denies it.",
)
OVER_BROAD = _intent(
    "VST0072",
    "over-broad-rule",
    meaning="A rule lets everybody of the mesh, or more, make every call to a port, also those that change something.",
    advice="Name the callers, or add methods: and paths: for what they need; `vestibule policy suggest` tells what was "
    "called.",
)
NAMES_NOBODY = _intent(
    "VST0073",
    "names-nobody",
    meaning="A rule or role names an identity that would be a service's, and there is no such service; or all "
    "memberships that a rule counts on have ended.",
    advice="Correct the name, declare the service, or remove the rule.",
)
ROLE_UNUSED = _intent(
    "VST0074",
    "role-unused",
    meaning="No rule and no role in use speaks of a role.",
    advice="Remove it, or use it: from: ['role:NAME'].",
)
RULES_OVERLAP = _intent(
    "VST0075",
    "rules-overlap",
    meaning="Two rules allow some calls both, and neither allows all that the other does: taking one of them away does "
    "not take those calls away.",
    advice="That may be what is meant. Else let each call be allowed by one rule.",
)
DENIES_NOTHING = _intent(
    "VST0076",
    "denies-nothing",
    meaning="No rule allows any of what a rule denies. It only holds against what break-glass permits, and against "
    "rules that are written later.",
    advice="Keep it if that is what it is for; else remove it, or correct what it names.",
)
SHADOW_UNJUDGED = _intent(
    "VST0077",
    "shadow-unjudged",
    meaning="A rule in shadow mode needs a decision service, and its port is decided by the proxy alone. A rule that "
    "is tried out does not change who decides, so nothing judges it: access logs say nothing about shadow then.",
    advice="Try it with vestibule policy test, or say decide: central in mesh.yaml while it is in shadow mode.",
)
EXPIRED = _intent(
    "VST0066",
    "expired",
    meaning="Something holds until an instant that has passed: it is as if it were not there.",
    advice="Remove it, or say a later time.",
)
CREDENTIAL_IN_PLAIN_TEXT = _intent(
    "VST0062",
    "credential-in-plain-text",
    meaning="A credential would be sent to an outside host without TLS, where everybody on the way can read it.",
    advice="Speak TLS to the host (tls: webpki, or tls: {ca: certs/ca.pem}), or remove the credential.",
)
NOT_CERTIFICATES = _intent(
    "VST0063",
    "no-certificates",
    meaning="A file that should hold certificates holds something else, or a private key beside them.",
    advice="Put certificates in PEM form there, -----BEGIN CERTIFICATE----- and so on, and nothing else.",
)
KEY_ADVICE: Final = "Remove the key from the intent, consider it known, and keep only what is public there."
NEVER_ALLOWED = _intent(
    "VST0064",
    "never-allowed",
    meaning="Requests are sent to a service none of whose rules allows the one who sends them: all are denied.",
    advice="Write a rule in the file of the service that is called.",
)
NAME_TAKEN = _intent(
    "VST0065",
    "name-taken",
    meaning="A service, an external and a gateway share one space of names, since callers use them as host names "
    "and identities are made of them; two files declare the same name.",
    advice="Rename one of the two.",
)
BUILT_IN_NAME = _intent(
    "VST0078",
    "built-in-name",
    meaning="A service, an external or a gateway has the name of a service of the platform's own, which every app "
    "reaches by it: `secrets` is the secret manager.",
    advice="Choose another name.",
)
SECRET_PATH = _intent(
    "VST0080",
    "secret-path-refused",
    meaning="A rule for secrets names a path that is in none of the mounts that rules speak of, or is not written as "
    "such paths are.",
    advice="Write it as secret/payments/db, secret/payments/**, database/creds/payments or transit/encrypt/cards.",
)
SECRETS_OVER_BROAD = _intent(
    "VST0081",
    "over-broad-secret-rule",
    meaning="A rule lets everybody of the mesh, or more, at secrets; or somebody change everything in a mount.",
    advice="Name the callers, and only the paths and verbs that they need.",
)
TOKENS_OVER_BROAD = _intent(
    "VST0083",
    "over-broad-token-rule",
    meaning="A rule lets everybody of the mesh, or more, come by tokens: any service that is broken into has them.",
    advice="Name the callers that need such a token.",
)
TOKEN_UNOBTAINABLE = _intent(
    "VST0084",
    "token-unobtainable",
    meaning="A rule for calls demands a token of the mesh's own token service that nobody can come by who may make the "
    "call: no group of tokens has the audience or the scope, or no rule gives it to any of the callers.",
    advice="Write the rule that gives the token in tokens/, or correct what is demanded.",
)
TOKENS_OF_NOBODY = _intent(
    "VST0085",
    "tokens-for-nobody",
    meaning="Nobody may ask the token service what tokens of a group say, since it does not say for whom they are, "
    "and no service has its name. Whoever verifies them by their signature can do so all the same.",
    advice="Add for: and the services that the tokens are made for.",
)
SECRET_PATH_UNASKED = _intent(
    "VST0082",
    "secret-path-unasked",
    meaning="A rule for secrets names a path that no request asks for, since the mount has nothing of that name.",
    advice="Correct the path: database/creds/ROLE, transit/encrypt/KEY and the like.",
)
