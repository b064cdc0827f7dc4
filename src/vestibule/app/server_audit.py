"""The audit log of a server, and the checkpoints that are signed of it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vestibule.app.server_settings import ServerSettings
from vestibule.audit import AuditLog
from vestibule.audit.checkpointing import Checkpointer
from vestibule.audit.forwarding import Forwarder
from vestibule.audit.notes import NoteSigner
from vestibule.calls.audit_sinks import shown, sink_at
from vestibule.calls.http.tls import client_context
from vestibule.clock import Clock
from vestibule.keys import Sealer, load_or_create_kek
from vestibule.keys.codes import KEY_NOT_KEPT
from vestibule.keys.files import read_private, write_private
from vestibule.spiffe import TrustDomain

LOG: Final = "audit.jsonl"
KEY: Final = "audit.key"
"""The sealed key that signs checkpoints: of this data directory alone, so each server of several has its own chain."""

_CONTEXT: Final = b"audit checkpoints"
_LONGEST: Final = 256
_LONGEST_TOKEN: Final = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """What follows the log: the signer of checkpoints, and what carries records to other places."""

    checkpointer: Checkpointer
    forwarders: tuple[Forwarder, ...] = ()

    def appended(self, lines: bytes) -> None:
        """Lines that are durable now; called from any thread."""
        self.checkpointer.take(lines)
        for each in self.forwarders:
            each.appended(lines)

    def background(self) -> Iterator[tuple[str, Callable[[], Coroutine[None, None, None]]]]:
        """What runs as long as the server does, with names."""
        yield "audit-checkpoints", self.checkpointer.run
        for number, each in enumerate(self.forwarders, 1):
            yield f"audit-sink-{number}", each.run


@asynccontextmanager
async def opened_log(settings: ServerSettings, clock: Clock) -> AsyncIterator[tuple[AuditLog, Following]]:
    """The log, and what follows it; the last checkpoint is made when it is closed.

    Raises: VST8100, VST8101, VST8102, VST8103, VST8106, VST1102, VST1104.
    """
    path = settings.data_dir / LOG
    log = AuditLog(path, clock, max_bytes=settings.audit_file_size, max_files=settings.audit_files)
    await log.open()
    try:
        signer = checkpoint_signer(settings.data_dir / KEY, settings.kek, settings.trust_domain)
        checkpointer = Checkpointer(path, signer, clock)
        await checkpointer.open(log.end.seq)
        _publish(path, signer)
        following = Following(checkpointer=checkpointer, forwarders=_forwarders(settings, path))
        log.appended = following.appended
        try:
            yield log, following
        finally:
            await checkpointer.checkpoint()
    finally:
        await log.close()


def _forwarders(settings: ServerSettings, log: Path) -> tuple[Forwarder, ...]:
    """One for each place; how far it got is kept under a name made from the place.  Raises: VST8106."""
    found = []
    for place in settings.audit_sinks:
        sink = sink_at(place, lambda: client_context(settings.audit_sink_ca), lambda: _token(settings))
        digest = hashlib.sha256(place.encode()).hexdigest()[:16]
        found.append(Forwarder(log, sink, settings.data_dir / "audit-sinks" / digest, shown(place)))
    return tuple(found)


def _token(settings: ServerSettings) -> str:
    """Raises: OSError: records then wait."""
    if settings.audit_sink_token_file is None:
        return ""
    return read_private(settings.audit_sink_token_file, _LONGEST_TOKEN).decode("ascii", "replace").strip()


def checkpoint_signer(path: Path, kek: Path, domain: TrustDomain) -> NoteSigner:
    """The key at ``path``, which is made if it is not there.  Raises: VST1102, VST1104, VST1108."""
    sealer = Sealer(load_or_create_kek(kek))
    try:
        if not path.exists():
            sealed = sealer.seal(secrets.token_bytes(32), context=_CONTEXT)
            with suppress(FileExistsError):
                write_private(path, sealed, replace=False)
        private = sealer.unseal(read_private(path, _LONGEST), context=_CONTEXT)
    except OSError as error:
        raise KEY_NOT_KEPT.error(f"{path} is refused: {error.strerror or error}") from error
    public = Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    return NoteSigner(f"vestibule.audit/{domain}/{hashlib.sha256(public).hexdigest()[:16]}", private)


def _publish(log: Path, signer: NoteSigner) -> None:
    """Put the public key beside the log, for `vestibule audit key`: whoever verifies keeps it somewhere else."""
    text = f"{signer.verifier}\n".encode()
    path = log.with_name(f"{log.name}.pub")
    with suppress(OSError):  # a full disk: it is there from an earlier start, or is written at the next
        if not path.exists() or path.read_bytes() != text:
            write_private(path, text)
