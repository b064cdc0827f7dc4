"""What applications import: their identity from the Workload API, TLS contexts that follow it, and tokens.

::

    async with X509Source() as source:
        context = client_context(source, authorize_ids("spiffe://example.org/ns/prod/sa/payments"))
        reader, writer = await asyncio.open_connection("payments.internal", 8443, ssl=context)

In a program of threads, ``with X509Source() as source`` does the same in the background.  Libraries and frameworks have
modules of their own (``vestibule.sdk.httpx``, ``.requests``, ``.aiohttp``, ``.uvicorn``, ``.grpclib`` and so on), which
leave connections before their certificates end.

Where a certificate cannot go, because something in between ends TLS, a token does::

    svid = await fetch_jwt_svid("payments")  # the caller: Authorization: Bearer {svid.token}
    caller = await validate_jwt_svid(token, "payments")  # payments: caller.spiffe_id

Works with any implementation of the SPIFFE Workload API, and needs nothing but the base install.

Each name is loaded from its module when it is first used, so that a program pays for what it uses.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from vestibule.calls.workload_api import X509Context
    from vestibule.sdk.authorizers import (
        Authorizer,
        authorize_any_of,
        authorize_ids,
        authorize_if,
        authorize_member_of,
        authorize_paths,
    )
    from vestibule.sdk.connections import Connection, ConnectionBook, Lifetimes, Watch, connection_of
    from vestibule.sdk.endpoint import Endpoint
    from vestibule.sdk.jwt import fetch_jwt_bundles, fetch_jwt_svid, validate_jwt_svid, verify_jwt_svid
    from vestibule.sdk.jwt_source import JwtSource
    from vestibule.sdk.reasons import reason
    from vestibule.sdk.source import X509Source, fetch_x509_context
    from vestibule.sdk.tls import client_context, peer_id, server_context
    from vestibule.spiffe import JwtSvid, Revocations, SpiffeId, TrustBundle, TrustDomain, X509Svid

__all__ = [
    "Authorizer",
    "Connection",
    "ConnectionBook",
    "Endpoint",
    "JwtSource",
    "JwtSvid",
    "Lifetimes",
    "Revocations",
    "SpiffeId",
    "TrustBundle",
    "TrustDomain",
    "Watch",
    "X509Context",
    "X509Source",
    "X509Svid",
    "authorize_any_of",
    "authorize_ids",
    "authorize_if",
    "authorize_member_of",
    "authorize_paths",
    "client_context",
    "connection_of",
    "fetch_jwt_bundles",
    "fetch_jwt_svid",
    "fetch_x509_context",
    "peer_id",
    "reason",
    "server_context",
    "validate_jwt_svid",
    "verify_jwt_svid",
]

_MODULES: Final = {
    "Authorizer": "vestibule.sdk.authorizers",
    "Connection": "vestibule.sdk.connections",
    "ConnectionBook": "vestibule.sdk.connections",
    "Endpoint": "vestibule.sdk.endpoint",
    "JwtSource": "vestibule.sdk.jwt_source",
    "JwtSvid": "vestibule.spiffe",
    "Lifetimes": "vestibule.sdk.connections",
    "Revocations": "vestibule.spiffe",
    "SpiffeId": "vestibule.spiffe",
    "TrustBundle": "vestibule.spiffe",
    "TrustDomain": "vestibule.spiffe",
    "Watch": "vestibule.sdk.connections",
    "X509Context": "vestibule.calls.workload_api",
    "X509Source": "vestibule.sdk.source",
    "X509Svid": "vestibule.spiffe",
    "authorize_any_of": "vestibule.sdk.authorizers",
    "authorize_ids": "vestibule.sdk.authorizers",
    "authorize_if": "vestibule.sdk.authorizers",
    "authorize_member_of": "vestibule.sdk.authorizers",
    "authorize_paths": "vestibule.sdk.authorizers",
    "client_context": "vestibule.sdk.tls",
    "connection_of": "vestibule.sdk.connections",
    "fetch_jwt_bundles": "vestibule.sdk.jwt",
    "fetch_jwt_svid": "vestibule.sdk.jwt",
    "fetch_x509_context": "vestibule.sdk.source",
    "peer_id": "vestibule.sdk.tls",
    "reason": "vestibule.sdk.reasons",
    "server_context": "vestibule.sdk.tls",
    "validate_jwt_svid": "vestibule.sdk.jwt",
    "verify_jwt_svid": "vestibule.sdk.jwt",
}


if not TYPE_CHECKING:  # where types are checked, only the names above exist

    def __getattr__(name: str) -> Any:
        module = _MODULES.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(module), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
