"""Error codes of seals and of the ceremonies around them."""

from vestibule.errors import Fault, Kind, define

NOT_INITIALISED = define(
    "VST5010",
    "secrets-not-initialised",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The secret manager has no root key yet: it was never initialised on this database.",
    advice="`vestibule secret init`; it shows the shares once.",
)
INITIALISED = define(
    "VST5011",
    "secrets-initialised-already",
    Kind.ALREADY_EXISTS,
    Fault.CALLER,
    meaning="The secret manager is initialised on this database already.",
    advice="Unseal it with the shares that were shown then; `vestibule secret rekey` makes new ones.",
)
WRONG_SHARE = define(
    "VST5012",
    "wrong-share",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The share is well formed, but it is not one of this seal: it is of another installation, of a time before "
    "the last rekey, or mistyped.  It was not counted.",
    advice="Look for the right one; the shares that were accepted before it still count.",
)
MALFORMED_SHARE = define(
    "VST5013",
    "malformed-share",
    Kind.INVALID,
    Fault.CALLER,
    meaning="What was given is no share: a share is 33 bytes, in hexadecimal or in base64.",
    advice="Give one whole share, on standard input or from a file.",
)
SEAL_UNAVAILABLE = define(
    "VST5014",
    "seal-unavailable",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="What the seal needs to give the root key is not there now: the key file, the token, or a peer that is "
    "unsealed.  It is tried again.",
    advice="The message says what is missing.",
)
SEAL_REFUSED = define(
    "VST5015",
    "seal-refused",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The seal in the database cannot be opened with what is configured: another key file or token, another "
    "kind of seal, or the seal was changed.",
    advice="Configure the seal that this database was initialised with; `vestibule secret rekey` then moves it to "
    "another one.",
)
CEREMONY = define(
    "VST5016",
    "no-such-ceremony",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="There is no rekey under way to which this belongs, or one is under way already.",
    advice="`vestibule secret status` shows what is under way; begin anew, or cancel it first.",
)
BAD_PLAN = define(
    "VST5017",
    "bad-share-plan",
    Kind.INVALID,
    Fault.CALLER,
    meaning="So many shares, or that threshold, make no sense.",
    advice="1 to 255 shares, of which a threshold of 2 up to all is needed; a single share has the threshold 1.",
)
SHARES_NEEDED = define(
    "VST5018",
    "shares-needed",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="The seal cannot take a new root key without its shares, which nobody keeps here.",
    advice="`vestibule secret rekey --root`: a rekey that changes the root key too.",
)
NO_SHARES = define(
    "VST5019",
    "seal-without-shares",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="The seal in use opens by itself: it has no shares.",
    advice="`vestibule secret status` says what it waits for.",
)
PEER_REFUSED = define(
    "VST5030",
    "secrets-peer-refused",
    Kind.DENIED,
    Fault.OPERATOR,
    meaning="A server that asked another one for the root key is refused: unsealing by peers is not configured there, "
    "or the claim that it must have written into their database is not there.",
    advice="Configure `secrets_seal: peers` on both, and the same database.",
)
