"""Error codes of the SPIFFE values."""

from vestibule.errors import Fault, Kind, define

MALFORMED_SPIFFE_ID = define(
    "VST1400",
    "malformed-spiffe-id",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A text that should be a SPIFFE ID or a trust domain name breaks the SPIFFE-ID standard.",
    advice="Write spiffe://TRUST-DOMAIN/path: lower-case trust domain ([a-z0-9._-]), segments of "
    "[A-Za-z0-9._-], no empty, '.' or '..' segment, no trailing slash, query or fragment.",
)
MALFORMED_SELECTOR = define(
    "VST1401",
    "malformed-selector",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A selector is not of the form TYPE:VALUE.",
    advice="Write the attestor's name, a colon and the value, for example unix:uid:1000.",
)
MALFORMED_SVID = define(
    "VST1402",
    "malformed-x509-svid",
    Kind.INVALID,
    Fault.PEER,
    meaning="A certificate breaks the X509-SVID profile.",
    advice="Ask whoever issued it for a certificate with exactly one URI SAN holding a SPIFFE ID.",
)
MALFORMED_REVOCATION = define(
    "VST1403",
    "malformed-revocation",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A revocation, or a list of them, does not say properly what is revoked.",
    advice="Name an identity by its SPIFFE ID, a certificate by its serial number (or as a PEM file), an agent by its "
    "SPIFFE ID, an authority by its ID.",
)
MALFORMED_TEMPLATE = define(
    "VST1404",
    "malformed-template",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A template of a path, a DNS name or a claim breaks the rules of templates.",
    advice="Write {TYPE:KEY} for the value of a selector TYPE:KEY:VALUE, at most one in a path segment, never in the "
    "first segment; in a DNS name a variable is a whole label.",
)
TEMPLATE_NOT_FILLED = define(
    "VST1405",
    "template-not-filled",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="A workload has no value, several values, or an unusable value for a variable of a template, so the "
    "template gives it nothing.",
    advice="Use a variable that every workload of the entry has exactly once; vestibule why --pid shows what was "
    "found.",
)
