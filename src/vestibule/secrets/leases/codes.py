"""Error codes of leases."""

from vestibule.errors import Fault, Kind, define

UNKNOWN_LEASE = define(
    "VST5400",
    "lease-unknown",
    Kind.INVALID,
    Fault.CALLER,
    meaning="There is no lease with this ID: it never was, it has expired, or it was revoked.",
    advice="Ask for new credentials.",
)
LEASE_NOT_RENEWED = define(
    "VST5401",
    "lease-not-renewed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The lease cannot be prolonged: it has reached its longest life, has expired, or is being revoked.",
    advice="Ask for new credentials, and use them before the old ones end.",
)
TOO_MANY_LEASES = define(
    "VST5402",
    "lease-limit",
    Kind.EXHAUSTED,
    Fault.CALLER,
    meaning="The identity holds as many leases as one identity may.",
    advice="Keep credentials and renew their lease rather than asking for new ones with every use; revoke the leases "
    "that are not used (`sys/leases/revoke`), or wait until they expire.",
)
NOT_REVOKED_YET = define(
    "VST5403",
    "lease-not-revoked-yet",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The lease has ended, but its credentials could not be removed where they are used.  It is tried again "
    "and again, and visible until it worked.",
    advice="See whether the database runs and what it complains of; nothing need be repeated.",
)
MALFORMED_LEASE = define(
    "VST5404",
    "lease-malformed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="This is no lease ID, or no prefix of one.",
    advice="A lease ID is `database/creds/ROLE/…`, as it was answered with the credentials; a prefix is whole segments "
    "of it.",
)
LEASE_CHANGED = define(
    "VST5405",
    "lease-changed",
    Kind.UNAVAILABLE,
    Fault.CALLER,
    meaning="The lease was changed by somebody else again and again while this was tried.",
    advice="Try again.",
)
NOT_IN_TIME = define(
    "VST5406",
    "lease-database-slow",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The database did not answer in time, so that it is not known whether credentials were made or removed.  "
    "Those that were not handed out, or are over, are removed as soon as it does.",
    advice="See whether the database is overloaded, or the way to it is broken.",
)
