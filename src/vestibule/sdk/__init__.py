"""What applications import: their X.509 identity from the Workload API, and TLS contexts that follow it.

::

    async with X509Source() as source:
        context = client_context(source, authorize_ids("spiffe://example.org/ns/prod/sa/payments"))
        reader, writer = await asyncio.open_connection("payments.internal", 8443, ssl=context)

Works with any implementation of the SPIFFE Workload API, and needs nothing but the base install.
"""

from vestibule.calls.workload_api import X509Context
from vestibule.sdk.authorizers import Authorizer, authorize_ids, authorize_member_of
from vestibule.sdk.endpoint import Endpoint
from vestibule.sdk.source import X509Source, fetch_x509_context
from vestibule.sdk.tls import client_context, peer_id, server_context
from vestibule.spiffe import SpiffeId, TrustBundle, TrustDomain, X509Svid

__all__ = [
    "Authorizer",
    "Endpoint",
    "SpiffeId",
    "TrustBundle",
    "TrustDomain",
    "X509Context",
    "X509Source",
    "X509Svid",
    "authorize_ids",
    "authorize_member_of",
    "client_context",
    "fetch_x509_context",
    "peer_id",
    "server_context",
]
