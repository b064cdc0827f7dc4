"""What the proxy in front of the secret manager bears, and what is behind it."""

from __future__ import annotations

from pathlib import Path

from vestibule.envoy.platform import MAX_APP_CONNECTIONS, VAULT_REPLIES, PlatformBootstrap, PlatformService
from vestibule.records import Address
from vestibule.secrets.versions.watching import MOST_WAITING, MOST_WAITING_EACH
from vestibule.spiffe import TrustDomain


def test_who_waits_for_secrets_leaves_connections_for_who_asks() -> None:
    assert MOST_WAITING_EACH * 4 <= MOST_WAITING
    assert MOST_WAITING + 500 <= MAX_APP_CONNECTIONS
    document = PlatformBootstrap(
        trust_domain=TrustDomain.parse("example.org"),
        services=(
            PlatformService(
                name="secrets",
                listen=Address(host="127.0.0.1", port=8200),
                app_socket=Path("app.sock"),
                replies=VAULT_REPLIES,
            ),
        ),
        server_socket=Path("sds.sock"),
        admin_socket=Path("admin.sock"),
        connection_seconds=60,
    ).document
    _, app = document["static_resources"]["clusters"]
    (thresholds,) = app["circuit_breakers"]["thresholds"]
    assert thresholds["max_connections"] == MAX_APP_CONNECTIONS
    assert thresholds["max_requests"] >= MAX_APP_CONNECTIONS
