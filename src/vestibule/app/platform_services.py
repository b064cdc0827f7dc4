"""Which services of its own a server offers to the mesh, by its settings."""

from __future__ import annotations

from vestibule.app.server_settings import SealKind, ServerSettings
from vestibule.identity.names import secrets_id, server_id
from vestibule.intent.built_in import SECRETS_SERVICE
from vestibule.mesh.built_in import BuiltIn


def platform_services(settings: ServerSettings) -> tuple[BuiltIn, ...]:
    """The secret manager, if there is one."""
    if settings.secrets_seal is SealKind.OFF:
        return ()
    domain = settings.trust_domain
    secrets = BuiltIn(
        name=SECRETS_SERVICE,
        spiffe_id=secrets_id(domain),
        address=settings.secrets_place,
        server_id=server_id(domain),
    )
    return (secrets,)
