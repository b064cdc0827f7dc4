"""``hvac`` from PyPI, as it is, against ``database/`` and ``sys/leases/``, with a real PostgreSQL.

Who calls is told by a header, as the platform's Envoy does; through real Envoys it is tested where those are.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import hvac
import pytest
import requests
import uvicorn
from tests.component.test_dynamic_credentials import server
from tests.component.test_secret_versions import Heard
from tests.interop import vault_databases
from tests.interop.test_hvac_versions import Everybody
from tests.postgres import Postgres, binaries, running

from vestibule.app.server_lending import Lending
from vestibule.clock import SystemClock
from vestibule.doors.vault.app import VaultApp
from vestibule.doors.vault.pipeline import Pipeline
from vestibule.spiffe import SpiffeId


@pytest.fixture(scope="module")
def shop() -> Iterator[Postgres]:
    found = binaries()
    if found is None:
        pytest.skip(
            "needs PostgreSQL's server programs (Debian: apt-get install postgresql): is not installed"
        )
    with running(found) as cluster:
        vault_databases.prepared(cluster)
        yield cluster


@dataclass
class Vault:
    """A server that works by itself, and a client of it."""

    client: hvac.Client
    lending: Lending


@pytest.fixture
async def vault(tmp_path: Path) -> AsyncIterator[Vault]:
    async with server(tmp_path, SystemClock()) as lending:
        pipeline = Pipeline(lending.backends, Everybody(), Heard(), is_operator=lambda _: True)
        app = VaultApp(pipeline.answer, lambda text: SpiffeId.parse(text.decode()))
        listener = socket.create_server(("127.0.0.1", 0))
        web = uvicorn.Server(uvicorn.Config(app, http="h11", lifespan="off", log_config=None))
        tasks = [asyncio.create_task(web.serve(sockets=[listener]), name="vault")]
        tasks += [asyncio.create_task(each(), name=name) for name, each in lending.background().items()]
        with requests.Session() as session:
            session.headers["x-forwarded-client-cert"] = "spiffe://example.org/ann"
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield Vault(client=hvac.Client(url=url, session=session), lending=lending)
        web.should_exit = True
        await tasks[0]
        for each in tasks[1:]:
            each.cancel()
        await asyncio.gather(*tasks[1:], return_exceptions=True)


async def test_hvac_has_all_of_databases_and_leases(vault: Vault, shop: Postgres) -> None:
    await asyncio.to_thread(vault_databases.whole_session, vault.client, shop)
