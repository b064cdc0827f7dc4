"""Error codes of the transit engine."""

from vestibule.errors import Fault, Kind, define

UNKNOWN_KEY = define(
    "VST5500",
    "transit-key-unknown",
    Kind.INVALID,
    Fault.CALLER,
    meaning="There is no transit key of this name.",
    advice="Check the name, or have the key made first (POST transit/keys/NAME); use does not make keys.",
)
NOT_DONE_WITH_KEY = define(
    "VST5501",
    "transit-not-done-with-key",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The key is of a type, or has a setting, with which this is not done; or that version of it is out of use.",
    advice="Look at the key (GET transit/keys/NAME): its type, latest_version, min_decryption_version, derived.",
)
UNREADABLE_INPUT = define(
    "VST5502",
    "transit-input-unreadable",
    Kind.INVALID,
    Fault.CALLER,
    meaning="What was sent to be decrypted, signed or verified is not in the form that the engine takes.",
    advice="Plain text, context and associated data are base64; ciphertexts and signatures begin with vault:vN:.",
)
NOT_AUTHENTIC = define(
    "VST5503",
    "transit-not-authentic",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The ciphertext does not open: it was changed, or made with another key, context or associated data.",
    advice="Send it as it was received, with the same context and associated data as for encryption.",
)
KEY_KEPT = define(
    "VST5504",
    "transit-key-kept",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The key is not deleted, since its settings do not permit that.",
    advice="Set deletion_allowed first (POST transit/keys/NAME/config); what it has encrypted is lost for ever then.",
)
KEY_EXISTS = define(
    "VST5505",
    "transit-key-exists",
    Kind.INVALID,
    Fault.CALLER,
    meaning="There is a transit key of this name already, of another type or with other settings that last.",
    advice="Choose another name; a key's type and whether it is derived are settled when it is made.",
)
