"""Hosts outside, as the compiler sees them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.clusters.dns.v3 import dns_cluster_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2
from tests.e2e.mesh_lab import intent_of, rule, service, spiffe_id
from tests.unit.envoy.test_compile import at, bodies, compiled, instance

from vestibule.envoy.compile import compile_proxy
from vestibule.envoy.host_secrets import CertificateFiles, CredentialFile, PublicTrust, name_of, parse
from vestibule.envoy.world import World, expiries
from vestibule.intent.outside import Credential, External, HostPort, OutsideProtocol, OutsideTls
from vestibule.policy import IdentityMatch
from vestibule.xds.clients import ClientKind, client_key
from vestibule.xds.resources import CLUSTER, LISTENER, ROUTES, Snapshot

STRIPE = External(
    name="stripe",
    hosts=(HostPort(host="api.stripe.com", port=443),),
    allow=(rule("egress/stripe/web", "web", methods="POST", paths="/v1/**"),),
)


def snapshot(*externals: External, caller: str = "web", **changes: Any) -> Snapshot:
    intent = intent_of(service("web"), service("ledger"), service("payments"))
    intent = replace(intent, externals={each.name: each for each in externals})
    return compiled(World(intent=intent, instances=(instance(caller, 1, **changes),)), caller)


def cluster(external: External) -> Any:
    resource = snapshot(external).of_type(CLUSTER)[f"external:{external.name}"]
    return cluster_pb2.Cluster.FromString(resource.body)


def tls_of(socket: Any) -> Any:
    return tls_pb2.UpstreamTlsContext.FromString(socket.typed_config.value)


def virtual_hosts(of: Snapshot, listener: str = "egress") -> dict[str, Any]:
    config = route_pb2.RouteConfiguration.FromString(of.of_type(ROUTES)[listener].body)
    return {each.name: each for each in config.virtual_hosts}


@pytest.mark.parametrize(
    "secret",
    [
        PublicTrust(),
        CredentialFile(file="/etc/a b&c=d/töken", prefix="Bearer "),
        CredentialFile(file="/etc/token"),
        CertificateFiles(certificate="/etc/tls.crt", key="/etc/tls.key"),
    ],
)
def test_the_name_of_a_secret_says_all_there_is_to_know(secret: Any) -> None:
    assert parse(name_of(secret)) == secret


@pytest.mark.parametrize(
    "name", ["", "default", "ROOTCA", "webpki?x=1", "credential", "credential?file=/a", "x?y=z"]
)
def test_other_names_ask_for_nothing(name: str) -> None:
    assert parse(name) is None


def test_a_host_is_verified_by_name_and_never_shown_a_certificate() -> None:
    tls = tls_of(cluster(STRIPE).transport_socket)
    common = tls.common_tls_context
    assert tls.sni == "api.stripe.com"
    combined = common.combined_validation_context
    (san,) = combined.default_validation_context.match_typed_subject_alt_names
    assert (san.san_type, san.matcher.exact) == (common_pb2.SubjectAltNameMatcher.DNS, "api.stripe.com")
    assert combined.validation_context_sds_secret_config.name == "webpki"
    # Without a limit, a secret that is missing would keep the whole proxy from starting.
    assert combined.validation_context_sds_secret_config.sds_config.initial_fetch_timeout.seconds == 2
    assert not common.tls_certificate_sds_secret_configs
    assert not common.tls_certificates
    assert common.tls_params.tls_minimum_protocol_version == common_pb2.TlsParameters.TLSv1_2


def test_an_address_is_verified_as_an_address_and_is_no_server_name() -> None:
    by_address = replace(STRIPE, hosts=(HostPort(host="192.0.2.7", port=443),), ca="PEM")
    tls = tls_of(cluster(by_address).transport_socket)
    context = tls.common_tls_context.validation_context
    (san,) = context.match_typed_subject_alt_names
    assert (tls.sni, san.san_type) == ("", common_pb2.SubjectAltNameMatcher.IP_ADDRESS)
    assert context.trusted_ca.inline_string == "PEM"
    assert cluster(by_address).type == cluster_pb2.Cluster.STATIC


def test_each_of_several_hosts_proves_a_name_of_its_own() -> None:
    names = ("a.example", "b.example")
    several = replace(STRIPE, hosts=tuple(HostPort(host=each, port=443) for each in names))
    found = cluster(several)
    assert [tls_of(each.transport_socket).sni for each in found.transport_socket_matches] == list(names)
    endpoints = found.load_assignment.endpoints[0].lb_endpoints
    matched = [each.metadata.filter_metadata["envoy.transport_socket_match"]["name"] for each in endpoints]
    assert matched == list(names)
    # What matched none would otherwise be spoken to in plain text.
    assert found.HasField("transport_socket")
    config = dns_cluster_pb2.DnsCluster.FromString(found.cluster_type.typed_config.value)
    assert not config.all_addresses_in_single_endpoint


@pytest.mark.parametrize(
    ("protocol", "tls", "alpn", "config"),
    [
        (OutsideProtocol.HTTP, OutsideTls.WEBPKI, ["h2", "http/1.1"], "auto_config"),
        (OutsideProtocol.HTTP, OutsideTls.NONE, None, "explicit_http_config"),
        (OutsideProtocol.GRPC, OutsideTls.WEBPKI, ["h2"], "explicit_http_config"),
        (OutsideProtocol.HTTP2, OutsideTls.NONE, None, "explicit_http_config"),
        (OutsideProtocol.TCP, OutsideTls.WEBPKI, [], None),
    ],
)
def test_what_is_spoken_follows_protocol_and_tls(
    protocol: OutsideProtocol, tls: OutsideTls, alpn: list[str] | None, config: str | None
) -> None:
    from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as options_pb2

    found = cluster(replace(STRIPE, protocol=protocol, tls=tls))
    assert found.HasField("transport_socket") is (alpn is not None)
    if alpn is not None:
        assert list(tls_of(found.transport_socket).common_tls_context.alpn_protocols) == alpn
    options = [
        options_pb2.HttpProtocolOptions.FromString(each.value)
        for each in found.typed_extension_protocol_options.values()
    ]
    assert [each.WhichOneof("upstream_protocol_options") for each in options] == ([config] if config else [])


def test_a_service_that_no_rule_names_has_no_cluster_and_is_told_so_by_name() -> None:
    found = snapshot(STRIPE, caller="ledger")
    assert "external:stripe" not in found.of_type(CLUSTER)
    (_, answer) = virtual_hosts(found)["external:stripe"].routes
    assert (answer.name, answer.direct_response.status) == ("external:stripe", 403)


@pytest.mark.parametrize("kind", ClientKind)
def test_an_envoy_of_somebodys_own_is_led_to_no_host_outside(kind: ClientKind) -> None:
    """Its listeners lack the filter that the rules hang at, so it would let out whatever its app wants."""
    intent = replace(
        intent_of(service("web")), externals={"stripe": replace(STRIPE, allow=(rule("r", "web"),))}
    )
    known = World(intent=intent, instances=(instance("web", 1),))
    found = compile_proxy(known, client_key(spiffe_id("web"), kind))
    assert not found.of_type(CLUSTER)
    assert not any(b"stripe" in each.body for each in found.of_type(ROUTES).values())
    assert "external:stripe" in compiled(known, "web").of_type(CLUSTER)


def test_a_service_goes_before_a_host_of_its_name() -> None:
    posing = replace(STRIPE, name="payments")
    found = snapshot(posing)
    hosts = virtual_hosts(found)
    assert "external:payments" not in hosts
    assert hosts["denied"].domains


def test_a_rule_changes_routes_and_neither_listener_nor_cluster() -> None:
    wider = replace(STRIPE, allow=(*STRIPE.allow, rule("egress/stripe/more", "web", methods="GET")))
    upstreams = {"stripe": at(9)}
    before, after = (bodies(snapshot(each, upstreams=upstreams)) for each in (STRIPE, wider))
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {(ROUTES, "egress"), (ROUTES, "upstream/stripe")}


def test_the_rules_of_others_are_told_to_nobody() -> None:
    theirs = replace(STRIPE, allow=(*STRIPE.allow, rule("egress/stripe/ledgers-own", "ledger")))
    told = b"".join(bodies(snapshot(theirs)).values())
    assert b"egress/stripe/web" in told
    assert b"ledgers-own" not in told
    assert str(spiffe_id("ledger")).encode() not in told


def test_a_rule_ends_with_the_callers_membership_and_is_gone_with_the_next_world() -> None:
    noon = datetime(2036, 12, 31, 12, tzinfo=UTC)
    until = IdentityMatch(id=spiffe_id("web"), until=noon)
    later = replace(rule("egress/stripe/a", "ledger"), callers=(until,), expires=noon + timedelta(hours=1))
    intent = replace(intent_of(service("web")), externals={"stripe": replace(STRIPE, allow=(later,))})
    seen = World(intent=intent).outside("stripe", spiffe_id("web"))
    assert seen is not None
    assert [each.expires for each in seen.allow] == [noon]
    assert list(expiries(intent)) == [noon + timedelta(hours=1), noon]
    gone = World(intent=intent, as_of=noon).outside("stripe", spiffe_id("web"))
    assert gone is not None
    assert gone.allow == ()


def test_a_credential_is_named_by_its_file_and_asked_for_at_the_sidecar() -> None:
    paying = replace(
        STRIPE, credential=Credential(header="authorization", prefix="Bearer ", file="/etc/stripe/token")
    )
    body = snapshot(paying).of_type(CLUSTER)["external:stripe"].body
    assert b"vestibule_sidecar" in body
    assert name_of(CredentialFile(file="/etc/stripe/token", prefix="Bearer ")).encode() in body


def test_a_tcp_port_is_open_only_to_whom_a_rule_names() -> None:
    lines = replace(STRIPE, protocol=OutsideProtocol.TCP)
    upstreams = {"stripe": at(9)}
    assert "upstream/stripe" in snapshot(lines, upstreams=upstreams).of_type(LISTENER)
    assert "upstream/stripe" not in snapshot(lines, caller="ledger", upstreams=upstreams).of_type(LISTENER)


def test_a_host_that_is_gone_from_the_intent_still_answers_at_its_port() -> None:
    found = snapshot(upstreams={"stripe": at(9)})
    (host,) = virtual_hosts(found, "upstream/stripe").values()
    assert host.routes[-1].direct_response.status == 404
