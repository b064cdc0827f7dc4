"""The ceremonies around the secret manager's keys, as operators ask for them (a part of ``SecretsAdmin``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from vestibule.clock import Clock
from vestibule.doors.identity_api.values import actor, receive
from vestibule.doors.vault.codes import BAD_REQUEST, NO_SECRET_MANAGER
from vestibule.keys.secrets import Secret
from vestibule.net.grpc import Stream
from vestibule.secrets.backups import Passphrase, Recipient, RecipientKey, Unwrapping, Wrapping
from vestibule.secrets.sealing import RekeyStatus, Sealing, SealStatus
from vestibule.secrets.seals.ports import Plan
from vestibule.wire.gen.vestibule.admin.v1 import secrets_pb2 as wire


class SealingDoor:
    """Translates for ``secrets.sealing``; without one there is no secret manager."""

    def __init__(self, sealing: Sealing | None, clock: Clock, forget: Callable[[], None]) -> None:
        """``forget`` drops what engines keep in memory of what is sealed."""
        self._sealing = sealing
        self._forget = forget
        self._clock = clock

    async def get_seal(self, stream: Stream) -> None:
        """GetSeal."""
        await receive(stream)
        await stream.send_message(status_to_wire(await self._known().status()))

    async def init(self, stream: Stream) -> None:
        """Init.  Raises: VST5011, VST5014."""
        request, known = await receive(stream), self._known()
        shares = await known.init(_plan(request), actor=actor())
        status = status_to_wire(await known.status())
        await stream.send_message(wire.InitSealResponse(shares=shares, status=status))

    async def unseal(self, stream: Stream) -> None:
        """Unseal.  Raises: as ``Sealing.unseal``."""
        request, known = await receive(stream), self._known()
        if request.reset:
            await known.forget_shares(actor=actor())
            await stream.send_message(status_to_wire(await known.status()))
            return
        status = await known.unseal(
            request.share or None, actor=actor(), accept_rollback=request.accept_rollback
        )
        await stream.send_message(status_to_wire(status))

    async def seal(self, stream: Stream) -> None:
        """Seal.  Raises: VST8100."""
        await receive(stream)
        await self._known().seal(actor=actor())
        self._forget()
        await stream.send_message(status_to_wire(await self._known().status()))

    async def rotate_keys(self, stream: Stream) -> None:
        """RotateKeys.  Raises: VST5000, VST5018."""
        request, known = await receive(stream), self._known()
        if request.root:
            await known.rotate_root_key(actor=actor())
        else:
            await known.rotate_data_key(actor=actor())
        await stream.send_message(status_to_wire(await known.status()))

    async def rekey(self, stream: Stream) -> None:
        """Rekey.  Raises: VST5016, and as ``Sealing.rekey``."""
        request = await receive(stream)
        status = await self._known().rekey(
            _plan(request),
            actor=actor(),
            verification=request.verification,
            rotate_root=request.rotate_root,
        )
        await stream.send_message(_rekey(status))

    async def give_share(self, stream: Stream) -> None:
        """GiveShare.  Raises: VST5016, and as ``Sealing.unseal``."""
        request, known = await receive(stream), self._known()
        give = known.rekey_verify if request.verifying else known.rekey_share
        await stream.send_message(_rekey(await give(request.nonce, request.share, actor=actor())))

    async def cancel_rekey(self, stream: Stream) -> None:
        """CancelRekey."""
        await receive(stream)
        await self._known().cancel_rekey(actor=actor())
        await stream.send_message(status_to_wire(await self._known().status()))

    async def backup(self, stream: Stream) -> None:
        """Backup.  Raises: VST5000, VST8100."""
        request = await receive(stream)
        findings: list[str] = []
        pieces = self._known().backup(
            _wrapping(request), actor=actor(), now=self._clock.now(), findings=findings
        )
        async for piece in pieces:
            await stream.send_message(wire.BackupPiece(piece=piece))
        await stream.send_message(wire.BackupPiece(findings=findings))

    async def restore(self, stream: Stream) -> None:
        """Restore.  Raises: VST5020, VST5006, VST5007, and as ``Sealing.unseal``."""
        first = await stream.recv_message()
        if first is None:
            raise BAD_REQUEST.error("there is no backup")
        options = first.options

        async def pieces() -> AsyncIterator[bytes]:
            if first.piece:
                yield first.piece
            while (message := await stream.recv_message()) is not None:
                yield message.piece

        header = await self._known().restore(
            pieces(),
            _unwrapping(options),
            actor=actor(),
            overwrite=options.overwrite,
            shares=tuple(options.shares),
        )
        self._forget()
        await stream.send_message(
            wire.RestoreResponse(created_at=header.created_at, generation=header.generation)
        )

    def _known(self) -> Sealing:
        if self._sealing is None:
            raise NO_SECRET_MANAGER.error("this server runs without a secret manager")
        return self._sealing


def _plan(request: wire.InitSealRequest | wire.RekeyRequest) -> Plan:
    return Plan(shares=request.shares or 1, threshold=request.threshold or 1)


def _wrapping(request: wire.BackupRequest) -> Wrapping | None:
    if request.passphrase:
        return Passphrase(Secret(request.passphrase))
    return Recipient(request.recipient) if request.recipient else None


def _unwrapping(options: wire.RestoreOptions) -> Unwrapping | None:
    if options.passphrase:
        return Passphrase(Secret(options.passphrase))
    if not options.private_key:
        return None
    try:
        return RecipientKey(X25519PrivateKey.from_private_bytes(options.private_key))
    except ValueError:
        raise BAD_REQUEST.error("the key is no X25519 private key of 32 bytes") from None


def status_to_wire(status: SealStatus) -> wire.SealStatus:
    """How things are, as operators see it."""
    return wire.SealStatus(
        kind=status.kind,
        initialised=status.initialised,
        sealed=status.sealed,
        automatic=status.automatic,
        shares=status.plan.shares if status.plan else 0,
        threshold=status.plan.threshold if status.plan else 0,
        progress=status.progress,
        key_id=status.key_id,
        reencrypting=status.reencrypting,
        generation=status.generation,
        problem=status.problem,
        damaged=status.damaged,
    )


def _rekey(status: RekeyStatus) -> wire.RekeyStatus:
    return wire.RekeyStatus(
        nonce=status.nonce,
        required=status.required,
        progress=status.progress,
        shares=status.plan.shares,
        threshold=status.plan.threshold,
        verifying=status.verifying,
        complete=status.complete,
        new_shares=status.shares,
    )
