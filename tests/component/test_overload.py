"""What an Envoy does that has used up its memory: it refuses requests, and answers its supervisor."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.component.fake_agent import until
from tests.ports import free_port

from vestibule.envoy.bootstrap import bootstrap
from vestibule.errors import VestibuleError
from vestibule.proxy.admin import Admin
from vestibule.proxy.binary import find_envoy

pytestmark = pytest.mark.timeout(180)

TYPES = "type.googleapis.com/envoy.extensions.filters"


def answering(port: int) -> dict[str, Any]:
    """A listener that answers 200 to everything."""
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    manager = {
        "@type": f"{TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{TYPES}.http.router.v3.Router"},
            }
        ],
    }
    return {
        "name": "test",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


@contextmanager
def envoy(directory: Path, port: int, heap_bytes: int) -> Iterator[Admin]:
    admin = directory / "admin.sock"
    config = bootstrap(
        node_id="i", cluster="c", agent_socket="/nowhere", admin_socket=str(admin), heap_bytes=heap_bytes
    )
    # What is asked of the agent would be waited for; the limits are what is looked at here.
    del config["dynamic_resources"]
    config["static_resources"]["listeners"] = [answering(port)]
    (directory / "bootstrap.json").write_text(json.dumps(config))
    process = subprocess.Popen(
        [find_envoy(), "-c", directory / "bootstrap.json", "--disable-hot-restart", "--concurrency", "1"],
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Admin(admin)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("heap_bytes", "status"), [(64 << 20, 200), (2 << 20, 503)])
async def test_requests_are_refused_beyond_the_heap_and_not_before(
    tmp_path: Path, heap_bytes: int, status: int
) -> None:
    port = free_port()
    with envoy(tmp_path, port, heap_bytes) as admin:
        seen: list[int] = []

        async def answered() -> bool:
            async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
                try:
                    seen.append((await http.get(f"http://127.0.0.1:{port}/")).status_code)
                except httpx.HTTPError:
                    await asyncio.sleep(0.05)
            return bool(seen) and seen[-1] == status

        async def pressure() -> int:
            try:
                answer = await admin.get("/stats?format=json&filter=fixed_heap.pressure")
            except VestibuleError:
                return 0
            return sum(each["value"] for each in json.loads(answer.body)["stats"] if "value" in each)

        async def looked_at() -> bool:
            return await pressure() > 0

        await until(looked_at)
        await until(answered)
        assert (await pressure() >= 98) is (status == 503)
