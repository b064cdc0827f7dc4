"""What Envoy does after an entry of a matcher tree that leads nowhere: trees of rules are built on it.

Were it otherwise in some version, a denial could be missed.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from tests.e2e.static_envoy import StaticEnvoy, as_json
from tests.ports import free_port
from xds.type.matcher.v3.string_pb2 import StringMatcher

from vestibule.envoy import trees
from vestibule.envoy.protos import packed
from vestibule.envoy.trees import OnMatch

PATH, CALLER = trees.header(":path"), trees.header("caller")
TYPES = "type.googleapis.com/envoy.extensions.filters"


def _whose(**names: str) -> OnMatch:
    found = trees.exact_map(CALLER, {who: trees.action(name) for who, name in names.items()}, None)
    assert found is not None
    return found


def _is(caller: str) -> trees.Predicate:
    return trees.single(CALLER, StringMatcher(exact=caller))


TREES: dict[str, OnMatch | None] = {
    "whole": trees.exact_map(PATH, {"/a": _whose(ann="whole")}, _whose(bob="otherwise")),
    "beginnings": trees.prefix_map(
        PATH,
        {
            "/a/b/": _whose(ann="/a/b/"),
            "/a/": trees.first_of([(_is("bob"), trees.action("/a/"))], None) or _whose(),
            "/": _whose(cat="/"),
        },
        _whose(dan="otherwise"),
    ),
    "list": trees.first_of(
        [
            (trees.negated(_is("nobody")), _whose(ann="first")),
            (trees.negated(_is("nobody")), _whose(ann="second", bob="second")),
        ],
        _whose(cat="otherwise"),
    ),
}


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    ports = {name: free_port() for name in TREES}
    listeners = [_listener(name, port, TREES[name]) for name, port in ports.items()]
    bootstrap = {"static_resources": {"listeners": listeners}}
    directory: Path = tmp_path_factory.mktemp("misses")
    with StaticEnvoy(directory, bootstrap, list(ports.values())):
        yield ports


def _listener(name: str, port: int, tree: OnMatch | None) -> dict[str, Any]:
    assert tree is not None
    config = rbac_pb2.RBAC()
    config.matcher.MergeFromString(trees.matcher_of(tree))
    told = "%DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_effective_policy_id)%"
    manager = {
        "@type": f"{TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                    "response_headers_to_add": [{"header": {"key": "rule", "value": told}}],
                }
            ]
        },
        "http_filters": [
            {"name": "rbac", "typed_config": as_json(packed(config))},
            {"name": "router", "typed_config": {"@type": f"{TYPES}.http.router.v3.Router"}},
        ],
    }
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _ask(port: int, path: str, caller: str) -> str | None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("GET", path, headers={"caller": caller})
        reply = connection.getresponse()
        return reply.headers["rule"] if reply.status == 200 else None
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("tree", "path", "caller", "rule"),
    [
        ("whole", "/a", "ann", "whole"),
        ("whole", "/a", "bob", "otherwise"),
        ("whole", "/b", "ann", None),
        ("beginnings", "/a/b/c", "ann", "/a/b/"),
        ("beginnings", "/a/b/c", "bob", "/a/"),
        ("beginnings", "/a/b/c", "cat", "/"),
        ("beginnings", "/a/b/c", "dan", "otherwise"),
        ("beginnings", "/a/b/c", "eve", None),
        ("beginnings", "/a/c", "ann", None),
        ("list", "/", "ann", "first"),
        ("list", "/", "bob", "second"),
        ("list", "/", "cat", "otherwise"),
        ("list", "/", "dan", None),
    ],
)
def test_after_a_miss_the_next_wider_entry_is_asked(
    ports: dict[str, int], tree: str, path: str, caller: str, rule: str | None
) -> None:
    assert _ask(ports[tree], path, caller) == rule
