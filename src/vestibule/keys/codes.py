"""Error codes of key management."""

from vestibule.errors import Fault, Kind, define

MALFORMED_KEY_ID = define(
    "VST1100",
    "malformed-key-id",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The name of a key can not be used: it also names a file.",
    advice="Use 1 to 128 of A-Z, a-z, 0-9, '.', '_' and '-', not starting with a dot.",
)
NO_SUCH_KEY = define(
    "VST1101",
    "no-such-key",
    Kind.NOT_FOUND,
    Fault.OPERATOR,
    meaning="The key manager does not have the private key that a record names.",
    advice="Check that data directory and key directory belong together; if the key is lost, let the server make a "
    "new authority.",
)
UNSEALABLE = define(
    "VST1102",
    "not-unsealable",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="Encrypted data can not be opened: it was sealed with another key, for another purpose, or was changed.",
    advice="Restore the key-encryption key that belongs to this data directory, or the file from a backup.",
)
KEY_NOT_KEPT = define(
    "VST1103",
    "key-not-kept",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="A private key can not be written to its directory or removed from it.",
    advice="Check that the disk has space and that the directory belongs to the user that runs the server.",
)
KEK_REFUSED = define(
    "VST1104",
    "key-encryption-key-refused",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The file with the key-encryption key can not be trusted or read: another user owns it or may read it, it "
    "is not a regular file, or it does not hold 32 bytes.",
    advice="chown it to the user that runs this process and chmod it to 600; if others could read it, replace it and "
    "all keys that it protects.",
)
