"""Connection URLs with places for the secret manager's own user and password."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

from vestibule.secrets.dynamic.codes import MALFORMED_DATABASE
from vestibule.secrets.dynamic.records import Database
from vestibule.store.sql.postgres_address import PostgresAddress

_OURS: Final = frozenset(
    ("service", "servicefile", "passfile", "sslcert", "sslkey", "sslpassword", "sslkeylogfile")
)
_KNOWS_MODES: Final = 160000
"""The first version of libpq that has ``sslcertmode`` and ``require_auth``."""

_PLACE: Final = re.compile(r"\{\{\s*(username|name|password)\s*\}\}", re.ASCII)
_URL: Final = re.compile(r"postgres(ql)?://", re.ASCII)
_WRITTEN: Final = re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]*)", re.IGNORECASE)


def address_of(database: Database, password: str) -> PostgresAddress:
    """Where and as whom to connect.  Raises: VST5410, VST8008; neither tells what was given.

    Who may configure a database is not who runs this server: nothing by which the server itself is known somewhere
    (its user, files with passwords or keys, its environment) is shown to what it connects to here.
    """
    if database.connection_url.count("{{") != len(_PLACE.findall(database.connection_url)):
        raise MALFORMED_DATABASE.error("connection_url has places for {{username}} and {{password}} only")
    is_url = bool(_URL.match(database.connection_url.strip()))
    values = {"username": database.username, "name": database.username, "password": password}
    filled = _PLACE.sub(
        lambda found: quote(values[found[1]], safe="") if is_url else _quoted(values[found[1]]),
        database.connection_url,
    )
    address = PostgresAddress.parse(filled)
    if found := _OURS & address.parameters.keys():
        raise MALFORMED_DATABASE.error(
            f"connection_url has {min(found)}, which names files of the server's own"
        )
    return PostgresAddress(parameters={"password": "", **address.parameters, **_bounds(address.parameters)})


def _bounds(parameters: Mapping[str, Any]) -> dict[str, str]:
    # Here, since loading it takes long.
    from psycopg import pq

    bounds = {"passfile": os.devnull, "gssencmode": "disable"}
    if pq.version() >= _KNOWS_MODES:
        bounds["sslcertmode"] = "disable"
        if str(parameters.get("host", "")).startswith(("/", "@")):
            # Over a Unix socket PostgreSQL may take us for the operating system's user that we are.
            bounds["require_auth"] = "password,md5,scram-sha-256"
    return bounds


def keeps_password(database: Database) -> bool:
    """Whether the password stands apart from the URL, so that it can be changed."""
    places = _PLACE.findall(database.connection_url)
    return "password" in places and ("username" in places or "name" in places) and bool(database.username)


def redacted(url: str) -> str:
    """The URL without a password that was written into it."""
    shown = url
    if _URL.match(url.strip()):
        parts = urlsplit(url.strip())
        user, colon, password = parts.netloc.rpartition("@")[0].partition(":")
        if colon and not _PLACE.fullmatch(password):
            shown = urlunsplit(parts._replace(netloc=f"{user}:xxxxx@{parts.netloc.rpartition('@')[2]}"))
    return _WRITTEN.sub(lambda found: found[0] if _PLACE.fullmatch(found[2]) else f"{found[1]}xxxxx", shown)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
