"""What an Envoy is started with."""

from __future__ import annotations

import json
import subprocess
import sys

from envoy.config.bootstrap.v3 import bootstrap_pb2

# Messages that the bootstrap packs into an Any must be known to the parser.
from envoy.extensions.resource_monitors.downstream_connections.v3 import downstream_connections_pb2  # noqa: F401
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
    assert places == ["/run/a.sock", "/run/h.sock"]


def test_writing_the_bootstrap_loads_no_protobuf() -> None:
    code = "import sys, vestibule.envoy.bootstrap; sys.exit('google.protobuf' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
