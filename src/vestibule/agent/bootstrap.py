"""An agent's first steps: how it knows the server for the first time, and what it proves itself with."""

from __future__ import annotations

import hmac
import logging
import os
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from vestibule.agent.codes import CANNOT_JOIN, FINGERPRINT_MISMATCH, NO_FIRST_TRUST, UNREADABLE_FILE
from vestibule.attest.node.join_token import JoinTokenProof, agent_id
from vestibule.errors import VestibuleError
from vestibule.pki.bundles import from_jwks, from_pem, sha256_fingerprint
from vestibule.spiffe import TrustBundle, TrustDomain

MAX_FILE_BYTES: Final = 1024 * 1024
_SHA256_HEX: Final = 64
_log = logging.getLogger(__name__)

FetchUnverified = Callable[[], Awaitable[TrustBundle]]
"""Asks whoever answers at the server's address for the bundle, without knowing who that is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstTrust:
    """How a new agent knows the server: exactly one of three ways.  There is no default."""

    bundle_file: Path | None = None
    bundle_sha256: str = ""
    insecure: bool = False

    @property
    def is_firm(self) -> bool:
        """Whether it names a server, rather than believing anyone."""
        return bool(self.bundle_file or self.bundle_sha256)

    @property
    def is_given(self) -> bool:
        """Whether there is any."""
        return self.is_firm or self.insecure

    def check(self) -> None:
        """Raises: VST2102 unless exactly one way was chosen, and that one is well-formed."""
        chosen = [bool(self.bundle_file), bool(self.bundle_sha256), self.insecure]
        if sum(chosen) == 0:
            raise NO_FIRST_TRUST.error("this agent has never met its server and was not told how to know it")
        if sum(chosen) > 1:
            raise NO_FIRST_TRUST.error("more than one way to know the server was given")
        if self.bundle_sha256 and not _is_sha256(self.bundle_sha256):
            raise NO_FIRST_TRUST.error("the trust bundle's hash is not a SHA-256 in hex")

    async def bundle(self, trust_domain: TrustDomain, fetch: FetchUnverified) -> TrustBundle:
        """The first trust bundle.

        Raises: VST2102, VST2103 (file), VST2104 (another bundle than was promised), what ``fetch`` raises,
        errors of ``pki.bundles`` for a malformed file.
        """
        self.check()
        if self.bundle_file is not None:
            return _parse(trust_domain, _read(self.bundle_file, private=False))
        # Certificates are pinned below.  JWT keys would be only what a stranger says: they come with the first
        # synchronisation, from the server itself.
        bundle = replace(await fetch(), jwt_authorities=())
        found = sha256_fingerprint(bundle)
        if self.bundle_sha256:
            if not hmac.compare_digest(found, self.bundle_sha256.lower()):
                raise FINGERPRINT_MISMATCH.error(f"the server's trust bundle has the SHA-256 {found}")
        else:
            _log.warning(
                "INSECURE BOOTSTRAP: believing the first server that answered (trust bundle SHA-256 %s)",
                found,
            )
        return bundle


class JoinTokenFile:
    """The evidence in a token file, read anew whenever it is needed, so that an operator can put in a new token.

    An inherited descriptor (``/dev/fd/N``) can be read only once; what it held is remembered.
    """

    def __init__(self, path: Path | None, trust_domain: TrustDomain) -> None:
        self._path = path
        self._trust_domain = trust_domain
        self._remembered = ""

    def proof(self) -> JoinTokenProof:
        """Raises: VST2101 without a file, VST2103 if it cannot be read or is open to others, VST2000 (malformed)."""
        if self._path is None:
            raise CANNOT_JOIN.error("the agent has to join and was given no join token")
        token = self._remembered or _read(self._path, private=True).decode("ascii", "replace").strip()
        if not self._path.is_file():
            self._remembered = token
        agent_id(self._trust_domain, token)
        return JoinTokenProof(token)


def _read(path: Path, *, private: bool) -> bytes:
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            if private and stat.S_ISREG(facts.st_mode) and facts.st_mode & 0o077:
                raise UNREADABLE_FILE.error(
                    f"the token file {path} is open to other users (mode {stat.S_IMODE(facts.st_mode):04o})",
                    advice=f"chmod 600 {path}, and make a new token if others may have read this one.",
                )
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UNREADABLE_FILE.error(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise UNREADABLE_FILE.error(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    return data


def _parse(trust_domain: TrustDomain, data: bytes) -> TrustBundle:
    if data.lstrip().startswith(b"{"):
        return from_jwks(trust_domain, data)
    return from_pem(trust_domain, data)


def _is_sha256(text: str) -> bool:
    try:
        return len(bytes.fromhex(text)) * 2 == len(text) == _SHA256_HEX
    except ValueError:
        return False


def is_final(error: VestibuleError) -> bool:
    """Whether trying to join again, just so, is pointless."""
    return error.code in (CANNOT_JOIN, NO_FIRST_TRUST, UNREADABLE_FILE, FINGERPRINT_MISMATCH)
