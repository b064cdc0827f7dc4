"""What a lone proxy is told: the mesh's meaning, by files or in one, and with nobody behind it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format
from tests.unit.intent.lone.files import DOMAIN, LEDGER, ORDERS, lone

from vestibule.envoy.lone.delivery import CLUSTERS_FILE, LISTENERS_FILE, delivered, lone_bootstrap
from vestibule.envoy.lone.printed import printed
from vestibule.envoy.lone.worlds import NO_AGENT, compiled, world_of
from vestibule.intent.lone import Lone
from vestibule.records import Address, Instance
from vestibule.spiffe import Reason, Revocation, Revocations, RevokedIdentity, SpiffeId

NOW = datetime(2026, 11, 1, tzinfo=UTC)
LOG = "/var/log/access.json"


def instance_of(read: Lone) -> Instance:
    called = [*(each.name for each in read.upstreams), *(each.name for each in read.outlets)]
    return Instance(
        id=f"{read.name}-1",
        service=read.name,
        spiffe_id=read.identity,
        agent_id=NO_AGENT,
        ingress={name: Address(host=each.host, port=each.port) for name, each in read.listen.items()},
        apps={name: Address(host="127.0.0.1", port=8080) for name in read.listen},
        egress=Address(host="127.0.0.1", port=15001),
        upstreams={name: Address(host="127.0.0.1", port=port) for port, name in enumerate(called, 20000)},
    )


def files_of(text: str = ORDERS, revocations: Revocations | None = None, log: str = LOG) -> dict[str, bytes]:
    read = lone(text)
    instance = instance_of(read)
    world = world_of(read, instance, NOW, revocations=revocations)
    return delivered(compiled(world, instance), read.identity, directory="/x", access_log=log)


def resources(files: dict[str, bytes], name: str, kind: Any) -> dict[str, Any]:
    response = discovery_pb2.DiscoveryResponse.FromString(files[name])
    found = [kind.FromString(each.value) for each in response.resources]
    return {each.name: each for each in found}


def clusters(files: dict[str, bytes]) -> dict[str, cluster_pb2.Cluster]:
    return resources(files, CLUSTERS_FILE, cluster_pb2.Cluster)


def as_text(files: dict[str, bytes]) -> str:
    """Everything, in which nested messages are readable, too."""
    listeners = resources(files, LISTENERS_FILE, listener_pb2.Listener)
    return json.dumps(
        [json_format.MessageToDict(each) for each in (*listeners.values(), *clusters(files).values())]
    )


def test_nothing_is_asked_of_a_control_plane() -> None:
    files = files_of()
    text = as_text(files)
    assert '"ads"' not in text
    assert "vestibule_decisions" not in text
    assert "GrpcAccessLog" not in text
    for name in files:
        if name not in (CLUSTERS_FILE, LISTENERS_FILE):
            assert f"/x/{name}" in text, "a file that nobody follows"


def test_secrets_are_asked_for_under_the_names_that_every_agent_knows_and_in_spires_way() -> None:
    text = as_text(files_of())
    assert f'"name": "{DOMAIN}/orders"' in text
    assert '"name": "spiffe://example.org"' in text
    assert '"name": "default"' not in text
    assert '"name": "ROOTCA"' not in text
    ledger = clusters(files_of())["ledger/http"]
    tls = json_format.MessageToDict(ledger.transport_socket.typed_config)
    [own] = tls["commonTlsContext"]["tlsCertificateSdsSecretConfigs"]
    assert own["sdsConfig"]["apiConfigSource"]["apiType"] == "GRPC"


def test_what_is_written_last_refers_to_what_is_there_already() -> None:
    assert list(files_of())[-2:] == [CLUSTERS_FILE, LISTENERS_FILE]


def test_the_same_file_makes_the_same_bytes_and_a_changed_rule_changes_one_of_them() -> None:
    before, after = files_of(), files_of(ORDERS.replace("methods: [GET]", "methods: [PUT]"))
    assert before == files_of()
    assert before.keys() == after.keys()
    assert len([name for name in before if before[name] != after[name]]) == 1


def test_addresses_are_dialled_as_they_are_and_names_asked_of_dns() -> None:
    ledger = clusters(files_of())["ledger/http"]
    assert ledger.type == cluster_pb2.Cluster.STATIC
    [group] = ledger.load_assignment.endpoints
    assert group.lb_endpoints[0].endpoint.address.socket_address.address == "10.0.0.5"
    named = clusters(files_of(ORDERS.replace("10.0.0.5:8443", "ledger.internal:8443")))["ledger/http"]
    assert named.cluster_type.name == "envoy.cluster.dns"


def revoked(name: str) -> Revocations:
    target = RevokedIdentity(spiffe_id=SpiffeId.parse(f"{DOMAIN}/{name}"))
    return Revocations(1, (Revocation(target=target, at=NOW, reason=Reason.KEY_COMPROMISE, version=1),))


def test_a_revoked_callee_is_called_no_more() -> None:
    ledger = clusters(files_of(revocations=revoked("ledger")))["ledger/http"]
    assert not ledger.load_assignment.endpoints


def test_a_revoked_caller_is_refused_and_what_it_has_under_way_ends() -> None:
    before, after = files_of(LEDGER), files_of(LEDGER, revocations=revoked("orders"))
    changed = {name for name in before if before[name] != after[name]}
    assert LISTENERS_FILE in changed, "streams go on"
    assert len(changed) > 1, "nobody is refused"


@pytest.mark.parametrize(("log", "kind"), [("-", "StdoutAccessLog"), (LOG, "FileAccessLog"), ("", None)])
def test_the_log_goes_where_it_is_said(log: str, kind: str | None) -> None:
    text = as_text(files_of(log=log))
    assert (kind in text) if kind else ("AccessLog" not in text)


def test_lines_have_both_identities_and_no_query() -> None:
    listeners = resources(files_of(LEDGER), LISTENERS_FILE, listener_pb2.Listener)
    config = file_pb2.FileAccessLog()
    [log] = listeners["ingress/http"].access_log
    assert log.typed_config.Unpack(config)
    form = config.log_format.json_format
    assert form["source_spiffe_id"] == "%DOWNSTREAM_PEER_URI_SAN%"
    assert form["destination_spiffe_id"] == f"{DOMAIN}/ledger"
    assert "PATH(NQ" in as_text(files_of(LEDGER))


def test_a_bootstrap_follows_two_files_and_holds_no_secret() -> None:
    document = lone_bootstrap(
        node_id="orders-1",
        service="orders",
        directory="/x",
        agent_socket="/a.sock",
        admin_socket="/b.sock",
        host_socket="/c.sock",
    )
    dynamic = document["dynamic_resources"]
    assert set(dynamic) == {"cds_config", "lds_config"}
    assert dynamic["lds_config"]["path_config_source"] == {"path": f"/x/{LISTENERS_FILE}"}


def test_what_is_printed_stands_alone() -> None:
    read = lone(ORDERS)
    instance = instance_of(read)
    document = printed(
        compiled(world_of(read, instance, NOW), instance),
        read,
        agent_socket="/run/agent.sock",
        access_log="-",
        public_authorities="/etc/ssl/ca.pem",
    )
    text = json.dumps(document)
    assert set(document) == {"node", "static_resources"}
    for absent in ("config_discovery", "path_config_source", '"rds"', "vestibule_sidecar", "revoked/http"):
        assert absent not in text, absent
    assert document["static_resources"]["secrets"] == [
        {"name": "webpki", "validation_context": {"trusted_ca": {"filename": "/etc/ssl/ca.pem"}}}
    ]
