"""Which services of its own a server offers to the mesh, by its settings."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from vestibule.app.server_settings import SealKind, ServerSettings
from vestibule.identity.names import secrets_id, server_id, tokens_id
from vestibule.intent.built_in import SECRETS_SERVICE, TOKENS_SERVICE
from vestibule.mesh.built_in import BuiltIn

_TOKENS_TIMEOUT: Final = timedelta(seconds=15)


def platform_services(settings: ServerSettings) -> tuple[BuiltIn, ...]:
    """The secret manager and the token service, if they are there."""
    return (*_secrets(settings), *_tokens(settings))


def _secrets(settings: ServerSettings) -> Iterator[BuiltIn]:
    if settings.secrets_seal is SealKind.OFF:
        return
    domain = settings.trust_domain
    yield BuiltIn(
        name=SECRETS_SERVICE,
        spiffe_id=secrets_id(domain),
        address=settings.secrets_place,
        server_id=server_id(domain),
    )


def _tokens(settings: ServerSettings) -> Iterator[BuiltIn]:
    if (found := settings.token_service) is None:
        return
    domain = settings.trust_domain
    yield BuiltIn(
        name=TOKENS_SERVICE,
        spiffe_id=tokens_id(domain),
        address=found.place,
        server_id=server_id(domain),
        timeout=_TOKENS_TIMEOUT,
    )
