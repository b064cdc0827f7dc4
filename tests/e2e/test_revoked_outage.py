"""What is revoked stays so through an outage, though what is kept of a proxy's configuration is older."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.mesh_lab import client_tls
from tests.e2e.test_break_glass_outage import process_of, vestibule
from tests.e2e.test_up import APP, belonging_to, small_mesh, up

from vestibule.app.up.operator import Operator
from vestibule.envoy.codes import CALLER_REVOKED
from vestibule.spiffe import SpiffeId, X509Svid

pytestmark = pytest.mark.timeout(120)

REVOKED = SpiffeId.parse("spiffe://example.org/ns/test/sa/old")
OTHER = SpiffeId.parse("spiffe://example.org/ns/test/sa/new")


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(40):
        while not condition():
            await asyncio.sleep(0.05)


async def ask(address: str, svid: X509Svid, directory: Path) -> httpx.Response | None:
    """On a connection of its own; None while nobody answers."""
    try:
        async with httpx.AsyncClient(verify=client_tls(svid, directory), timeout=5) as client:
            return await client.get(f"https://{address}/", headers={"host": "api"})
    except httpx.TransportError:
        return None


async def answer(address: str, svid: X509Svid, directory: Path) -> httpx.Response:
    async with asyncio.timeout(90):
        while (found := await ask(address, svid, directory)) is None:
            await asyncio.sleep(0.05)
        return found


def contents(directory: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in sorted(directory.glob("*.sealed"))}


async def test_an_older_configuration_does_not_let_in_who_was_revoked_since(tmp_path: Path) -> None:
    mesh = small_mesh(tmp_path / "mesh")
    (mesh / "app.py").write_text(APP.replace("500", "204"))
    api = mesh / "services" / "api.yaml"
    api.write_text(api.read_text().replace("[web]", f"[web, '{REVOKED}', '{OTHER}']"))
    async with up(tmp_path, str(mesh)) as running:
        address = running.envelope["data"]["ingress"]["api"]["http"]
        agent, saved = running.state / "agent", tmp_path / "saved"
        with Operator(running.note.server_socket) as operator:
            old, new = await operator.mint(REVOKED), await operator.mint(OTHER)
        assert (await answer(address, old, tmp_path)).status_code == 204
        await until(lambda: len(contents(agent / "proxies")) == 2)
        shutil.copytree(agent / "proxies", saved)
        before = contents(saved)

        await vestibule(running, "revoke", "identity", str(REVOKED))
        async with asyncio.timeout(40):
            while (await answer(address, old, tmp_path)).status_code != 403:
                await asyncio.sleep(0.05)
        await until(lambda: all(each != before[name] for name, each in contents(agent / "proxies").items()))
        server = process_of(running, "server")
        os.kill(server, signal.SIGSTOP)
        try:
            shutil.copytree(saved, agent / "proxies", dirs_exist_ok=True)
            former = process_of(running, "agent")
            os.kill(former, signal.SIGKILL)
            await until(
                lambda: any(" agent run" in each for each in belonging_to(running.note.runtime).values())
            )
            for pid, words in belonging_to(running.note.runtime).items():
                if "envoy" in words.split()[0]:
                    os.kill(pid, signal.SIGKILL)
            # Whatever is answered from now on, is answered by the new Envoy, out of what was kept.
            refused = await answer(address, old, tmp_path)
            assert (refused.status_code, refused.json()["error"]) == (403, CALLER_REVOKED.code)
            assert (await answer(address, new, tmp_path)).status_code == 204
        finally:
            os.kill(server, signal.SIGCONT)
