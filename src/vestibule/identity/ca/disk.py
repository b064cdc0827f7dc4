"""The upstream ``disk``: an intermediate whose certificate chain and key are files, put there by somebody else.

It is what a secret store or a configuration system delivers.  The files are read when they are needed and again when
they change, so that a new intermediate is in use without a restart.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from vestibule.audit import Audit, AuditEvent
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.ca.codes import UPSTREAM_FILES
from vestibule.identity.ca.files import read, read_public
from vestibule.identity.ca.roots_file import RootsFile
from vestibule.identity.ca.watched_files import Stamp, stamp
from vestibule.identity.upstream import UpstreamChain
from vestibule.pki.authority_chains import check_authority_chain
from vestibule.pki.csr import parse_csr
from vestibule.pki.keys import PublicKey
from vestibule.pki.pem import CERTIFICATE, pem_blocks
from vestibule.pki.profiles import Issuer, authority_id, intermediate_ca, lifetime
from vestibule.spiffe import TrustDomain


@dataclass(frozen=True, slots=True)
class _Loaded:
    chain: tuple[bytes, ...]
    key: EllipticCurvePrivateKey


class DiskUpstream:
    """An ``UpstreamAuthority`` from files: ``chain`` (PEM, the intermediate first), ``key`` (PKCS #8 PEM, mode 600).

    ``roots`` is a PEM file; without one the chain's last certificate is the root.
    """

    name = "disk"

    def __init__(
        self,
        chain: Path,
        key: Path,
        roots: Path | None,
        trust_domain: TrustDomain,
        audit: Audit,
        clock: Clock,
    ) -> None:
        self._paths = (chain, key)
        self._roots = RootsFile(roots or chain, trust_domain)
        self._roots_apart = roots is not None
        self._trust_domain = trust_domain
        self._audit = audit
        self._clock = clock
        self._seen: Stamp | None = None
        self._loaded: _Loaded | None = None

    async def mint(self, csr: bytes, ttl: timedelta) -> UpstreamChain:
        """Sign one of our authorities.  Raises: VST1386; VST1000, VST1001, VST1003 (the request), VST1004, audit's."""
        facts, loaded, now = parse_csr(csr), self._load(), self._clock.now()
        chain, roots = self._split(loaded)
        try:
            above = check_authority_chain(chain, roots, _ec(loaded.key), self._trust_domain, now)
        except VestibuleError as error:
            raise UPSTREAM_FILES.error(
                f"the chain in {self._paths[0]} is refused: {error.message}"
            ) from error
        issuer = Issuer.of(chain[0], self._trust_domain)
        valid = lifetime(now, ttl, above.not_after)
        builder = intermediate_ca(facts.public_key, valid, issuer)
        await record_mint(
            self._audit, self.name, authority_id(facts.public_key), issuer, valid.not_after.isoformat()
        )
        der = builder.sign(loaded.key, SHA256()).public_bytes(Encoding.DER)
        return UpstreamChain(chain=(der, *chain), roots=roots)

    async def roots(self) -> AsyncIterator[tuple[bytes, ...]]:
        """The roots now, and after every change of their file.  Raises: VST1386."""
        async for roots in self._roots.versions():
            yield roots if self._roots_apart else roots[-1:]

    def _split(self, loaded: _Loaded) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        if not self._roots_apart:
            return loaded.chain[:-1] or loaded.chain, loaded.chain[-1:]
        roots = self._roots.read()
        return tuple(der for der in loaded.chain if der not in roots), roots

    def _load(self) -> _Loaded:
        now = stamp(self._paths)
        if self._loaded is None or now != self._seen:
            self._loaded, self._seen = None, now
            self._loaded = self._read()
        return self._loaded

    def _read(self) -> _Loaded:
        chain, key = self._paths
        try:
            certificates = pem_blocks(read_public(chain), CERTIFICATE)
            private = load_pem_private_key(read(key), None)
        except VestibuleError as error:
            raise UPSTREAM_FILES.error(error.message) from error
        except (ValueError, TypeError) as error:
            raise UPSTREAM_FILES.error(f"{key} is not an unencrypted private key in PEM") from error
        if not isinstance(private, EllipticCurvePrivateKey):
            raise UPSTREAM_FILES.error(f"{key} is not an EC key")
        return _Loaded(certificates, private)


async def record_mint(audit: Audit, upstream: str, subject: str, issuer: Issuer, not_after: str) -> None:
    """Put it on record before an intermediate signs one of our authorities.  Raises: errors of audit."""
    details = {"upstream": upstream, "issuer": issuer.key_identifier.hex(), "not_after": not_after}
    await audit.record(
        [AuditEvent(actor="server", action="intermediate.sign", subject=subject, details=details)]
    )


def _ec(key: EllipticCurvePrivateKey) -> PublicKey:
    return key.public_key()
