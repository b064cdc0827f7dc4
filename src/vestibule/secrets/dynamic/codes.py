"""Error codes of credentials that are made on demand."""

from vestibule.errors import Fault, Kind, define

MALFORMED_DATABASE = define(
    "VST5410",
    "database-config-malformed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The configuration of a database, or of a role in it, cannot be used.  Nothing was changed.",
    advice="Compare it with docs/dynamic-credentials.md.",
)
NO_SUCH_DATABASE = define(
    "VST5411",
    "database-config-absent",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="There is no database, role or static role of this name.",
    advice="List what there is: `database/config`, `database/roles`, `database/static-roles`.",
)
UNKNOWN_ROLE = define(
    "VST5412",
    "database-role-unknown",
    Kind.INVALID,
    Fault.CALLER,
    meaning="Credentials were asked for of a role that does not exist.",
    advice="Check the name; roles are made by writing to `database/roles/NAME` or `database/static-roles/NAME`.",
)
ROLE_NOT_ALLOWED = define(
    "VST5413",
    "database-role-not-allowed",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The database's configuration does not let this role have credentials.",
    advice="Add the role to `allowed_roles` of `database/config/NAME`.",
)
MALFORMED_STATEMENT = define(
    "VST5414",
    "database-statement-malformed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A statement cannot be used, or what is to be put into it would not stay what it is.",
    advice="Write \"{{name}}\", '{{password}}' and '{{expiration}}', or the same without quotes; close all quotes; "
    "transactions are begun and ended for you.",
)
DATABASE_UNREACHABLE = define(
    "VST5415",
    "database-unreachable",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The database for which credentials are made cannot be reached.  Nothing was changed in it.",
    advice="See whether it runs, and can be reached from the server; then try again.",
)
DATABASE_LOST = define(
    "VST5416",
    "database-connection-lost",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The connection to the database broke while something was changed in it; whether it was is not known.",
    advice="Try again.  What may have been made without anybody knowing it is removed.",
)
DATABASE_REFUSES = define(
    "VST5417",
    "database-refuses-login",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The database does not let the secret manager in.",
    advice="Check user, password and database of `database/config/NAME`, and pg_hba.conf; write the right ones.",
)
STATEMENT_FAILED = define(
    "VST5418",
    "database-statement-failed",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The database refuses a statement.",
    advice="The message says why; try the role's statements by hand, as the user of `database/config/NAME`.",
)
USER_REMAINS = define(
    "VST5419",
    "database-user-remains",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="After the role's revocation_statements its user can still log in.",
    advice="Let them end with DROP ROLE, or ALTER ROLE … NOLOGIN; or leave them out, which does all that is needed.",
)
DATABASE_IN_USE = define(
    "VST5420",
    "database-config-in-use",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="There are leases, or static roles, of the database that is to be forgotten.",
    advice="Revoke them first (`sys/leases/revoke-prefix/database/creds/ROLE`); what cannot be revoked because the "
    "database is gone for good is forgotten with `sys/leases/revoke-force/…`.",
)
ROOT_NOT_ROTATED = define(
    "VST5421",
    "database-root-fixed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The password of the secret manager's own user cannot be changed, since it is not kept apart.",
    advice="Write {{username}} and {{password}} in `connection_url`, and both beside it.",
)
DATABASE_BUSY = define(
    "VST5422",
    "database-busy",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="No connection became free in time, or the database took too long.",
    advice="Try again; raise `max_open_connections` of `database/config/NAME` if it lasts.",
)
NOT_ROTATED_YET = define(
    "VST5423",
    "static-role-not-rotated-yet",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The static role has no password that is known, since none could be set so far.",
    advice="See `database/static-roles/NAME` for what the database complains of.",
)
