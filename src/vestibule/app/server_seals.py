"""The seal of a server's secret manager, as its settings say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vestibule.app.server_services import Services
from vestibule.app.server_settings import SealKind, ServerSettings
from vestibule.calls.channel import ServerChannel
from vestibule.calls.secrets_peers import SecretsPeer
from vestibule.clock import Clock
from vestibule.keys.secrets import secret_in_file
from vestibule.keys.token import Token
from vestibule.keys.token_ciphers import TokenCipher
from vestibule.pki.revocation import unrevoked
from vestibule.records import Address
from vestibule.secrets.seals.file import FileSeal
from vestibule.secrets.seals.peers import PeersSeal
from vestibule.secrets.seals.ports import Seal
from vestibule.secrets.seals.shares import ShamirSeal
from vestibule.secrets.seals.token import Pkcs11Seal

TOKEN_LABEL: Final = "vestibule/secrets-seal"  # noqa: S105 - of a key, which everybody may know
"""Of the key in the token: the same for all servers of a database, which need the same key."""


def seal_of(settings: ServerSettings, services: Services, clock: Clock) -> Seal:
    """The seal that the settings ask for.  Raises: VST1105 (the PIN's file)."""
    if settings.secrets_seal is SealKind.SHAMIR:
        return ShamirSeal()
    if settings.secrets_seal is SealKind.PKCS11:
        return _of_the_token(settings)
    if settings.secrets_seal is SealKind.PEERS:
        peers = [_peer(address, services, clock) for address in settings.secrets_peers]
        return PeersSeal(services.store.sealed_rows, peers)
    return FileSeal(settings.secrets_key)


def former_seals(settings: ServerSettings) -> Sequence[Seal]:
    """Those that a database may still have when the setting was changed: they open it, until a rekey."""
    return (FileSeal(settings.secrets_key), ShamirSeal())


def _of_the_token(settings: ServerSettings) -> Seal:
    module, pin = settings.pkcs11_module, settings.pkcs11_pin_file
    assert module is not None
    assert pin is not None
    return Pkcs11Seal(TokenCipher(Token(module, settings.pkcs11_token, secret_in_file(pin)), TOKEN_LABEL))


def _peer(address: Address, services: Services, clock: Clock) -> SecretsPeer:
    return SecretsPeer(
        lambda: ServerChannel(
            address,
            bundle=lambda: unrevoked(services.authorities.bundle(), services.revocations.now, clock.now()),
            svid=lambda: services.identity.svid,
            clock=clock,
            revocations=lambda: services.revocations.now,
        )
    )
