"""Error codes of keys, certificates and trust bundles."""

from vestibule.errors import Fault, Kind, define

MALFORMED_CSR = define(
    "VST1000",
    "malformed-csr",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The bytes are not a DER-encoded PKCS #10 certificate signing request.",
    advice="Send the request in DER (not PEM), as made by a current X.509 library.",
)
CSR_SIGNATURE = define(
    "VST1001",
    "csr-signature-invalid",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The signature of a certificate signing request does not prove possession of its key.",
    advice="Sign the request with the private key that belongs to the public key in it, using SHA-256 or stronger.",
)
CSR_NAMES = define(
    "VST1002",
    "csr-names-invalid",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A certificate signing request asks for names that no SVID may carry: more than one URI, or a URI "
    "that is not a SPIFFE ID.",
    advice="Put exactly one spiffe:// URI into the request, or none: the identity comes from the registration entry.",
)
UNSUPPORTED_KEY = define(
    "VST1003",
    "unsupported-key",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The key is of a type or size that Vestibule does not certify.",
    advice="Use an EC key on P-256 (best) or P-384, or RSA with 2048 to 4096 bits and the exponent 65537.",
)
SIGNER_SPENT = define(
    "VST1004",
    "signer-spent",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The signing authority has expired, so nothing that it signs could be valid.",
    advice="Let the server prepare and activate the next authority; check that its clock is right.",
)
MALFORMED_CERTIFICATE = define(
    "VST1005",
    "malformed-certificate",
    Kind.INVALID,
    Fault.PEER,
    meaning="The bytes are not a DER-encoded X.509 certificate.",
    advice="Check what the other side sends: each certificate in DER, the leaf first.",
)
NOT_AN_SVID = define(
    "VST1006",
    "not-an-x509-svid",
    Kind.UNAUTHENTICATED,
    Fault.PEER,
    meaning="A certificate breaks the X509-SVID profile (X509-SVID.md, sections 2 to 5).",
    advice="Ask whoever issued it for a leaf with one spiffe:// URI with a path, CA false, and key usage "
    "digitalSignature without keyCertSign and cRLSign.",
)
UNTRUSTED_CHAIN = define(
    "VST1007",
    "untrusted-chain",
    Kind.UNAUTHENTICATED,
    Fault.PEER,
    meaning="A certificate chain does not lead to an authority of its own trust domain, or is not valid now.",
    advice="Check that both sides have the current trust bundle, that the certificate has not expired and that "
    "both clocks are right.",
)
WRONG_TRUST_DOMAIN = define(
    "VST1008",
    "wrong-trust-domain",
    Kind.UNAUTHENTICATED,
    Fault.PEER,
    meaning="A certificate names another trust domain than the one whose bundle it is checked against.",
    advice="Present an identity of the expected trust domain, or federate with the other one.",
)
MALFORMED_BUNDLE = define(
    "VST1009",
    "malformed-bundle",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A trust bundle document can not be read (SPIFFE_Trust_Domain_and_Bundle.md, section 4).",
    advice="Give a JWK Set with a `keys` list whose x509-svid keys have one certificate in `x5c`, or PEM certificates.",
)
MALFORMED_KEY = define(
    "VST1010",
    "malformed-private-key",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="The bytes are not an unencrypted PKCS #8 private key of a supported type.",
    advice="Restore the key file from a backup, or delete it so that a new key is made.",
)
INVALID_REQUEST = define(
    "VST1011",
    "certificate-request-invalid",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A certificate was asked for that the profile does not allow: a DNS name that is none, an identity "
    "without a path or of a foreign trust domain, or a lifetime under one second.",
    advice="Correct the registration entry: DNS names in ASCII, an identity of this trust domain, a TTL of seconds.",
)
NOT_A_JWT_SVID = define(
    "VST1012",
    "not-a-jwt-svid",
    Kind.UNAUTHENTICATED,
    Fault.PEER,
    meaning="A token breaks the JWT-SVID profile (JWT-SVID.md, sections 2 and 3): its form, a header that is not "
    "allowed, or a claim that is missing or malformed.",
    advice="Ask whoever issued it for a JWT-SVID: JWS compact; a header of alg, kid and typ only; claims sub (a SPIFFE "
    "ID), aud and exp.",
)
JWT_NOT_TRUSTED = define(
    "VST1013",
    "jwt-svid-not-trusted",
    Kind.UNAUTHENTICATED,
    Fault.PEER,
    meaning="A JWT-SVID is not signed by a key of its own trust domain's bundle.",
    advice="Check that the token is of the trust domain that is expected, and that the verifier's trust bundle is "
    "current.",
)
JWT_NOT_FOR_US = define(
    "VST1014",
    "jwt-svid-of-another-audience",
    Kind.UNAUTHENTICATED,
    Fault.PEER,
    meaning="A JWT-SVID was issued for other audiences than the one that it is shown to.",
    advice="Let the caller fetch a token for this audience; a token for somebody else is never accepted.",
)
JWT_NOT_VALID_NOW = define(
    "VST1015",
    "jwt-svid-not-valid-now",
    Kind.UNAUTHENTICATED,
    Fault.PEER,
    meaning="A JWT-SVID has expired, or is not valid yet.",
    advice="Let the caller fetch a new token for every use; if it did, compare both clocks.",
)
INVALID_JWT_REQUEST = define(
    "VST1016",
    "jwt-svid-request-invalid",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A JWT-SVID was asked for without an audience, or with an empty or far too long one.",
    advice="Name at least one audience: the service that the token will be shown to.",
)
CRL_REFUSED = define(
    "VST1017",
    "revocation-list-request-invalid",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A certificate revocation list was asked for that RFC 5280 does not allow: an issuer that may not sign "
    "lists, a number or serial out of range, an unknown reason, or a next update that is not later.",
    advice="Use a signing certificate with key usage cRLSign, a growing number and one of RFC 5280's reasons.",
)
MALFORMED_CRL = define(
    "VST1018",
    "malformed-revocation-list",
    Kind.INVALID,
    Fault.PEER,
    meaning="The bytes are not a DER-encoded X.509 certificate revocation list with a number and a next update.",
    advice="Fetch the list again from where its issuer publishes it.",
)
CRL_NOT_TRUSTED = define(
    "VST1019",
    "revocation-list-not-trusted",
    Kind.UNAUTHENTICATED,
    Fault.PEER,
    meaning="A certificate revocation list is not signed by the authority whose certificates it takes back.",
    advice="Check that the list and the authority's certificate belong together; never use such a list.",
)
REVOKED = define(
    "VST1020",
    "revoked",
    Kind.UNAUTHENTICATED,
    Fault.PEER,
    meaning="A certificate or token would be valid, but it, its identity, its signer or the agent that fetched it was "
    "revoked.",
    advice="Ask the operator of the trust domain why (vestibule revoke list); never use it again.",
)
TRANSCRIPT_REFUSED = define(
    "VST1030",
    "transcript-refused",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The transcript of a ceremony is not whole: a step was changed, removed, inserted or cut off, or was "
    "signed by a key that has no part in the ceremony.",
    advice="Compare it with the copies of the witnesses; trust nothing that only this transcript vouches for.",
)
REQUEST_REFUSED = define(
    "VST1031",
    "authority-request-refused",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="An offline root does not sign a request: it breaks the root's policy, is for another trust domain, or its "
    "name or key was signed before.",
    advice="Correct what the message names, make a new request, and sign that.",
)
MALFORMED_PEM = define(
    "VST1032",
    "malformed-pem-file",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A file does not hold the PEM block that is needed: a certificate, or a certificate request.",
    advice="Give the file that the step before has written, as it is.",
)
WRONG_PASSPHRASE = define(
    "VST1033",
    "wrong-passphrase",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="An encrypted private key does not open with the passphrase, or the file was changed.",
    advice="Try the passphrase from its sealed copy; restore the key file from its backup.",
)
WEAK_PASSPHRASE = define(
    "VST1034",
    "weak-passphrase",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The passphrase for a root's key is too short to protect it from whoever gets the file.",
    advice="Take at least 14 characters, better six words drawn by dice, and keep a copy in a sealed envelope.",
)
NOT_A_WIT_SVID = define(
    "VST1021",
    "not-a-wit-svid",
    Kind.INVALID,
    Fault.PEER,
    meaning="A token is not a WIT-SVID: a part of it is missing, malformed or not allowed (WIT-SVID.md).",
    advice="Look at the message; whoever made the token has to mend it.  A token for an audience is a JWT-SVID.",
)
