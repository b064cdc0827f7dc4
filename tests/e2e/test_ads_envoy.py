"""Real Envoys on ADS, incremental and state of the world, through the agent's relay and the server's door."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2

# Imported so that their types can be packed by name.
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2  # noqa: F401
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2,  # noqa: F401
)
from google.protobuf.json_format import ParseDict
from tests.component.xds_peers import Agent, Server, start_agent, until
from tests.ports import free_port

from vestibule.envoy.bootstrap import bootstrap
from vestibule.envoy.names import BOOTSTRAP_CLUSTERS
from vestibule.proxy.binary import find_envoy
from vestibule.xds.ledger import Ledger, Status
from vestibule.xds.resources import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES, Resource, Snapshot

MESSAGES: Final[Mapping[str, Callable[[], Any]]] = {
    CLUSTER: cluster_pb2.Cluster,
    ENDPOINTS: endpoint_pb2.ClusterLoadAssignment,
    LISTENER: listener_pb2.Listener,
    ROUTES: route_pb2.RouteConfiguration,
    EXTENSION: extension_pb2.TypedExtensionConfig,
}
ADS: Final = {"ads": {}, "resource_api_version": "V3"}
TYPE: Final = "type.googleapis.com/envoy.extensions.filters"


def resource(type_url: str, name: str, /, **fields: Any) -> Resource:
    message = ParseDict(fields, MESSAGES[type_url]())
    return Resource.of(type_url, name, message.SerializeToString(deterministic=True))


def cluster(name: str, *, connect_timeout: str = "1s") -> Resource:
    return resource(
        CLUSTER,
        name,
        name=name,
        type="EDS",
        connect_timeout=connect_timeout,
        eds_cluster_config={"eds_config": ADS},
    )


def endpoints(name: str, port: int) -> Resource:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return resource(
        ENDPOINTS,
        name,
        cluster_name=name,
        endpoints=[{"lb_endpoints": [{"endpoint": {"address": address}}]}],
    )


def listener(port: int, *, address: str = "127.0.0.1", name: str = "in") -> Resource:
    manager = {
        "@type": f"{TYPE}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "rds": {"route_config_name": "out", "config_source": ADS},
        "http_filters": [
            {
                "name": "rbac",
                "config_discovery": {
                    "config_source": ADS,
                    "type_urls": [f"{TYPE}.http.rbac.v3.RBAC"],
                },
            },
            {"name": "router", "typed_config": {"@type": f"{TYPE}.http.router.v3.Router"}},
        ],
    }
    return resource(
        LISTENER,
        name,
        name=name,
        address={"socket_address": {"address": address, "port_value": port}},
        filter_chains=[{"filters": [{"name": "http", "typed_config": manager}]}],
    )


def routes(to: str) -> Resource:
    everything = {"match": {"prefix": "/"}, "route": {"cluster": to}}
    return resource(
        ROUTES, "out", name="out", virtual_hosts=[{"name": "all", "domains": ["*"], "routes": [everything]}]
    )


def verdict(*, allow: bool) -> Resource:
    policy = {"permissions": [{"any": True}], "principals": [{"any": True}]}
    rules = {"action": "ALLOW" if allow else "DENY", "policies": {"all": policy}}
    config = {"@type": f"{TYPE}.http.rbac.v3.RBAC", "rules": rules}
    return resource(EXTENSION, "rbac", name="rbac", typed_config=config)


class Lab:
    """Server, agent and one Envoy, each of which can be stopped and started."""

    def __init__(self, directory: Path, backend: int, variant: str) -> None:
        self.directory = directory
        self.backend = backend
        self.variant = variant
        self.server = Server()
        self.agent: Agent | None = None
        self.port = free_port()
        self._envoy: asyncio.subprocess.Process | None = None

    def world(
        self,
        version: str,
        *clusters: str,
        to: str = "a",
        allow: bool = True,
        connect_timeout: str = "1s",
        more: tuple[Resource, ...] = (),
    ) -> Snapshot:
        """Clusters, a listener whose routes lead to one of them, and the verdict."""
        return Snapshot.of(
            version,
            [
                *(cluster(name, connect_timeout=connect_timeout) for name in clusters),
                *(endpoints(name, self.backend) for name in clusters),
                listener(self.port),
                routes(to),
                verdict(allow=allow),
                *more,
            ],
        )

    async def put(self, snapshot: Snapshot) -> None:
        """Publish, and wait until Envoy has taken all of it."""
        self.server.shelf.put(snapshot)
        await until(lambda: self.server.version() == snapshot.version, 45)

    async def start_agent(self) -> None:
        self.agent = await start_agent(self.directory, self.server.port)

    async def stop_agent(self) -> None:
        if self.agent is not None:
            await self.agent.stop()
            self.agent = None

    async def start_envoy(self) -> None:
        config = bootstrap(
            node_id="web-1",
            cluster="web",
            agent_socket=str(self.directory / "agent.sock"),
            admin_socket=str(self.directory / "admin.sock"),
        )
        config["dynamic_resources"]["ads_config"]["api_type"] = self.variant
        path = self.directory / "envoy.json"
        path.write_text(json.dumps(config))
        with (self.directory / "envoy.log").open("ab") as log:
            self._envoy = await asyncio.create_subprocess_exec(
                str(find_envoy()),
                *("-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"),
                *("--drain-time-s", "1"),
                stdout=log,
                stderr=log,
            )

    async def stop_envoy(self) -> None:
        if self._envoy is not None:
            with suppress(ProcessLookupError):
                self._envoy.kill()
            await self._envoy.wait()
            self._envoy = None

    async def get(self) -> int:
        """The status of one request through Envoy; 0 when it does not answer."""
        try:
            async with httpx.AsyncClient(timeout=45) as client:
                return (await client.get(f"http://127.0.0.1:{self.port}/")).status_code
        except httpx.TransportError:
            return 0

    async def answers(self, status: int = 200) -> None:
        """Wait until requests are answered with this status."""
        async with asyncio.timeout(60):
            while await self.get() != status:
                await asyncio.sleep(0.02)

    async def admin(self, path: str) -> str:
        transport = httpx.AsyncHTTPTransport(uds=str(self.directory / "admin.sock"))
        async with httpx.AsyncClient(transport=transport, timeout=45) as client:
            return (await client.get(f"http://envoy{path}")).text

    async def stat(self, name: str) -> int:
        found = json.loads(await self.admin(f"/stats?format=json&filter=^{name}$"))["stats"]
        return int(found[0]["value"]) if found else 0

    async def clusters(self) -> set[str]:
        found = json.loads(await self.admin("/clusters?format=json"))["cluster_statuses"]
        return {each["name"] for each in found} - set(BOOTSTRAP_CLUSTERS)

    async def until_stat(self, name: str, value: int) -> None:
        async with asyncio.timeout(60):
            while await self.stat(name) != value:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def load(lab: Lab, *, clients: int = 8) -> AsyncIterator[Counter[int]]:
    """Requests without pause, half of them on connections that stay open; gives their statuses."""
    statuses: Counter[int] = Counter()
    done = asyncio.Event()

    async def on_one_connection() -> None:
        async with httpx.AsyncClient(timeout=45) as client:
            while not done.is_set():
                statuses[(await client.get(f"http://127.0.0.1:{lab.port}/")).status_code] += 1

    async def on_new_connections() -> None:
        while not done.is_set():
            statuses[await lab.get()] += 1

    async with asyncio.TaskGroup() as group:
        for n in range(clients):
            work: Coroutine[Any, Any, None] = on_new_connections() if n % 4 == 0 else on_one_connection()
            group.create_task(work)
        try:
            yield statuses
        finally:
            done.set()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
    writer.close()


@pytest.fixture
async def backend() -> AsyncIterator[int]:
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture(params=["DELTA_GRPC", "GRPC"])
async def lab(request: pytest.FixtureRequest, backend: int) -> AsyncIterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="vst-") as name:
        made = Lab(Path(name), backend, request.param)
        try:
            await made.server.start()
            made.server.shelf.put(made.world("start", "a"))
            await made.start_agent()
            await made.start_envoy()
            await made.answers()
            await until(lambda: made.server.version() == "start", 45)
            yield made
        finally:
            await made.stop_envoy()
            await made.stop_agent()
            await made.server.stop()


async def test_routes_to_new_clusters_and_the_end_of_old_ones_lose_no_request(lab: Lab) -> None:
    """T18, T19: every change adds a cluster, leads the route to it, and takes the one before away."""
    async with load(lab) as statuses:
        for n in range(15):
            await lab.put(lab.world(f"v{n}", "a", f"c{n}", to=f"c{n}"))
    assert sum(statuses.values()) > 100
    assert set(statuses) == {200}, statuses
    assert await lab.clusters() == {"a", "c14"}


async def test_a_changed_cluster_with_the_same_endpoints_gets_warm(lab: Lab) -> None:
    """T20, and the ledger tells the truth: the ACK comes when the cluster is warm."""
    async with load(lab, clients=4) as statuses:
        for n in range(2, 6):
            await lab.put(lab.world(f"v{n}", "a", connect_timeout=f"{n}s"))
            assert await lab.stat("cluster_manager.warming_clusters") == 0
    assert set(statuses) == {200}, statuses
    assert '"connect_timeout": "5s"' in await lab.admin("/config_dump")


async def test_a_cluster_without_endpoints_gets_warm_at_once(lab: Lab) -> None:
    empty = Snapshot.of("none", [*_all(lab.world("", "a")), cluster("lonely")])
    await lab.put(empty)
    assert await lab.clusters() == {"a", "lonely"}
    assert await lab.stat("cluster_manager.warming_clusters") == 0


async def test_a_verdict_reaches_envoy_and_comes_back(lab: Lab) -> None:
    await lab.put(lab.world("closed", "a", allow=False))
    await lab.answers(403)
    await lab.put(lab.world("open", "a"))
    await lab.answers(200)


async def test_an_agent_that_restarts_sends_envoy_nothing_again(lab: Lab) -> None:
    """T22."""
    await lab.put(lab.world("v1", "a", "b"))
    stats = ("cluster_manager.cds.update_success", "listener_manager.lds.update_success")
    before = [await lab.stat(name) for name in stats]
    await lab.stop_agent()
    await lab.until_stat("control_plane.connected_state", 0)
    await lab.start_agent()
    await lab.until_stat("control_plane.connected_state", 1)
    await lab.put(lab.world("v2", "a", "b", allow=False))
    assert [await lab.stat(name) for name in stats] == before


async def test_what_was_deleted_while_envoy_was_disconnected_is_deleted(lab: Lab) -> None:
    """T21, under load."""
    await lab.put(lab.world("v1", "a", "b", to="b"))
    async with load(lab, clients=4) as statuses:
        await lab.stop_agent()
        await lab.until_stat("control_plane.connected_state", 0)
        lab.server.shelf.put(lab.world("v2", "a", to="a"))
        await lab.start_agent()
        await until(lambda: lab.server.version() == "v2", 45)
    assert set(statuses) == {200}, statuses
    assert await lab.clusters() == {"a"}


async def test_what_envoy_refuses_is_in_the_ledger_and_the_old_goes_on(lab: Lab) -> None:
    """T11."""
    nobody = listener(free_port(), address="192.0.2.1", name="elsewhere")
    lab.server.shelf.put(lab.world("bad", "a", more=(nobody,)))
    await until(lambda: lab.server.row("lds").status is Status.ERROR, 45)
    error = lab.server.row("lds").error
    assert error is not None
    assert "192.0.2.1" in error
    assert await lab.get() == 200
    rejected = await lab.stat("listener_manager.lds.update_rejected")
    # Other types go on; what was refused is not offered again.
    lab.server.shelf.put(lab.world("bad2", "a", allow=False, more=(nobody,)))
    await lab.answers(403)
    assert lab.server.row("lds").status is Status.ERROR
    assert await lab.stat("listener_manager.lds.update_rejected") == rejected
    await lab.put(lab.world("good", "a"))
    assert lab.server.row("lds").status is Status.SYNCED
    await lab.answers(200)


async def test_envoy_and_agent_start_during_an_outage_of_the_server(lab: Lab) -> None:
    await lab.put(lab.world("v1", "a", "b", to="b"))
    # What Envoy refused must not come back to it after the outage either.
    nobody = listener(free_port(), address="192.0.2.1", name="elsewhere")
    lab.server.shelf.put(lab.world("bad", "a", "b", to="b", more=(nobody,)))
    await until(lambda: lab.server.row("lds").status is Status.ERROR, 45)
    await lab.server.stop()
    await lab.stop_envoy()
    await lab.stop_agent()
    await lab.start_agent()
    await lab.start_envoy()
    await lab.answers(200)
    assert await lab.clusters() == {"a", "b"}
    assert await lab.stat("listener_manager.lds.update_rejected") == 0
    # A new server, which knows nothing of before, takes over where the old one was.
    lab.server.ledger = Ledger()
    lab.server.shelf.put(lab.world("v2", "a", allow=False))
    await lab.server.start()
    await lab.answers(403)
    await until(lambda: lab.server.version() == "v2", 45)
    assert await lab.clusters() == {"a"}


def _all(snapshot: Snapshot) -> list[Resource]:
    return [each for by_name in snapshot.resources.values() for each in by_name.values()]
