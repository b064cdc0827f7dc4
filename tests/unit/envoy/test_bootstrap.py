"""What an Envoy is started with."""

from __future__ import annotations

import json
import subprocess
import sys

from envoy.config.bootstrap.v3 import bootstrap_pb2

# Messages that the bootstrap packs into an Any must be known to the parser.
from envoy.extensions.resource_monitors.downstream_connections.v3 import downstream_connections_pb2  # noqa: F401
from envoy.extensions.resource_monitors.fixed_heap.v3 import fixed_heap_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2  # noqa: F401
from google.protobuf import json_format

from vestibule.envoy.bootstrap import bootstrap


def parsed() -> bootstrap_pb2.Bootstrap:
    config = bootstrap(
        node_id="i-1",
        cluster="web",
        agent_socket="/run/a.sock",
        admin_socket="/run/e.sock",
        host_socket="/run/h.sock",
    )
    return json_format.Parse(json.dumps(config), bootstrap_pb2.Bootstrap())


def test_the_bootstrap_is_a_valid_envoy_bootstrap() -> None:
    config = parsed()
    assert (config.node.id, config.node.cluster) == ("i-1", "web")
    assert config.dynamic_resources.ads_config.api_type == config.dynamic_resources.ads_config.DELTA_GRPC


def test_the_admin_interface_is_a_private_socket() -> None:
    pipe = parsed().admin.address.pipe
    assert (pipe.path, pipe.mode) == ("/run/e.sock", 0o600)


def test_the_only_ways_out_of_the_bootstrap_are_the_sockets_of_agent_and_sidecar() -> None:
    places = [
        each.endpoint.address.pipe.path
        for cluster in parsed().static_resources.clusters
        for endpoints in cluster.load_assignment.endpoints
        for each in endpoints.lb_endpoints
    ]
    assert places == ["/run/a.sock", "/run/a.sock", "/run/h.sock"]


def test_writing_the_bootstrap_loads_no_protobuf() -> None:
    code = "import sys, vestibule.envoy.bootstrap; sys.exit('google.protobuf' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_memory_is_given_back_at_95_percent_of_the_heap_and_requests_are_refused_at_98() -> None:
    manager = parsed().overload_manager
    heap = fixed_heap_pb2.FixedHeapConfig()
    assert manager.resource_monitors[0].typed_config.Unpack(heap)
    assert heap.max_heap_size_bytes == 1 << 30
    thresholds = {each.name.rpartition(".")[2]: each.triggers[0].threshold.value for each in manager.actions}
    assert thresholds == {"shrink_heap": 0.95, "stop_accepting_requests": 0.98}


def test_half_of_the_descriptors_bound_the_connections() -> None:
    config = bootstrap(node_id="i", cluster="c", agent_socket="/a", admin_socket="/b", files=4096)
    connections = config["overload_manager"]["resource_monitors"][1]["typed_config"]
    assert connections["max_active_downstream_connections"] == 2048


def test_a_proxy_waits_for_its_configuration_for_as_long_as_it_takes() -> None:
    dynamic = parsed().dynamic_resources
    assert dynamic.cds_config.initial_fetch_timeout.ToSeconds() == 0
    assert dynamic.lds_config.HasField("initial_fetch_timeout")
