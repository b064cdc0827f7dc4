"""Databases, roles and static roles as Vault's API writes and reads them."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from vestibule.doors.vault import fields
from vestibule.doors.vault.codes import VAULT_FIELD
from vestibule.secrets.dynamic.addresses import keeps_password, redacted
from vestibule.secrets.dynamic.records import Database, Role, StaticRole

MOST_STATEMENTS: Final = 100
MOST_ROLES: Final = 1000
SCRAM: Final = "scram-sha-256"

_Body = Mapping[str, Any]
_Read = Callable[[_Body, str], Any]


def database_of_body(body: _Body) -> dict[str, Any]:
    """What a request names of a ``Database``.  Raises: VST5210."""
    return _changes(body, _DATABASE_FIELDS, _DATABASE_FIXED)


def database_form(database: Database) -> dict[str, Any]:
    """A database without its password."""
    return {
        "plugin_name": database.plugin,
        "plugin_version": "",
        "allowed_roles": list(database.allowed_roles),
        "verify_connection": database.verify_connection,
        "password_policy": "",
        "root_credentials_rotate_statements": list(database.root_rotation_statements),
        "connection_details": {
            "connection_url": redacted(database.connection_url),
            "username": database.username,
            "max_open_connections": database.max_open_connections,
            "max_connection_lifetime": f"{int(database.max_connection_lifetime.total_seconds())}s",
            "password_authentication": SCRAM if database.hashed else "password",
        },
    }


def warnings_about(database: Database) -> tuple[str, ...]:
    """What whoever configured it should know."""
    if keeps_password(database) or redacted(database.connection_url) == database.connection_url:
        return ()
    return (
        "Password found in connection_url, use a templated url to enable root rotation and prevent read access to "
        "password information.",
    )


def role_of_body(body: _Body) -> dict[str, Any]:
    """What a request names of a ``Role``.  Raises: VST5210."""
    return _changes(body, _ROLE_FIELDS, _ROLE_FIXED)


def role_form(role: Role) -> dict[str, Any]:
    """A role, in seconds."""
    return {
        "db_name": role.database,
        "creation_statements": list(role.creation),
        "revocation_statements": list(role.revocation),
        "rollback_statements": list(role.rollback),
        "renew_statements": list(role.renewal),
        "default_ttl": int(role.default_ttl.total_seconds()),
        "max_ttl": int(role.max_ttl.total_seconds()),
        "credential_type": "password",
    }


def static_role_of_body(body: _Body) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What a request names of a ``StaticRole``, and its users.  Raises: VST5210."""
    known = {name: value for name, value in body.items() if name not in ("username", "alternate_username")}
    users = (fields.text(body, name) for name in ("username", "alternate_username"))
    return _changes(known, _STATIC_FIELDS, _ROLE_FIXED), tuple(each for each in users if each)


def static_role_form(role: StaticRole) -> dict[str, Any]:
    """A static role without its password; why a change does not work is ours."""
    form: dict[str, Any] = {
        "db_name": role.database,
        "username": role.accounts[0].username,
        "rotation_period": int(role.period.total_seconds()),
        "rotation_statements": list(role.statements),
        "last_vault_rotation": instant(role.rotated),
        "credential_type": "password",
    }
    if len(role.accounts) > 1:
        form["alternate_username"] = role.accounts[1].username
    if role.problem:
        form["last_error"] = role.problem
    return form


def static_credentials_form(role: StaticRole, now: datetime) -> dict[str, Any]:
    """The user and its password; ``ttl`` in seconds until it is changed."""
    following = (role.rotated or now) + role.period
    return {
        "username": role.account.username,
        "password": role.account.password,
        "ttl": max(0, round((following - now).total_seconds())),
        "rotation_period": int(role.period.total_seconds()),
        "last_vault_rotation": instant(role.rotated),
    }


def instant(at: datetime | None) -> str | None:
    """As Vault writes it."""
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")


# ------------------------------------------------------------------------------------------------- fields


def _changes(
    body: _Body, known: Mapping[str, tuple[str, _Read]], fixed: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in body.items():
        if value is None:
            continue
        if name in fixed:
            if value not in fixed[name]:
                raise VAULT_FIELD.error(f"{name} is not supported")
        elif name not in known:
            raise VAULT_FIELD.error(f"{name[:64]!r} is not a field that is known here")
        else:
            field, read = known[name]
            found[field] = read(body, name)
    return found


def _statements(body: _Body, name: str) -> tuple[str, ...]:
    """Text, a list of it, either of them as JSON or base64."""
    found = _texts(body[name])
    if found is None or len(found) > MOST_STATEMENTS:
        raise VAULT_FIELD.error(f"{name} is neither text nor a list of up to {MOST_STATEMENTS} texts")
    return tuple(each for each in found if each.strip())


def _texts(value: object, depth: int = 0) -> list[str] | None:
    if isinstance(value, list):
        return value if all(isinstance(each, str) for each in value) else None
    if not isinstance(value, str) or depth > 2:
        return None
    try:
        if isinstance(listed := json.loads(value), list):
            return _texts(listed, depth + 1)
    except (ValueError, RecursionError):
        pass
    try:
        # SQL has spaces, and so never is base64.
        return _texts(base64.b64decode(value, validate=True).decode(), depth + 1) if value else []
    except (binascii.Error, UnicodeDecodeError):
        return [value]


def _names(body: _Body, name: str) -> tuple[str, ...]:
    """A list, or text with commas."""
    value = body[name]
    found = value.split(",") if isinstance(value, str) else value
    if (
        not isinstance(found, list)
        or len(found) > MOST_ROLES
        or not all(isinstance(each, str) for each in found)
    ):
        raise VAULT_FIELD.error(f"{name} is no list of up to {MOST_ROLES} names")
    return tuple(each.strip() for each in found if each.strip())


def _duration(body: _Body, name: str) -> timedelta:
    return fields.duration(body, name) or timedelta(0)


def _number(body: _Body, name: str) -> int:
    return fields.number(body, name) or 0


def _switch(body: _Body, name: str) -> bool:
    return bool(fields.switch(body, name))


def _hashed(body: _Body, name: str) -> bool:
    how = fields.text(body, name)
    if how not in ("", "password", SCRAM):
        raise VAULT_FIELD.error(f"{name} is neither password nor {SCRAM}")
    return how != "password"


_DATABASE_FIELDS: Final[Mapping[str, tuple[str, _Read]]] = {
    "plugin_name": ("plugin", fields.text),
    "connection_url": ("connection_url", fields.text),
    "username": ("username", fields.text),
    "password": ("password", fields.text),
    "allowed_roles": ("allowed_roles", _names),
    "verify_connection": ("verify_connection", _switch),
    "root_rotation_statements": ("root_rotation_statements", _statements),
    "password_authentication": ("hashed", _hashed),
    "max_open_connections": ("max_open_connections", _number),
    "max_connection_lifetime": ("max_connection_lifetime", _duration),
}
# Fields of Vault's with the only values that we can keep the promise of.
_DATABASE_FIXED: Final[Mapping[str, Sequence[Any]]] = {
    "plugin_version": ("",),
    "password_policy": ("",),
    "username_template": ("",),
    "disable_escaping": (False, "false"),
    "max_idle_connections": range(1 << 16),
}
_ROLE_FIELDS: Final[Mapping[str, tuple[str, _Read]]] = {
    "db_name": ("database", fields.text),
    "creation_statements": ("creation", _statements),
    "revocation_statements": ("revocation", _statements),
    "rollback_statements": ("rollback", _statements),
    "renew_statements": ("renewal", _statements),
    "default_ttl": ("default_ttl", _duration),
    "max_ttl": ("max_ttl", _duration),
}
_ROLE_FIXED: Final[Mapping[str, Sequence[Any]]] = {
    "credential_type": ("password", ""),
    "credential_config": ({},),
}
_STATIC_FIELDS: Final[Mapping[str, tuple[str, _Read]]] = {
    "db_name": ("database", fields.text),
    "rotation_period": ("period", _duration),
    "rotation_statements": ("statements", _statements),
}
