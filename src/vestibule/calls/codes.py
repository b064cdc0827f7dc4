"""Error codes of calls to other components."""

from vestibule.errors import Fault, Kind, define

BANNED = define(
    "VST2330",
    "server-says-banned",
    Kind.DENIED,
    Fault.OPERATOR,
    meaning="The server says that this agent was banned by an operator.",
    advice="If the ban was a mistake, evict the agent on the server (vestibule agent evict) and start this one with a "
    "new join token.",
)
MUST_ATTEST = define(
    "VST2331",
    "server-wants-attestation",
    Kind.UNAUTHENTICATED,
    Fault.PEER,
    meaning="The server does not accept the agent's certificate any more: it is expired, replaced, or of an agent that "
    "was evicted.",
    advice="Nothing, where the agent can attest again by itself; else start it with a new join token.",
)
NOT_LET_BACK = define(
    "VST2334",
    "server-refuses-return",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The agent's SVID has expired, and the server does not take its last key for a proof: it was away for "
    "longer than the server's --return-grace, was evicted, or is a copy of an agent that went on without it.",
    advice="Make a join token on the server (vestibule token generate, with the machine's name for its entries) and "
    "put it into the file of --join-token-file; a running agent reads the file again by itself.",
)
OTHER_TRUST_DOMAIN = define(
    "VST2333",
    "server-of-another-trust-domain",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The server that the agent was told to join serves another trust domain than the agent was told.",
    advice="Give the agent the --trust-domain that the server prints at start, or the address of its own server.",
)
BAD_ANSWER = define(
    "VST2332",
    "server-answer-refused",
    Kind.UNAVAILABLE,
    Fault.PEER,
    meaning="The server's answer breaks its own API, for example an SVID for another key or identity than was asked.",
    advice="Check that agent and server are of the same version; if so, report it with the server's log.",
)
BUNDLE_ENDPOINT_REFUSED = define(
    "VST2350",
    "bundle-endpoint-not-trusted",
    Kind.UNAVAILABLE,
    Fault.PEER,
    meaning="Whoever answers at the URL of a bundle endpoint does not prove the SPIFFE ID that the relationship names.",
    advice="Compare the endpoint's SPIFFE ID and URL with what the other side says.  If its bundle that is kept here "
    "has run out, get the current one over a way that you trust and set it (vestibule bundle set).",
)
BUNDLE_ENDPOINT_ANSWER = define(
    "VST2351",
    "bundle-endpoint-answer-refused",
    Kind.UNAVAILABLE,
    Fault.PEER,
    meaning="A bundle endpoint answers with something that is not a SPIFFE bundle.",
    advice="Fetch the URL by hand and look at the answer; tell the other side's operators.",
)
BUNDLE_ENDPOINT_REDIRECT = define(
    "VST2352",
    "bundle-endpoint-redirect-refused",
    Kind.UNAVAILABLE,
    Fault.PEER,
    meaning="A bundle endpoint redirects to where it must not: to a URL that is no endpoint's, or again and again.",
    advice="If the endpoint has moved, change its URL (vestibule federation update).  Otherwise tell the other side's "
    "operators.",
)
KEY_SET_PLACE = define(
    "VST6140",
    "issuer-keys-place-refused",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The URL at which an outside issuer publishes its keys is not one that the server asks: it is malformed, "
    "or names this machine or plain text without `issuers_permit_local`.",
    advice="Give the issuer's `jwks_uri`, with https, in mesh.yaml.  A provider on this machine, for trying out, needs "
    "the server's --issuers-permit-local.",
)
KEY_SET_ANSWER = define(
    "VST6141",
    "issuer-keys-answer-refused",
    Kind.UNAVAILABLE,
    Fault.PEER,
    meaning="At the URL of an outside issuer's keys there is no key set: another status than 200, a redirect, a page, "
    "or JSON without any public key of a kind that is used here.",
    advice="Fetch the URL by hand and compare it with `jwks_uri` in the issuer's discovery document "
    "(/.well-known/openid-configuration).  Until it is mended the keys that were fetched last count.",
)
