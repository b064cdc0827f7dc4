"""Listeners: where a proxy accepts connections, from other proxies or from the app beside it."""

from __future__ import annotations

from typing import Final

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from vestibule.envoy.places import address_of
from vestibule.envoy.protos import packed, seconds, serialized
from vestibule.records import Address
from vestibule.xds.resources import LISTENER, Resource

HANDSHAKE_TIMEOUT: Final = 5.0
"""Seconds a client may take until TLS is established."""

BUFFER_BYTES: Final = 256 * 1024
"""How much a proxy holds for a reader that is slower than its writer, per connection and direction."""

EDGE_BUFFER_BYTES: Final = 32 * 1024
"""The same for clients outside, of whom there may be very many."""


_BALANCE: Final = listener_pb2.Listener.ConnectionBalanceConfig(
    exact_balance=listener_pb2.Listener.ConnectionBalanceConfig.ExactBalance()
)


def inbound(
    name: str, address: Address, chain: FilterChain, log: AccessLog, plaintext: FilterChain | None = None
) -> Resource:
    """For other proxies, and with ``plaintext`` for clients without TLS.

    ``log`` also hears of clients whose handshake failed.
    """
    chain.transport_socket_connect_timeout.CopyFrom(seconds(HANDSHAKE_TIMEOUT))
    listener = _listener(name, address, chain)
    if plaintext is not None:
        listener.filter_chains[0].filter_chain_match.transport_protocol = "tls"
        plaintext.filter_chain_match.transport_protocol = "raw_buffer"
        listener.filter_chains.append(plaintext)
        listener.listener_filters.add(
            name="envoy.filters.listener.tls_inspector", typed_config=packed(tls_inspector_pb2.TlsInspector())
        )
    listener.traffic_direction = base_pb2.INBOUND
    listener.access_log.append(log)
    return Resource.of(LISTENER, name, serialized(listener))


def edge(name: str, address: Address, chain: FilterChain, log: AccessLog) -> Resource:
    """For whoever is out there: as for other proxies, with less room for each."""
    chain.transport_socket_connect_timeout.CopyFrom(seconds(HANDSHAKE_TIMEOUT))
    listener = _listener(name, address, chain)
    listener.per_connection_buffer_limit_bytes.value = EDGE_BUFFER_BYTES
    listener.traffic_direction = base_pb2.INBOUND
    listener.access_log.append(log)
    return Resource.of(LISTENER, name, serialized(listener))


def outbound(name: str, address: Address, chain: FilterChain) -> Resource:
    """For the app beside the proxy."""
    listener = _listener(name, address, chain)
    listener.traffic_direction = base_pb2.OUTBOUND
    return Resource.of(LISTENER, name, serialized(listener))


def tcp_proxy(proxy: tcp_proxy_pb2.TcpProxy) -> listener_components_pb2.Filter:
    """The last filter of a chain that carries bytes."""
    return listener_components_pb2.Filter(name="envoy.filters.network.tcp_proxy", typed_config=packed(proxy))


def _listener(name: str, address: Address, chain: FilterChain) -> listener_pb2.Listener:
    return listener_pb2.Listener(
        name=name,
        stat_prefix=name,
        address=address_of(address),
        filter_chains=[chain],
        per_connection_buffer_limit_bytes=UInt32Value(value=BUFFER_BYTES),
        # A second process on the same port must fail, not get every other call.
        enable_reuse_port=BoolValue(value=False),
        # Without it one worker would wake up first, and take most of the connections that come together.
        connection_balance_config=_BALANCE,
    )
