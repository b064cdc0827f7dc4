"""Attestation by a Google Compute Engine instance identity token: a JWT that Google signed for this instance.

The payload is the token itself, for the audience ``spire-gcp-node-attestor``, in the form "full" (as SPIRE's).  The
agent becomes ``…/gcp_iit/PROJECT/INSTANCE-ID``.  Every process on the instance can get such a token, so only the
first attestation of an instance counts.

Selectors: ``gcp_iit:project-id``, ``zone``, ``instance-name``, ``sa``.  Nothing is asked of Google's API.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from vestibule.attest.documents import at, json_object, objects_at, text_at
from vestibule.attest.node.codes import (
    EVIDENCE_REFUSED,
    MALFORMED_EVIDENCE,
    NO_EVIDENCE,
    UNEXPECTED_CHALLENGE,
    UNSAFE_ATTESTOR,
    VERIFIER_UNAVAILABLE,
)
from vestibule.attest.node.evidence import agent_named, selectors
from vestibule.attest.node.ports import AttestedNode, Challenge
from vestibule.attest.ports import Http
from vestibule.spiffe import TrustDomain

NAME: Final = "gcp_iit"
AUDIENCE: Final = "spire-gcp-node-attestor"
ISSUERS: Final = frozenset({"https://accounts.google.com", "accounts.google.com"})
TARGET: Final = (
    "/computeMetadata/v1/instance/service-accounts/{}/identity?audience=" + AUDIENCE + "&format=full"
)
MAX_TOKEN: Final = 16 * 1024
SKEW: Final = timedelta(minutes=1)
KEEP_KEYS: Final = timedelta(hours=1)
ASK_AGAIN: Final = timedelta(minutes=1)
"""For a key that is not known, Google is asked again, but so often at most."""

Keys = Callable[[], Awaitable[bytes]]
"""Google's keys as a JWK Set.  Raises: VST2007, VST2340, VST2341."""

_JWT = re.compile(r"(?P<head>[A-Za-z0-9_-]+)\.(?P<body>[A-Za-z0-9_-]+)\.(?P<signature>[A-Za-z0-9_-]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class GcpIitSettings:
    """``projects`` are those whose instances are nodes.

    Google's keys come from ``keys_file`` (a JWK Set) or, without one, from ``keys_host`` and ``keys_path`` by HTTPS.
    """

    projects: tuple[str, ...]
    keys_file: Path | None = None
    keys_host: str = "www.googleapis.com"
    keys_path: str = "/oauth2/v3/certs"


@dataclass(frozen=True, slots=True, kw_only=True)
class GcpIitProofSettings:
    """Whose token the agent asks for, and at which metadata server."""

    service_account: str = "default"
    metadata: str = "metadata.google.internal:80"


class GcpIitAttestor:
    """The server's half."""

    name = NAME

    def __init__(self, settings: GcpIitSettings, trust_domain: TrustDomain, keys: Keys) -> None:
        """Raises: VST2009."""
        if not settings.projects:
            raise UNSAFE_ATTESTOR.error(
                "the projects of the nodes are not set: every Google customer could attest"
            )
        self._settings = settings
        self._trust_domain = trust_domain
        self._keys = _KeyRing(keys)

    async def attest(self, payload: bytes, challenge: Challenge, now: datetime) -> AttestedNode:
        """Raises: VST2003 (malformed), VST2004 (refused), VST2007 (no keys).

        1. The token is signed with RS256 by one of Google's keys; nothing of it is used before.
        2. Google issued it, for us, and it is current.
        3. It is that of an instance, in a project of ours.
        """
        claims = await self._verified(payload, now)  # 1
        if text_at(claims, "iss") not in ISSUERS or at(claims, "aud") != AUDIENCE:  # 2
            raise EVIDENCE_REFUSED.error("the token is not Google's, or not for this server")
        if not _instant(claims, "iat") - SKEW <= now < _instant(claims, "exp") + SKEW:
            raise EVIDENCE_REFUSED.error("the token is expired, or not yet valid")
        found = {
            key: text_at(claims, "google", "compute_engine", key)
            for key in ("project_id", "instance_id", "zone", "instance_name")
        }
        if found["project_id"] not in self._settings.projects:  # 3
            raise EVIDENCE_REFUSED.error(
                f"project {found['project_id'] or '?'} is not among those whose nodes may attest"
            )
        values = {
            "project-id": found["project_id"],
            "zone": found["zone"],
            "instance-name": found["instance_name"],
            "sa": text_at(claims, "email"),
        }
        return AttestedNode(
            agent_id=agent_named(self._trust_domain, NAME, found["project_id"], found["instance_id"]),
            selectors=selectors(NAME, [f"{key}:{value}" for key, value in values.items() if value]),
            first_use_only=True,
        )

    async def _verified(self, payload: bytes, now: datetime) -> dict[str, Any]:
        match = (
            _JWT.fullmatch(payload.decode("ascii", "replace").strip()) if len(payload) <= MAX_TOKEN else None
        )
        if match is None:
            raise MALFORMED_EVIDENCE.error("the evidence is not a JWT")
        head = _part(match["head"])
        if text_at(head, "alg") != "RS256":
            raise EVIDENCE_REFUSED.error("the token is not signed with RS256")
        key = await self._keys.find(text_at(head, "kid"), now)
        if key is None:
            raise EVIDENCE_REFUSED.error("the token is signed with a key that is not Google's")
        signed = f"{match['head']}.{match['body']}".encode()
        try:
            key.verify(_decode(match["signature"]), signed, padding.PKCS1v15(), hashes.SHA256())
        except (InvalidSignature, ValueError):
            raise EVIDENCE_REFUSED.error("the token's signature is not Google's") from None
        return _part(match["body"])


class _KeyRing:
    """Google's keys, asked for when they are needed: old ones after an hour, unknown ones once a minute."""

    def __init__(self, fetch: Keys) -> None:
        self._fetch = fetch
        self._keys: Mapping[str, rsa.RSAPublicKey] = {}
        self._fetched_at: datetime | None = None

    async def find(self, kid: str, now: datetime) -> rsa.RSAPublicKey | None:
        """Raises: VST2007."""
        age = now - self._fetched_at if self._fetched_at is not None else None
        if age is None or age > KEEP_KEYS or (kid not in self._keys and age > ASK_AGAIN):
            self._keys = _keys_in(await self._fetch())
            self._fetched_at = now
        return self._keys.get(kid)


def _keys_in(document: bytes) -> dict[str, rsa.RSAPublicKey]:
    found: dict[str, rsa.RSAPublicKey] = {}
    try:
        for jwk in objects_at(json_object(document), "keys"):
            if text_at(jwk, "kty") == "RSA" and (kid := text_at(jwk, "kid")):
                n, e = (int.from_bytes(_decode(text_at(jwk, part))) for part in ("n", "e"))
                found[kid] = rsa.RSAPublicNumbers(e, n).public_key()
    except ValueError as error:
        raise VERIFIER_UNAVAILABLE.error(f"Google's keys are not a JWK Set: {error}") from error
    return found


def _part(text: str) -> dict[str, Any]:
    try:
        return json_object(_decode(text))
    except ValueError:
        raise MALFORMED_EVIDENCE.error("a part of the token is not JSON in base64url") from None


def _decode(text: str) -> bytes:
    """Raises: ValueError."""
    return base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)


def _instant(claims: Mapping[str, Any], name: str) -> datetime:
    seconds = claims.get(name)
    # Neither a boolean, which is an int to Python, nor beyond what a calendar holds.
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 <= seconds < 2**36:
        raise EVIDENCE_REFUSED.error(f"the token lacks {name}")
    return _EPOCH + timedelta(seconds=seconds)


_EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


class GcpIitProof:
    """The agent's half."""

    name = NAME
    single_use = False

    def __init__(self, settings: GcpIitProofSettings, metadata: Http) -> None:
        self._settings = settings
        self._metadata = metadata

    async def payload(self) -> bytes:
        """A fresh token.  Raises: VST2008, VST2340, VST2341."""
        target = TARGET.format(self._settings.service_account)
        answer = await self._metadata("GET", target, headers={"Metadata-Flavor": "Google"})
        if answer.status != 200:
            raise NO_EVIDENCE.error(f"the metadata server answers {answer.status}")
        return answer.body

    async def respond(self, challenge: bytes) -> bytes:
        """There are no challenges.  Raises: VST2002."""
        raise UNEXPECTED_CHALLENGE.error("the server challenged an instance identity token")

    async def close(self) -> None:
        """There is nothing to put away."""
