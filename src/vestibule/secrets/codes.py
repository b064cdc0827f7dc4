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
