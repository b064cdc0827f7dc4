"""``hvac`` from PyPI, as it is, against versioned secrets: the API on a loopback port, encrypted storage below it.

Who calls is told by a header, as the platform's Envoy does; through real Envoys it is tested where those are.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import hvac
import pytest
import requests
import uvicorn
from tests.component.test_secret_versions import Heard, server
from tests.interop.vault_sessions import configured_mount, versioned_secrets

from vestibule.doors.vault.app import VaultApp
from vestibule.doors.vault.kv import KvBackend
from vestibule.doors.vault.pipeline import Pipeline
from vestibule.secrets.ports import AccessDecision, Verb
from vestibule.spiffe import SpiffeId


class Everybody:
    """``secrets.ports.Access``: everything may be done by everybody."""

    def decide(self, caller: SpiffeId, verb: Verb, path: str) -> AccessDecision:
        return AccessDecision(allowed=True, rule="all/all")


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[hvac.Client]:
    async with server(tmp_path / "vestibule.db") as (versions, _):
        pipeline = Pipeline({"secret": KvBackend(versions)}, Everybody(), Heard(), is_operator=lambda _: True)
        app = VaultApp(pipeline.answer, lambda text: SpiffeId.parse(text.decode()))
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(app, http="h11", lifespan="off", log_config=None)
        web = uvicorn.Server(config)
        serving = asyncio.create_task(web.serve(sockets=[listener]), name="vault")
        with requests.Session() as session:
            session.headers["x-forwarded-client-cert"] = "spiffe://example.org/ann"
            yield hvac.Client(url=f"http://127.0.0.1:{listener.getsockname()[1]}", session=session)
        web.should_exit = True
        await serving


# hvac's own patch reads without saying what it wants of deleted versions, and warns of that.
@pytest.mark.filterwarnings("ignore:The raise_on_deleted_version parameter:DeprecationWarning")
async def test_hvac_has_all_of_versioned_secrets(client: hvac.Client) -> None:
    await asyncio.to_thread(versioned_secrets, client, "payments")


async def test_hvac_configures_the_mount(client: hvac.Client) -> None:
    await asyncio.to_thread(configured_mount, client)
