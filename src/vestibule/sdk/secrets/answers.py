"""What is asked of the secret manager, and what its answers say: no sockets, so that both clients share it.

The forms are those of Vault's KV engine, version 2, of its database engine and its leases.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote, urlencode

from vestibule.sdk.codes import SECRETS_UNREACHABLE
from vestibule.sdk.secrets.errors import NoSuchSecretError, SecretsError, refusal

MOUNT: Final = "secret/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request; ``path`` is what is asked for, as people write it.  ``patience``: seconds that it may take."""

    method: str
    target: str
    path: str
    body: bytes = field(default=b"", repr=False)
    patience: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer: the status, and the JSON object that came with it."""

    status: int
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret(Mapping[str, Any]):
    """One version of a secret: a mapping of its fields.  Its text shows none of their values."""

    path: str
    version: int
    created: datetime
    data: Mapping[str, Any] = field(repr=False, hash=False)
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """User and password that were made for this caller, and end at ``ends`` unless the lease is renewed."""

    path: str
    username: str
    password: str = field(repr=False)
    lease_id: str
    renewable: bool
    taken: datetime
    ends: datetime

    @property
    def lasts(self) -> timedelta:
        """From when it was taken or renewed."""
        return self.ends - self.taken


# ------------------------------------------------------------------------------------------------ what is asked


def read(path: str, version: int = 0) -> Ask:
    """The newest version, or the one of a number."""
    return _ask("GET", f"secret/data/{_below(path)}", path, {"version": str(version)} if version else {})


def read_newer(path: str, than: int, wait: float) -> Ask:
    """The newest version as soon as it is not ``than``, or after ``wait`` seconds whatever there is."""
    query = {"wait_newer": str(than), "wait": f"{max(1, round(wait))}s"}
    return _ask("GET", f"secret/data/{_below(path)}", path, query, patience=wait + 15.0)


def write(path: str, data: Mapping[str, Any], expected: int | None) -> Ask:
    """A new version; ``expected`` is the one that must be the newest now (0: none)."""
    options = {} if expected is None else {"options": {"cas": expected}}
    return _ask("POST", f"secret/data/{_below(path)}", path, body={**options, "data": dict(data)})


def names(path: str) -> Ask:
    """What is below a folder."""
    below = _below(path) if path.strip("/") not in ("", MOUNT.strip("/")) else ""
    return _ask("GET", f"secret/metadata/{below}".rstrip("/"), path, {"list": "true"})


def credential(path: str) -> Ask:
    """A new credential of a role: ``database/creds/ROLE``, or the role alone."""
    return _ask("GET", path if "/" in path else f"database/creds/{path}", path)


def renew(lease_id: str) -> Ask:
    """More time for a lease."""
    return _ask("POST", "sys/leases/renew", lease_id, body={"lease_id": lease_id})


def revoke(lease_id: str) -> Ask:
    """The end of a lease."""
    return _ask("POST", "sys/leases/revoke", lease_id, body={"lease_id": lease_id})


def _ask(
    method: str,
    resource: str,
    path: str,
    query: Mapping[str, str] | None = None,
    *,
    body: Mapping[str, Any] | None = None,
    patience: float = 30.0,
) -> Ask:
    asked = f"?{urlencode(query)}" if query else ""
    return Ask(
        method=method,
        target=f"/v1/{quote(resource, safe='/')}{asked}",
        path=path,
        body=json.dumps(body).encode("utf-8") if body is not None else b"",
        patience=patience,
    )


def _below(path: str) -> str:
    """``payments/db``, also of ``secret/payments/db``, which is how rules write it."""
    return path.strip("/").removeprefix(MOUNT)


# ---------------------------------------------------------------------------------------------- what is answered


def reply_of(status: int, body: bytes) -> Reply:
    """Raises: VST2407 where it is no JSON object."""
    if not body:
        return Reply(status=status)
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise SecretsError(
            SECRETS_UNREACHABLE, f"what answers with status {status} is no secret manager", status=status
        )
    return Reply(status=status, document=document)


def checked(reply: Reply, path: str) -> Mapping[str, Any]:
    """What is in the envelope.  Raises: SecretsError and its kinds."""
    if 200 <= reply.status < 300:
        return reply.document
    errors = reply.document.get("errors")
    told = str(errors[0]) if isinstance(errors, list) and errors else ""
    raise refusal(reply.status, told, path)


def secret_of(reply: Reply, path: str) -> Secret:
    """Raises: NoSuchSecretError also for a version that was deleted."""
    data = checked(reply, path).get("data") or {}
    metadata = data.get("metadata") or {}
    if not isinstance(data.get("data"), Mapping):
        raise refusal(404, "", path)
    return Secret(
        path=path,
        version=int(metadata["version"]),
        created=instant(str(metadata["created_time"])),
        data=data["data"],
        metadata=metadata.get("custom_metadata") or {},
    )


def newer_of(reply: Reply, path: str, than: int) -> tuple[Secret | None, int]:
    """A version that is not ``than`` and can be read, and the number of the newest there is (0: none)."""
    try:
        secret = secret_of(reply, path)
    except NoSuchSecretError:
        metadata = (reply.document.get("data") or {}).get("metadata") or {}
        return None, int(metadata.get("version") or 0)
    return (secret if secret.version != than else None), secret.version


def version_of(reply: Reply, path: str) -> int:
    """The number of the version that was written."""
    return int(checked(reply, path)["data"]["version"])


def names_of(reply: Reply, path: str) -> list[str]:
    """Folders end with a slash; nothing where there is nothing."""
    try:
        return [str(each) for each in checked(reply, path)["data"]["keys"]]
    except NoSuchSecretError:
        return []


def credential_of(reply: Reply, path: str, now: datetime) -> Credential:
    """What was made."""
    document = checked(reply, path)
    data = document.get("data") or {}
    return Credential(
        path=path,
        username=str(data["username"]),
        password=str(data["password"]),
        lease_id=str(document.get("lease_id") or ""),
        renewable=bool(document.get("renewable")),
        taken=now,
        ends=now + timedelta(seconds=int(document.get("lease_duration") or data.get("ttl") or 0)),
    )


def renewed(reply: Reply, old: Credential, now: datetime) -> Credential:
    """The same, lasting longer."""
    document = checked(reply, old.path)
    return Credential(
        path=old.path,
        username=old.username,
        password=old.password,
        lease_id=old.lease_id,
        renewable=bool(document.get("renewable")),
        taken=now,
        ends=now + timedelta(seconds=int(document.get("lease_duration") or 0)),
    )


def instant(text: str) -> datetime:
    """An instant as Vault writes it, with up to nine decimals."""
    whole, _, rest = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{(rest + '000000')[:6]}").replace(tzinfo=UTC)
