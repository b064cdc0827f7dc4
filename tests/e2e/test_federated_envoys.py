"""Two real Envoys of two trust domains: mutual TLS between them, and what a partner that mints our IDs gets."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.component.federation_lab import Domain, domains, until
from tests.component.test_federation import fetched, healthy
from tests.ports import free_port

from vestibule.cli.bundle_files import to_message
from vestibule.net.tls import load_svid
from vestibule.proxy.binary import find_envoy
from vestibule.spiffe import X509Svid
from vestibule.testing import TestAuthority
from vestibule.wire.gen.spire import bundle_pb2

TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
HTTP = "type.googleapis.com/envoy.extensions.filters"


def secret(name: str) -> dict[str, Any]:
    service = {"envoy_grpc": {"cluster_name": "agent"}}
    source = {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [service]}
    return {"name": name, "sds_config": {"resource_api_version": "V3", "api_config_source": source}}


def listener(port: int, action: dict[str, Any], transport: dict[str, Any] | None = None) -> dict[str, Any]:
    router = {"name": "router", "typed_config": {"@type": f"{HTTP}.http.router.v3.Router"}}
    manager = {
        "@type": f"{HTTP}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "http_filters": [router],
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **action}]}
            ]
        },
    }
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": manager}]}
    if transport is not None:
        chain["transport_socket"] = {"name": "tls", "typed_config": transport}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"name": "in", "address": address, "filter_chains": [chain]}


def cluster(name: str, address: dict[str, Any], **more: Any) -> dict[str, Any]:
    endpoint = {"lb_endpoints": [{"endpoint": {"address": address}}]}
    load = {"cluster_name": name, "endpoints": [endpoint]}
    return {"name": name, "type": "STATIC", "connect_timeout": "5s", "load_assignment": load, **more}


def bootstrap(domain: Domain, listening: dict[str, Any], *clusters: dict[str, Any]) -> dict[str, Any]:
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    http2 = {
        options: {
            "@type": f"type.googleapis.com/{options}",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    agent = cluster(
        "agent", {"pipe": {"path": str(domain.agent_socket)}}, typed_extension_protocol_options=http2
    )
    return {
        "node": {"id": domain.name, "cluster": domain.name},
        "static_resources": {"listeners": [listening], "clusters": [agent, *clusters]},
    }


@asynccontextmanager
async def envoy(directory: Path, config: dict[str, Any]) -> AsyncIterator[None]:
    path = directory / "envoy.json"
    path.write_text(json.dumps(config))
    with (directory / "envoy.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            str(find_envoy()),
            *("-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"),
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def call(port: int, svid: X509Svid) -> bool:
    """Whether the way in lets this certificate in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    load_svid(context, svid)
    try:
        async with httpx.AsyncClient(verify=context, timeout=45, trust_env=False) as client:
            return (await client.get(f"https://127.0.0.1:{port}/")).status_code == 200
    except (httpx.TransportError, OSError):  # the alert may also come while the connection is being closed
        return False


@pytest.mark.timeout(120)
async def test_envoys_of_two_trust_domains_talk_and_a_partner_speaks_for_itself_alone() -> None:
    mint = TestAuthority("mint.org")
    async with domains(east={}, west={}) as (east, west):
        await east.federate(west)
        await west.federate(east)
        minted = bundle_pb2.BatchSetFederatedBundleRequest(bundle=[to_message(mint.bundle)])
        await west.bundles("BatchSetFederatedBundle", minted)
        await until(lambda: healthy(east, west))
        await east.entry(await east.agent(), "/client", "west.org")
        entry = await west.entry(await west.agent(), "/server", "east.org", "mint.org")
        await until(lambda: fetched(east))
        await until(lambda: fetched(west))
        tls_port, plain_port = free_port(), free_port()
        inward = {
            "@type": f"{TLS}.DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": {
                "tls_certificate_sds_secret_configs": [secret("default")],
                "validation_context_sds_secret_config": secret("ALL"),
            },
        }
        exact = {"san_type": "URI", "matcher": {"exact": "spiffe://west.org/server"}}
        outward = {
            "@type": f"{TLS}.UpstreamTlsContext",
            "common_tls_context": {
                "tls_certificate_sds_secret_configs": [secret("default")],
                "combined_validation_context": {
                    "default_validation_context": {"match_typed_subject_alt_names": [exact]},
                    "validation_context_sds_secret_config": secret("spiffe://west.org"),
                },
            },
        }
        answer = {"direct_response": {"status": 200, "body": {"inline_string": "come in\n"}}}
        server = bootstrap(west, listener(tls_port, answer, inward))
        upstream = cluster(
            "west",
            {"socket_address": {"address": "127.0.0.1", "port_value": tls_port}},
            transport_socket={"name": "tls", "typed_config": outward},
        )
        client = bootstrap(east, listener(plain_port, {"route": {"cluster": "west"}}), upstream)
        async with envoy(west.directory, server), envoy(east.directory, client):

            async def talking() -> bool:
                try:
                    async with httpx.AsyncClient(timeout=45, trust_env=False) as plain:
                        return (await plain.get(f"http://127.0.0.1:{plain_port}/")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(talking)
            # A partner speaks for its own trust domain, and for no other: neither ours nor another partner's.
            await until(lambda: call(tls_port, mint.svid("/caller")))
            for stolen in (
                "spiffe://west.org/server",
                "spiffe://east.org/client",
                "spiffe://west.org/spire/server",
            ):
                assert not await call(tls_port, mint.svid(stolen)), stolen
            assert not await call(tls_port, TestAuthority("stranger.org").svid("/caller"))
            # Whom the entry federates with no longer is refused from the next handshake on.
            await west.update_entry(entry, "east.org")

            async def refused() -> bool:
                return not await call(tls_port, mint.svid("/caller"))

            await until(refused)
            assert await talking()
