"""The holdings on disk, sealed: with them a restarted agent serves while the server is away."""

from __future__ import annotations

import json
import logging
from base64 import b64decode, b64encode
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from vestibule.agent.cache import Held, Holdings
from vestibule.agent.codes import CACHE_UNUSABLE
from vestibule.errors import VestibuleError
from vestibule.keys.files import write_private, written
from vestibule.keys.sealing import Sealer
from vestibule.records import Entry
from vestibule.spiffe import JwtAuthority, Selector, SpiffeId, TrustBundle, TrustDomain, X509Svid

VERSION: Final = 1
CONTEXT: Final = b"vestibule agent holdings"
_log = logging.getLogger(__name__)


class Vault:
    """One sealed file for one agent."""

    def __init__(self, path: Path, sealer: Sealer, trust_domain: TrustDomain) -> None:
        self._path = path
        self._sealer = sealer
        # Bound to the trust domain: an agent that was moved to another one starts empty.
        self._context = CONTEXT + b":" + trust_domain.name.encode()

    def load(self) -> Holdings:
        """What was saved last; empty holdings if there is nothing, or nothing that opens (which is set aside)."""
        try:
            sealed = self._path.read_bytes()
        except FileNotFoundError:
            return Holdings()
        except OSError as error:
            raise CACHE_UNUSABLE.error(f"cannot read {self._path}: {error.strerror}") from error
        try:
            return from_document(json.loads(self._sealer.unseal(sealed, context=self._context)))
        except (VestibuleError, ValueError, KeyError, TypeError) as error:
            aside = self._path.with_suffix(".unusable")
            self._path.replace(aside)
            _log.error("the agent's cache does not open and was moved to %s: %s", aside, error)
            return Holdings()

    async def save(self, holdings: Holdings) -> None:
        """Replace the file; after a crash there is the old one or the new one, after a cancellation the new one.

        Raises: VST2107.
        """
        await written(partial(self._save, holdings))

    def _save(self, holdings: Holdings) -> None:
        document = json.dumps(to_document(holdings)).encode()
        try:
            write_private(self._path, self._sealer.seal(document, context=self._context))
        except OSError as error:
            raise CACHE_UNUSABLE.error(f"cannot write {self._path}: {error.strerror}") from error

    def destroy(self) -> None:
        """Remove the file: the agent may not come back.  Raises: VST2107."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise CACHE_UNUSABLE.error(f"cannot remove {self._path}: {error.strerror}") from error


def to_document(holdings: Holdings) -> dict[str, Any]:
    """The holdings as JSON, secrets included."""
    return {
        "version": VERSION,
        "own": _held(holdings.own) if holdings.own else None,
        "bundle": _bundle(holdings.bundle) if holdings.bundle else None,
        "entries": [_entry(entry) for entry in holdings.entries.values()],
        "svids": {each: _held(held) for each, held in holdings.svids.items()},
        "federated": [_bundle(bundle) for bundle in holdings.federated.values()],
    }


def from_document(document: dict[str, Any]) -> Holdings:
    """Raises: ValueError, KeyError, TypeError, VST1400 for what ``to_document`` did not write."""
    if document["version"] != VERSION:
        raise ValueError(f"version {document['version']} is not {VERSION}")
    entries = [_entry_from(each) for each in document["entries"]]
    return Holdings(
        own=_held_from(document["own"]) if document["own"] else None,
        bundle=_bundle_from(document["bundle"]) if document["bundle"] else None,
        entries={entry.id: entry for entry in entries},
        svids={each: _held_from(held) for each, held in document["svids"].items()},
        # Absent from what an agent wrote before there was federation.
        federated={
            bundle.trust_domain: bundle for bundle in map(_bundle_from, document.get("federated", ()))
        },
    )


def _held(held: Held) -> dict[str, Any]:
    svid = held.svid
    return {
        "spiffe_id": str(svid.spiffe_id),
        "chain": [_b64(each) for each in svid.chain],
        "key": _b64(svid.key),
        "serial": str(svid.serial),
        "not_before": _seconds(svid.not_before),
        "not_after": _seconds(svid.not_after),
        "renew_at": _seconds(held.renew_at),
        "dns_names": list(held.dns_names),
        "ttl": held.ttl.total_seconds() if held.ttl else None,
    }


def _held_from(document: dict[str, Any]) -> Held:
    svid = X509Svid(
        spiffe_id=SpiffeId.parse(document["spiffe_id"]),
        chain=tuple(b64decode(each) for each in document["chain"]),
        key=b64decode(document["key"]),
        serial=int(document["serial"]),
        not_before=_instant(document["not_before"]),
        not_after=_instant(document["not_after"]),
    )
    return Held(
        svid=svid,
        renew_at=_instant(document["renew_at"]),
        dns_names=tuple(document["dns_names"]),
        ttl=_duration(document["ttl"]),
        from_disk=True,
    )


def _authority(authority: JwtAuthority) -> list[Any]:
    ends = _seconds(authority.expires_at) if authority.expires_at else None
    return [authority.key_id, _b64(authority.public_key), ends, authority.tainted]


def _authorities_from(documents: Iterable[list[Any]]) -> tuple[JwtAuthority, ...]:
    return tuple(
        JwtAuthority(
            key_id=key_id,
            public_key=b64decode(key),
            expires_at=_instant(ends) if ends is not None else None,
            tainted=any(tainted),
        )
        for key_id, key, ends, *tainted in documents
    )


def _bundle(bundle: TrustBundle) -> dict[str, Any]:
    return {
        "trust_domain": str(bundle.trust_domain),
        "x509_authorities": [_b64(each) for each in bundle.x509_authorities],
        "sequence": bundle.sequence,
        "refresh_hint": bundle.refresh_hint,
        "jwt_authorities": [_authority(each) for each in bundle.jwt_authorities],
        "wit_authorities": [_authority(each) for each in bundle.wit_authorities],
        "tainted_x509": [_b64(each) for each in sorted(bundle.tainted_x509)],
    }


def _bundle_from(document: dict[str, Any]) -> TrustBundle:
    return TrustBundle(
        trust_domain=TrustDomain.parse(document["trust_domain"]),
        x509_authorities=tuple(b64decode(each) for each in document["x509_authorities"]),
        sequence=document["sequence"],
        refresh_hint=document["refresh_hint"],
        # Absent from what an agent wrote before there were JWT-SVIDs.
        jwt_authorities=_authorities_from(document.get("jwt_authorities", ())),
        wit_authorities=_authorities_from(document.get("wit_authorities", ())),
        # Both absent from what an agent wrote before there were tainted authorities.
        tainted_x509=frozenset(b64decode(each) for each in document.get("tainted_x509", ())),
    )


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "spiffe_id": str(entry.spiffe_id),
        "parent_id": str(entry.parent_id),
        "selectors": sorted([each.type, each.value] for each in entry.selectors),
        "x509_svid_ttl": entry.x509_svid_ttl.total_seconds() if entry.x509_svid_ttl else None,
        "jwt_svid_ttl": entry.jwt_svid_ttl.total_seconds() if entry.jwt_svid_ttl else None,
        "federates_with": list(entry.federates_with),
        "admin": entry.admin,
        "downstream": entry.downstream,
        "expires_at": _seconds(entry.expires_at) if entry.expires_at else None,
        "dns_names": list(entry.dns_names),
        "revision": entry.revision,
        "store_svid": entry.store_svid,
        "hint": entry.hint,
        "created_at": _seconds(entry.created_at) if entry.created_at else None,
        "disable_x509_svid_prefetch": entry.disable_x509_svid_prefetch,
        "jwt_svid_include_jti": entry.jwt_svid_include_jti,
    }


def _entry_from(document: dict[str, Any]) -> Entry:
    return Entry(
        id=document["id"],
        spiffe_id=SpiffeId.parse(document["spiffe_id"]),
        parent_id=SpiffeId.parse(document["parent_id"]),
        selectors=frozenset(Selector(type_, value) for type_, value in document["selectors"]),
        x509_svid_ttl=_duration(document["x509_svid_ttl"]),
        jwt_svid_ttl=_duration(document["jwt_svid_ttl"]),
        federates_with=tuple(document["federates_with"]),
        admin=document["admin"],
        downstream=document["downstream"],
        expires_at=_instant(document["expires_at"]) if document["expires_at"] else None,
        dns_names=tuple(document["dns_names"]),
        revision=document["revision"],
        store_svid=document["store_svid"],
        hint=document["hint"],
        created_at=_instant(document["created_at"]) if document["created_at"] else None,
        # Absent from what older agents wrote.
        disable_x509_svid_prefetch=document.get("disable_x509_svid_prefetch", False),
        jwt_svid_include_jti=document.get("jwt_svid_include_jti", False),
    )


def _b64(data: bytes) -> str:
    return b64encode(data).decode()


def _seconds(instant: datetime) -> float:
    return instant.timestamp()


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _duration(seconds: float | None) -> timedelta | None:
    return timedelta(seconds=seconds) if seconds is not None else None
