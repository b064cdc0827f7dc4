"""Error codes of the secret manager."""

from vestibule.errors import Fault, Kind, define

SEALED = define(
    "VST5000",
    "secrets-sealed",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The secret manager is sealed: what it keeps is encrypted with a key that it does not hold now.",
    advice="Unseal it: `vestibule secret unseal`, once for each share that is needed.",
)
CONFLICT = define(
    "VST5001",
    "secrets-conflict",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="What was to be changed was changed by somebody else meanwhile, or is not at the version that was named.",
    advice="Read it again, and repeat the change on what is there now.",
)
TOKEN_REFUSED = define(
    "VST5550",
    "secret-token-refused",
    Kind.DENIED,
    Fault.CALLER,
    meaning="The token is not one of ours, has ended, was revoked, or is shown by somebody else than it was made for.",
    advice="Log in again; over mTLS no token is needed at all.",
)
TOKEN_SPENT = define(
    "VST5551",
    "secret-token-not-renewed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The token cannot last longer: it has reached the end that was set when it was made.",
    advice="Log in again.",
)
WRAPPING_INVALID = define(
    "VST5552",
    "wrapping-token-invalid",
    Kind.INVALID,
    Fault.CALLER,
    meaning="There is nothing under this wrapping token: it was opened already, has ended, or never was.",
    advice="If you have not opened it, somebody else has: treat what was in it as known, and have it replaced.",
)
WRAPPING_UNFIT = define(
    "VST5553",
    "wrapping-unfit",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A wrapped answer lasts between one second and a day, and has something in it.",
    advice="Send X-Vault-Wrap-TTL with such a duration.",
)
