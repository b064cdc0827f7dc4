"""The client of other trust domains' bundle endpoints, as the settings want it."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial

from vestibule.app.codes import INVALID_SETTING
from vestibule.app.server_settings import ServerSettings
from vestibule.calls.bundle_endpoint import BundleEndpoints
from vestibule.calls.http.tls import client_context
from vestibule.clock import Clock
from vestibule.identity.relationships import endpoint_url
from vestibule.spiffe import Revocations


def bundle_endpoints(
    settings: ServerSettings, clock: Clock, revocations: Callable[[], Revocations]
) -> BundleEndpoints:
    """Raises: VST9110 for web authorities that cannot be read."""
    authorities = settings.federation_web_ca
    try:
        client_context(authorities)
    except (OSError, ssl.SSLError) as error:
        raise INVALID_SETTING.error(f"federation_web_ca {authorities} cannot be used: {error}") from error
    return BundleEndpoints(
        clock=clock,
        parse=endpoint_url,
        web=partial(client_context, authorities),
        permit_local=settings.federation_permit_local,
        revocations=revocations,
    )
