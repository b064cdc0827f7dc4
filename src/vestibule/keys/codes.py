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
SECRET_REFUSED = define(
    "VST1105",
    "secret-refused",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The file or descriptor with a passphrase or PIN can not be read or trusted: another user owns the file or "
    "may read it, or it does not hold one line of text.",
    advice="Put the secret, and nothing else, into a file of the user that runs this process, with mode 600.",
)
TOKEN_UNAVAILABLE = define(
    "VST1106",
    "token-unavailable",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The PKCS#11 token that holds the keys does not answer: it was removed or reset, its daemon or network "
    "device is down, or no token has the configured label.",
    advice="Check with `pkcs11-tool --module MODULE --list-slots` that the token is there; the next use connects anew.",
)
PIN_REFUSED = define(
    "VST1107",
    "pin-refused",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The PKCS#11 token refuses the PIN, or is locked.  The PIN is not tried again: a few wrong ones lock a "
    "token.",
    advice="Correct the PIN file, then start this process again; a locked token is unlocked by its security officer.",
)
MODULE_UNUSABLE = define(
    "VST1108",
    "pkcs11-module-unusable",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The PKCS#11 module can not be loaded, or the Python binding for it is not installed.",
    advice="Name the vendor's shared library by its absolute path, such as /usr/lib/softhsm/libsofthsm2.so, and "
    "install vestibule[pkcs11].",
)
TOKEN_KEY_UNUSABLE = define(
    "VST1109",
    "token-key-unusable",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="A key in the PKCS#11 token can not be used: several have the same label, its public half is missing, it "
    "is not on P-256, or what it signs does not verify.",
    advice="Look at the objects with `pkcs11-tool --list-objects --login`; remove the one that does not belong there.",
)
