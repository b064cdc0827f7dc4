"""Where a PostgreSQL database is, how its server is known, and what may be said of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final

from vestibule.store.codes import MALFORMED_ADDRESS

_DEFAULTS: Final = {
    "application_name": "vestibule",
    "connect_timeout": "5",
    # A database that is gone without a farewell is noticed in seconds, not after the kernel's two hours.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}
_LOCAL_NAMES: Final = ("localhost",)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresAddress:
    """libpq's parameters.  Shown, it names host, port, database and user: never the password."""

    parameters: dict[str, Any] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> PostgresAddress:
        """A libpq connection string, as ``postgresql://…`` or ``key=value``; several hosts are tried in turn.

        Unless it says otherwise, a host elsewhere must prove its name by TLS (``sslmode=verify-full``); libpq's own
        default would talk to whoever answers.  Raises: VST8008, whose text holds nothing of what was given.
        """
        # Here, since most servers have no such address, and loading it takes long.
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict

        try:
            given = {
                name: value for name, value in conninfo_to_dict(text.strip()).items() if value is not None
            }
        except ProgrammingError:
            raise MALFORMED_ADDRESS.error("this is no PostgreSQL connection string") from None
        if not given.get("host") and not given.get("hostaddr") and not given.get("service"):
            raise MALFORMED_ADDRESS.error(
                "the connection string names no host (nor the directory of a socket)"
            )
        if not given.get("dbname") and not given.get("service"):
            raise MALFORMED_ADDRESS.error("the connection string names no database")
        parameters = _DEFAULTS | given
        if not _is_local(given) and "sslmode" not in given:
            parameters["sslmode"] = "verify-full"
            parameters.setdefault("sslrootcert", "system")
        return cls(parameters=parameters)

    def __str__(self) -> str:
        shown = (
            f"{name}={self.parameters[name]}"
            for name in ("host", "port", "dbname", "user")
            if name in self.parameters
        )
        return " ".join(shown)

    @property
    def proves_itself(self) -> bool:
        """Whether the server's name is verified, or need not be because it is on this machine."""
        return self.parameters.get("sslmode") == "verify-full" or _is_local(self.parameters)


def _is_local(parameters: dict[str, Any]) -> bool:
    hosts = str(parameters.get("hostaddr") or parameters.get("host") or "").split(",")
    return all(_is_here(host) for host in hosts)


def _is_here(host: str) -> bool:
    if host.startswith(("/", "@")) or host in _LOCAL_NAMES:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
