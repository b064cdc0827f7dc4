"""Error codes of the secret manager."""

from vestibule.errors import Fault, Kind, define

TAMPERED = define(
    "VST5002",
    "secrets-tampered",
    Kind.INTERNAL,
    Fault.OPERATOR,
    meaning="A row of the database is not what the secret manager wrote: it was changed, exchanged with another row or "
    "with an older state of itself, or it is damaged.  It was not used, and the audit log has it "
    "(`secrets.tampering`).",
    advice="Find out who can write to the database.  Write the secret anew, or restore the last backup; what was kept "
    "there should be replaced where it is used, too.",
)
ROLLED_BACK = define(
    "VST5003",
    "secrets-rolled-back",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The database is older than what the secret manager wrote last: somebody put back an older copy, or a "
    "standby that was behind took over.  Secrets that were replaced or removed since are back.",
    advice="Put the newest database in place.  If the older one is meant, unseal and accept the rollback explicitly; "
    "then replace what was changed in between.",
)
ROOT_KEY_REFUSED = define(
    "VST5004",
    "root-key-refused",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The root key that the seal gives does not open the keyring in the database: the two do not belong "
    "together.",
    advice="Look whether the database and the seal (key file, token, shares) are of the same installation and age.",
)
DATA_KEY_EXHAUSTED = define(
    "VST5005",
    "data-key-exhausted",
    Kind.EXHAUSTED,
    Fault.OPERATOR,
    meaning="The data key has encrypted as much as one key may, and could not be replaced by a new one in time.",
    advice="Rotate it: `vestibule secret rotate-keys`.  The server does so by itself, half way; its log says why not.",
)
BACKUP_UNREADABLE = define(
    "VST5006",
    "secrets-backup-unreadable",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A backup of the secret manager cannot be read: another passphrase or key, a file that was changed "
    "or is not whole, or no backup at all.  Nothing was changed.",
    advice="Look for the passphrase, the key or the shares of the time when it was made, or take another backup.",
)
RESTORE_REFUSED = define(
    "VST5007",
    "secrets-restore-refused",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="There are secrets in the database already, which a restore would replace.",
    advice="Back them up first, then say that they may be overwritten (`--overwrite`).",
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
ACCESS_DENIED = define(
    "VST5300",
    "secret-access-denied",
    Kind.DENIED,
    Fault.CALLER,
    meaning="No rule of the intent's `secrets/` lets the caller do this with that path, or a deny rule forbids it.",
    advice="Ask the owner of the secret for a rule; `vestibule explain` tells which rule decides.",
)
