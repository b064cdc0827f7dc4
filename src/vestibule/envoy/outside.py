"""Where hosts outside the mesh are, and how they are spoken to.

What is ours stays inside: no certificate, no identity, no request id goes out.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import address_pb2, extension_pb2, protocol_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.extensions.clusters.common.dns.v3 import dns_pb2
from envoy.extensions.clusters.dns.v3 import dns_cluster_pb2
from envoy.extensions.filters.http.credential_injector.v3 import credential_injector_pb2
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.filters.http.upstream_codec.v3 import upstream_codec_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.http.injected_credentials.generic.v3 import generic_pb2
from envoy.extensions.network.dns_resolver.cares.v3 import cares_dns_resolver_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as options_pb2
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import UInt32Value, UInt64Value

from vestibule.envoy import bounds
from vestibule.envoy.host_secrets import CredentialFile, name_of
from vestibule.envoy.http import http2_options
from vestibule.envoy.outside_tls import is_address, public_tls
from vestibule.envoy.places import sidecar_secrets
from vestibule.envoy.protos import packed, seconds, serialized
from vestibule.envoy.replies import OUTSIDE
from vestibule.intent.model import Defaults
from vestibule.intent.outside import Credential, External, HostPort, OutsideProtocol, OutsideTls
from vestibule.xds.resources import CLUSTER, Resource

CONNECT_TIMEOUT: Final = 5.0
IDLE_TIMEOUT: Final = 60.0
"""Seconds; connections that rest longer are often closed by the other side without a word."""

CONNECTION_AGE: Final = 600.0
"""Seconds after which a connection is replaced, so that changes of addresses and of authorities count for all."""

DNS_QUERY_TIMEOUT: Final = 2
DNS_QUERY_TRIES: Final = 2
"""A resolver that is silent keeps a proxy from starting for no longer than these two together."""

_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_OURS: Final = ("x-envoy-", "x-vestibule-", "x-forwarded-")
_OURS_EXACTLY: Final = ("forwarded", "x-real-ip", "x-request-id")
_TRANSPORT_MATCH: Final = "envoy.transport_socket_match"
_DEFAULT_PORTS: Final = {True: 443, False: 80}


def cluster_name(external: External) -> str:
    return f"{OUTSIDE}{external.name}"


def speaks_http(external: External) -> bool:
    """Whether calls have methods and paths that rules can speak of."""
    return external.protocol is not OutsideProtocol.TCP


def cluster(external: External, defaults: Defaults) -> Resource:
    """Where an outside host is, and how it is spoken to: the same for all who may call it."""
    return _cluster(replace(external, allow=()), defaults)


@lru_cache(maxsize=4096)
def _cluster(external: External, defaults: Defaults) -> Resource:
    built = cluster_pb2.Cluster(name=cluster_name(external), connect_timeout=seconds(CONNECT_TIMEOUT))
    _where(built, external)
    bounds.limit(built, external.traffic.circuit or defaults.circuit)
    bounds.watch(built, external.traffic.outlier or defaults.outlier)
    if external.tls is OutsideTls.WEBPKI:
        _secure(built, external)
    if speaks_http(external):
        built.typed_extension_protocol_options[_OPTIONS].CopyFrom(packed(_http_options(external)))
    return Resource.of(CLUSTER, built.name, serialized(built))


# ------------------------------------------------------------------------------------------------ where


def _where(built: cluster_pb2.Cluster, external: External) -> None:
    dialled = external.addresses or external.hosts
    if all(is_address(each.host) for each in dialled):
        built.type = cluster_pb2.Cluster.STATIC
    else:
        # One name: DNS may answer otherwise each time, and connections that hold are kept.  Several: all are used.
        config = dns_cluster_pb2.DnsCluster(
            respect_dns_ttl=True,
            dns_lookup_family=dns_pb2.V4_PREFERRED,
            typed_dns_resolver_config=resolver(),
            all_addresses_in_single_endpoint=len(dialled) == 1,
        )
        built.cluster_type.name = "envoy.cluster.dns"
        built.cluster_type.typed_config.CopyFrom(packed(config))
    locality = endpoint_components_pb2.LocalityLbEndpoints()
    for place in dialled:
        named = place if not external.addresses else external.hosts[0]
        locality.lb_endpoints.append(_endpoint(place, named, external))
    built.load_assignment.CopyFrom(
        endpoint_pb2.ClusterLoadAssignment(cluster_name=built.name, endpoints=[locality])
    )
    built.lb_policy = cluster_pb2.Cluster.LEAST_REQUEST


def _endpoint(place: HostPort, named: HostPort, external: External) -> endpoint_components_pb2.LbEndpoint:
    endpoint = endpoint_components_pb2.Endpoint(
        address=address_pb2.Address(
            socket_address=address_pb2.SocketAddress(address=place.host, port_value=place.port)
        ),
        hostname=authority(named, secure=external.tls is OutsideTls.WEBPKI),
    )
    found = endpoint_components_pb2.LbEndpoint(endpoint=endpoint)
    if _names_differ(external):
        found.metadata.filter_metadata[_TRANSPORT_MATCH].update({"name": place.host})
    return found


def authority(named: HostPort, *, secure: bool) -> str:
    """What stands in ``Host``: the port only where it is not the scheme's own."""
    host = f"[{named.host}]" if ":" in named.host else named.host
    return host if named.port == _DEFAULT_PORTS[secure] else f"{host}:{named.port}"


def resolver() -> extension_pb2.TypedExtensionConfig:
    """Who is asked for addresses, and with how much patience."""
    config = cares_dns_resolver_pb2.CaresDnsResolverConfig(
        query_timeout_seconds=UInt64Value(value=DNS_QUERY_TIMEOUT),
        query_tries=UInt32Value(value=DNS_QUERY_TRIES),
    )
    return extension_pb2.TypedExtensionConfig(
        name="envoy.network.dns_resolver.cares", typed_config=packed(config)
    )


# -------------------------------------------------------------------------------------------------- how


def _names_differ(external: External) -> bool:
    """Whether each host has to prove a name of its own."""
    return external.sni is None and not external.addresses and len({each.host for each in external.hosts}) > 1


def _secure(built: cluster_pb2.Cluster, external: External) -> None:
    alpn = _alpn(external)
    name = external.sni or external.hosts[0].host
    # Also where names differ: an endpoint that matched none must not be spoken to in plain text.
    built.transport_socket.CopyFrom(public_tls(name, external.ca, *alpn))
    if _names_differ(external):
        for host in dict.fromkeys(each.host for each in external.hosts):
            match = built.transport_socket_matches.add(name=host)
            match.match.update({"name": host})
            match.transport_socket.CopyFrom(public_tls(host, external.ca, *alpn))


def _alpn(external: External) -> tuple[str, ...]:
    match external.protocol:
        case OutsideProtocol.TCP:
            return ()
        case OutsideProtocol.HTTP:
            return ("h2", "http/1.1")
        case OutsideProtocol.HTTP2 | OutsideProtocol.GRPC:
            return ("h2",)


def _http_options(external: External) -> options_pb2.HttpProtocolOptions:
    options = options_pb2.HttpProtocolOptions()
    http1 = protocol_pb2.Http1ProtocolOptions()
    if external.protocol is not OutsideProtocol.HTTP:
        options.explicit_http_config.http2_protocol_options.CopyFrom(http2_options())
    elif external.tls is OutsideTls.NONE:
        options.explicit_http_config.http_protocol_options.CopyFrom(http1)
    else:
        options.auto_config.http_protocol_options.CopyFrom(http1)
        options.auto_config.http2_protocol_options.CopyFrom(http2_options())
    common = options.common_http_protocol_options
    common.idle_timeout.CopyFrom(seconds(IDLE_TIMEOUT))
    common.max_connection_duration.CopyFrom(seconds(CONNECTION_AGE))
    options.http_filters.append(_filter("header_mutation", _keep_inside(external)))
    if external.credential is not None:
        options.http_filters.append(_filter("credential_injector", _credential(external.credential)))
    options.http_filters.append(_filter("upstream_codec", upstream_codec_pb2.UpstreamCodec()))
    return options


def _filter(name: str, config: Message) -> hcm_pb2.HttpFilter:
    return hcm_pb2.HttpFilter(name=f"envoy.filters.http.{name}", typed_config=packed(config))


def _keep_inside(external: External) -> header_mutation_pb2.HeaderMutation:
    """Last thing before a request leaves: take out what only means something here; and the same of what comes back."""
    mutations = header_mutation_pb2.Mutations()
    for prefix in _OURS:
        mutations.request_mutations.append(_without(prefix))
    mutations.request_mutations.extend(
        mutation_rules_pb2.HeaderMutation(remove=name) for name in _OURS_EXACTLY
    )
    mutations.response_mutations.extend(_without(prefix) for prefix in _OURS[:2])
    return header_mutation_pb2.HeaderMutation(mutations=mutations)


def _without(prefix: str) -> mutation_rules_pb2.HeaderMutation:
    mutation = mutation_rules_pb2.HeaderMutation()
    mutation.remove_on_match.key_matcher.prefix = prefix
    return mutation


def _credential(credential: Credential) -> credential_injector_pb2.CredentialInjector:
    """What the app sends under that name is replaced: the credential is the proxy's to give."""
    secret = secret_pb2.SdsSecretConfig(
        name=name_of(CredentialFile(file=credential.file, prefix=credential.prefix)),
        sds_config=sidecar_secrets(),
    )
    generic = generic_pb2.Generic(credential=secret, header=credential.header)
    return credential_injector_pb2.CredentialInjector(
        overwrite=True,
        allow_request_without_credential=False,
        credential=extension_pb2.TypedExtensionConfig(
            name="envoy.http.injected_credentials.generic", typed_config=packed(generic)
        ),
    )
