"""A root, whoever asks it, and the files between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from vestibule.identity.ca.ceremony import CeremonyUpstream
from vestibule.identity.ca.files import Transcript, make_directory
from vestibule.identity.ca.register import Policy
from vestibule.identity.ca.requests import Request, make_request, read_request
from vestibule.identity.ca.root import KEY_ID, Root
from vestibule.keys import MemoryKeyManager
from vestibule.pki.keys import generate_key
from vestibule.spiffe import TrustDomain
from vestibule.testing import FakeClock

NOW = datetime(2026, 10, 1, 12, tzinfo=UTC)
DOMAIN = TrustDomain.parse("example.org")
POLICY = Policy(max_lifetime=timedelta(days=100), max_path_length=1)


@dataclass
class RootLab:
    """An offline root in ``directory``; its key is at hand."""

    directory: Path
    name: str = "example-root"
    key: EllipticCurvePrivateKey = field(default_factory=generate_key)
    domain: TrustDomain = DOMAIN

    def __post_init__(self) -> None:
        self.root = Root(self.directory)
        self.keys = MemoryKeyManager()
        self.keys.hold(KEY_ID, self.key)

    async def made(self, ttl: timedelta = timedelta(days=3650), now: datetime = NOW) -> RootLab:
        make_directory(self.directory)
        await self.root.init(self.name, self.domain, self.keys, "file", POLICY, ttl, now)
        return self

    @property
    def der(self) -> bytes:
        return self.root.certificate().public_bytes(Encoding.DER)

    @property
    def pem(self) -> Path:
        return self.directory / "root.pem"

    async def answers(self, request: Request | bytes, now: datetime = NOW, **more: object) -> bytes:
        asked = read_request(request) if isinstance(request, bytes) else request
        return (await self.root.sign(asked, self.keys, now, **more))[1]  # type: ignore[arg-type]


@dataclass
class Asking:
    """Somebody who holds keys and asks for intermediates."""

    directory: Path
    keys: MemoryKeyManager = field(default_factory=MemoryKeyManager)

    def __post_init__(self) -> None:
        make_directory(self.directory)
        self.transcript = Transcript(self.directory)

    async def asks(
        self,
        name: str = "prod-2026-Q4",
        now: datetime = NOW,
        domain: TrustDomain = DOMAIN,
        *,
        key: bool = True,
    ) -> bytes:
        if key:
            await self.keys.generate(name)
        return await make_request(self.transcript, self.keys, name, name, domain, now)


class Recorded:
    """An audit log in a list; it can be made to fail."""

    def __init__(self) -> None:
        self.actions: list[str] = []
        self.broken: Exception | None = None

    async def record(self, events: object) -> None:
        if self.broken is not None:
            raise self.broken
        self.actions += [event.action for event in events]  # type: ignore[attr-defined]


def ceremony(
    directory: Path, roots: Path, clock: FakeClock, keys: MemoryKeyManager, audit: Recorded | None = None
) -> CeremonyUpstream:
    return CeremonyUpstream(directory, roots, "prod", DOMAIN, keys, audit or Recorded(), clock)
