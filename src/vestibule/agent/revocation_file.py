"""The list of revocations on the agent's disk, sealed: it holds through restarts and outages of the server."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from vestibule.agent.codes import CACHE_UNUSABLE, REVOCATIONS_UNKNOWN
from vestibule.errors import VestibuleError
from vestibule.keys.files import write_private, written
from vestibule.keys.sealing import Sealer
from vestibule.spiffe import Reason, Revocation, Revocations, RevokedIdentity, TrustDomain
from vestibule.spiffe.revocations import parse_target

CONTEXT: Final = b"vestibule agent revocations"


class RevocationFile:
    """One sealed file for one agent."""

    def __init__(self, path: Path, sealer: Sealer, trust_domain: TrustDomain) -> None:
        self._path = path
        self._sealer = sealer
        self._context = CONTEXT + b":" + trust_domain.name.encode()

    def load(self) -> Revocations:
        """What was saved last; an empty list if nothing ever was.

        Raises: VST2107 when there is a file that cannot be read, VST2114 when it does not open; it stays where it is,
        so that it is not taken for none after the next start.
        """
        try:
            sealed = self._path.read_bytes()
        except FileNotFoundError:
            return Revocations()
        except OSError as error:
            raise CACHE_UNUSABLE.error(f"cannot read {self._path}: {error.strerror}") from error
        try:
            return _from_document(json.loads(self._sealer.unseal(sealed, context=self._context)))
        except (VestibuleError, ValueError, KeyError, TypeError) as error:
            raise REVOCATIONS_UNKNOWN.error(
                f"the agent's list of what is revoked ({self._path}) does not open"
            ) from error

    async def save(self, revocations: Revocations) -> None:
        """Replace the file; after a crash there is the old one or the new one, after a cancellation the new one.

        Raises: VST2107.
        """
        await written(partial(self._save, revocations))

    def _save(self, revocations: Revocations) -> None:
        document = json.dumps(_to_document(revocations), separators=(",", ":")).encode()
        try:
            write_private(self._path, self._sealer.seal(document, context=self._context))
        except OSError as error:
            raise CACHE_UNUSABLE.error(f"cannot write {self._path}: {error.strerror}") from error


def _to_document(revocations: Revocations) -> dict[str, Any]:
    return {"version": revocations.version, "entries": [_entry(each) for each in revocations.entries]}


def _entry(each: Revocation) -> list[Any]:
    target = each.target
    before = target.issued_before if isinstance(target, RevokedIdentity) else None
    return [
        target.kind,
        target.name,
        _seconds(before),
        each.at.timestamp(),
        each.reason.value,
        _seconds(each.expires_at),
        each.version,
    ]


def _from_document(document: dict[str, Any]) -> Revocations:
    entries = [
        Revocation(
            target=parse_target(kind, name, _instant(before)),
            at=datetime.fromtimestamp(at, UTC),
            reason=Reason(reason),
            expires_at=_instant(expires_at),
            version=version,
        )
        for kind, name, before, at, reason, expires_at, version in document["entries"]
    ]
    return Revocations(document["version"], tuple(entries))


def _seconds(instant: datetime | None) -> float | None:
    return None if instant is None else instant.timestamp()


def _instant(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
