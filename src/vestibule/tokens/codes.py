"""Error codes of the token service, each with the word that RFC 6749 (section 5.2) and its kin have for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from vestibule.errors import ErrorCode, Fault, Kind, VestibuleError, define

# ------------------------------------------------------------------------------------- what is wrong with a token

UNREADABLE_TOKEN = define(
    "VST6000",
    "unreadable-oauth-token",
    Kind.INVALID,
    Fault.CALLER,
    meaning="What was given as a token is no JWT in compact form, is too long or too deeply nested, or says one thing "
    "twice.",
    advice="Give the token as it was received, whole.",
)
HEADER_REFUSED = define(
    "VST6001",
    "oauth-token-header-refused",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The token's header has an algorithm or a type that does not count here, asks for a key from elsewhere "
    "(jku, x5u, jwk, x5c), or has critical parameters.",
    advice="Access tokens of ours are at+jwt, signed with ES256; those of others are signed with a key that the intent "
    "names for their issuer.",
)
KEY_UNKNOWN = define(
    "VST6002",
    "oauth-token-key-unknown",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The token was signed with a key that its issuer does not have (any more).",
    advice="Get a new token.  Keys of an outside issuer are those that the intent names, or that its JWKS URL shows.",
)
SIGNATURE_WRONG = define(
    "VST6003",
    "oauth-token-signature-wrong",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The token's signature is not one of the key that it names: it was changed, or made by somebody else.",
    advice="Get a new token from the issuer, and find out where this one comes from.",
)
ISSUER_UNKNOWN = define(
    "VST6004",
    "oauth-token-issuer-unknown",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The token is of an issuer whose tokens are not taken here.",
    advice="Name the issuer under `issuers` in mesh.yaml, exactly as its tokens do; ours cannot be traded again.",
)
CLAIMS_UNFIT = define(
    "VST6005",
    "oauth-token-claims-unfit",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A claim of the token is missing, is of the wrong kind, or says what its issuer may not say.",
    advice="The message names the claim; the token's issuer has to mend it.",
)
NOT_VALID_NOW = define(
    "VST6006",
    "oauth-token-not-valid-now",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The token has ended, or has not begun.",
    advice="Get a new one.  If it is new, one of the clocks is wrong.",
)
REVOKED = define(
    "VST6007",
    "oauth-token-revoked",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The token was revoked: by itself, with its client, its subject, or the key that signed it.",
    advice="Get a new one; where that is refused, the audit log has who revoked what, and why.",
)
REPLAYED = define(
    "VST6008",
    "oauth-assertion-replayed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="An assertion that counts once was shown before.",
    advice="Make a new one for each request.  If it was not you who showed it, somebody has read it.",
)
AUDIENCE_WRONG = define(
    "VST6009",
    "oauth-token-audience-wrong",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The token of an outside issuer was made for somebody else, or for others, too.",
    advice="Its audience has to be the token service's issuer URL, or one that the intent names for the issuer, alone.",
)

# ------------------------------------------------------------------------------------------- what may not be had

TARGET_DENIED = define(
    "VST6010",
    "oauth-target-denied",
    Kind.DENIED,
    Fault.CALLER,
    meaning="No rule of the intent's `tokens/` lets the client have a token for this audience in this way, or a deny "
    "rule forbids it.",
    advice="Ask the owner of the audience for a rule; `vestibule explain` tells which rule decides.",
)
SCOPE_DENIED = define(
    "VST6011",
    "oauth-scope-denied",
    Kind.DENIED,
    Fault.CALLER,
    meaning="The client may have tokens for the audience, but not with this scope.",
    advice="Ask for fewer scopes, or the owner of the audience for a rule.",
)
TARGET_MISSING = define(
    "VST6012",
    "oauth-target-missing",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The request does not say whom the token is for.",
    advice="Send `audience` (or `resource`): what the group in the intent's `tokens/` is for.",
)
TARGET_MALFORMED = define(
    "VST6013",
    "oauth-target-malformed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="An audience is empty, too long or unprintable, a resource is no absolute URI without a fragment, or there "
    "are too many.",
    advice="Name audiences exactly as the intent does.",
)
SCOPE_MALFORMED = define(
    "VST6014",
    "oauth-scope-malformed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A scope has characters that RFC 6749 (section 3.3) does not allow, or there are too many.",
    advice="Separate scopes by single spaces.",
)
TYPE_UNSUPPORTED = define(
    "VST6015",
    "oauth-token-type-unsupported",
    Kind.INVALID,
    Fault.CALLER,
    meaning="Tokens of this type are neither taken nor given in exchange.",
    advice="Give an access token of ours (urn:ietf:params:oauth:token-type:access_token, or …:jwt), and ask for one.",
)
SCOPE_WIDENED = define(
    "VST6016",
    "oauth-scope-widened",
    Kind.DENIED,
    Fault.CALLER,
    meaning="More scopes were asked for than the given token has: in exchange they only get fewer.",
    advice="Ask for scopes of the given token.",
)
CHAIN_LOOPS = define(
    "VST6017",
    "oauth-chain-loops",
    Kind.DENIED,
    Fault.CALLER,
    meaning="Who asks is in the token's chain of actors already, or is its subject: the request went in a circle.",
    advice="Use the token that you had when the request came through first, or one of your own.",
)
CHAIN_TOO_LONG = define(
    "VST6018",
    "oauth-chain-too-long",
    Kind.DENIED,
    Fault.CALLER,
    meaning="The chain of actors would be longer than the audience's group allows (`depth`).",
    advice="Shorten the way that requests take, or let the owner of the audience allow more.",
)
NOT_THE_ACTOR = define(
    "VST6019",
    "oauth-not-the-actor",
    Kind.DENIED,
    Fault.CALLER,
    meaning="The token says who may act with it (`may_act`), and that is not who asks.",
    advice="Only the service that it names can give it in exchange.",
)
ACTOR_WRONG = define(
    "VST6020",
    "oauth-actor-token-wrong",
    Kind.DENIED,
    Fault.CALLER,
    meaning="The actor token is not one of the client's own: nobody acts for another than the connection shows.",
    advice="Leave `actor_token` out; the client's certificate says enough.",
)
NOT_BOUND = define(
    "VST6021",
    "oauth-client-has-no-certificate",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="Tokens for this audience are bound to the client's certificate, and it has shown none.",
    advice="Ask over mTLS with an X.509-SVID rather than with a JWT-SVID.",
)
ANOTHERS_TOKEN = define(
    "VST6022",
    "oauth-token-of-another-client",
    Kind.DENIED,
    Fault.CALLER,
    meaning="A client can revoke only tokens that were made for itself.",
    advice="Operators revoke any: `vestibule oauth revoke`.",
)
DETAILS_MALFORMED = define(
    "VST6023",
    "oauth-transaction-details-malformed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The context of a transaction token is no JSON object, or is too large.",
    advice="Send `request_context` and `request_details` as JSON objects of a few kilobytes at most.",
)

# ------------------------------------------------------------------------------------------------ keys, operators

NO_SIGNING_KEY = define(
    "VST6030",
    "oauth-no-signing-key",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="There is no key to sign tokens with: the secret manager, which keeps it, is sealed, or the database could "
    "not be read for too long.",
    advice="Unseal it: `vestibule secret unseal`; look at `vestibule check`.",
)
UNKNOWN_SIGNING_KEY = define(
    "VST6031",
    "oauth-unknown-signing-key",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="There is no signing key of tokens with this ID.",
    advice="`vestibule oauth keys` lists them.",
)
REVOCATION_MALFORMED = define(
    "VST6032",
    "oauth-revocation-malformed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="What is to be revoked is not named as it has to be: a token by its jti, a client by its SPIFFE ID, a "
    "subject by its name, a key by its ID.",
    advice="`vestibule oauth clients` and `vestibule oauth keys` list clients and keys; the audit log has all of them.",
)
TOO_MANY_REVOKED = define(
    "VST6033",
    "oauth-too-many-revoked",
    Kind.EXHAUSTED,
    Fault.OPERATOR,
    meaning="The list of revoked tokens is full.  Nothing more is revoked one by one; keys still can be.",
    advice="Revoke by client or by subject instead of single tokens, or revoke the signing key: every token ends.",
)
BUSY = define(
    "VST6034",
    "oauth-keys-busy",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="Another server changed the signing keys in the same moment, again and again.",
    advice="Try again.",
)

# --------------------------------------------------------------------------------------------- the words of RFC 6749

WORDS: Final[Mapping[ErrorCode, str]] = {
    TARGET_DENIED: "invalid_target",
    TARGET_MISSING: "invalid_target",
    TARGET_MALFORMED: "invalid_target",
    SCOPE_DENIED: "invalid_scope",
    SCOPE_MALFORMED: "invalid_scope",
    SCOPE_WIDENED: "invalid_scope",
    ANOTHERS_TOKEN: "unauthorized_client",
}
"""What has no other word is ``invalid_request``, if it is the caller's fault (RFC 8693, section 2.2.2)."""


class TokenRefusedError(VestibuleError):
    """A refusal that says more for the record: which rule, and which word of RFC 6749.

    ``rule`` and ``commit`` are those of the intent (None: no rule matches), ``subject`` and ``transaction`` what is
    known of the token that was given, once it was verified.  None of them is for the client to see.
    """

    word: str | None = None
    rule: str | None = None
    commit: str = ""
    subject: str = ""
    transaction: str = ""

    @classmethod
    def of(cls, error: VestibuleError, *, word: str | None = None) -> TokenRefusedError:
        """The same refusal, under another word."""
        refusal = cls(error.code, error.message, advice=error.advice, where=error.where)
        refusal.word = word
        if isinstance(error, cls):
            refusal.rule, refusal.commit = error.rule, error.commit
            refusal.subject, refusal.transaction = error.subject, error.transaction
        return refusal


def about(error: VestibuleError, claims: Mapping[str, Any], *, word: str | None = None) -> VestibuleError:
    """The same error, with what is known of the token that was given, for the record; and perhaps another word.

    What is nobody's refusal (a sealed barrier, a database that is away) keeps the word that it has.
    """
    if error.code.kind in (Kind.UNAVAILABLE, Kind.EXHAUSTED, Kind.INTERNAL):
        return error
    refusal = TokenRefusedError.of(error, word=word or getattr(error, "word", None))
    refusal.subject = refusal.subject or str(claims.get("sub", ""))
    refusal.transaction = refusal.transaction or str(claims.get("txn", ""))
    return refusal


def word_of(error: VestibuleError) -> str:
    """The ``error`` of a response: RFC 6749, section 5.2; RFC 8707, section 2; RFC 6750 has none of its own here."""
    if isinstance(error, TokenRefusedError) and error.word is not None:
        return error.word
    if (word := WORDS.get(error.code)) is not None:
        return word
    if error.code.kind in (Kind.UNAVAILABLE, Kind.EXHAUSTED):
        return "temporarily_unavailable"
    return "server_error" if error.code.kind is Kind.INTERNAL else "invalid_request"
