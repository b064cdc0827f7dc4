"""What is revoked stays so through an outage, though what is kept of a proxy's configuration is older."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.mesh_lab import client_tls
from tests.e2e.test_break_glass_outage import process_of, vestibule
from tests.e2e.test_up import APP, Up, belonging_to, small_mesh, up

from vestibule.agent.kept_snapshots import KeptSnapshots
from vestibule.app.up.operator import Operator
from vestibule.envoy.codes import CALLER_REVOKED
from vestibule.keys.kek import load_or_create_kek
from vestibule.keys.sealing import Sealer
from vestibule.spiffe import SpiffeId, X509Svid
from vestibule.xds.resources import CLUSTER, EXTENSION, LISTENER, ROUTES, ProxyKey, Snapshot

pytestmark = pytest.mark.timeout(480)

REVOKED = SpiffeId.parse("spiffe://example.org/ns/test/sa/old")
OTHER = SpiffeId.parse("spiffe://example.org/ns/test/sa/new")


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(90):
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


async def proxies_of(running: Up) -> list[ProxyKey]:
    found = (await vestibule(running, "status"))["proxies"]
    return [ProxyKey(SpiffeId.parse(each["identity"]), each["instance"]) for each in found]


def agents_of(running: Up) -> set[int]:
    return {pid for pid, words in belonging_to(running.note.runtime).items() if " agent run" in words}


class Kept:
    """What an agent keeps of its proxies' configurations, in its directory or in a copy of that."""

    def __init__(self, directory: Path, kek: Path) -> None:
        self._files = KeptSnapshots(directory, Sealer(load_or_create_kek(kek)))

    def whole(self, proxy: ProxyKey) -> Snapshot | None:
        """What is kept of a proxy, once that is all that it needs for its way in: it is written piece by piece."""
        kept = self._files.load(proxy)
        needed: Mapping[str, set[str]] = {
            CLUSTER: {"app:http"},
            LISTENER: {"ingress/http"},
            ROUTES: {"ingress/http"},
            EXTENSION: {"policy/http", "revoked/http"},
        }
        if kept is None or any(not names <= kept.of_type(url).keys() for url, names in needed.items()):
            return None
        return kept

    def refuses(self, proxy: ProxyKey, caller: SpiffeId) -> bool | None:
        """Whether what is kept names the caller as revoked; None as long as it is not all there."""
        if (kept := self.whole(proxy)) is None:
            return None
        return str(caller).encode() in kept.of_type(EXTENSION)["revoked/http"].body


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
        proxies = await proxies_of(running)
        kept = Kept(agent / "proxies", agent / "kek")
        await until(lambda: [kept.refuses(each, REVOKED) for each in proxies] == [False, False])
        shutil.copytree(agent / "proxies", saved)

        await vestibule(running, "revoke", "identity", str(REVOKED))
        async with asyncio.timeout(90):
            while (await answer(address, old, tmp_path)).status_code != 403:
                await asyncio.sleep(0.05)
        await until(lambda: [kept.refuses(each, REVOKED) for each in proxies] == [True, True])
        server = process_of(running, "server")
        os.kill(server, signal.SIGSTOP)
        try:
            # It writes no more when what it kept is put back, and reads that only in its next life.
            former = process_of(running, "agent")
            os.kill(former, signal.SIGSTOP)
            shutil.copytree(saved, agent / "proxies", dirs_exist_ok=True)
            assert [kept.refuses(each, REVOKED) for each in proxies] == [False, False]
            os.kill(former, signal.SIGKILL)
            await until(lambda: agents_of(running) - {former})
            for pid, words in belonging_to(running.note.runtime).items():
                if "envoy" in words.split()[0]:
                    os.kill(pid, signal.SIGKILL)
            # Whatever is answered from now on, is answered by the new Envoy, out of what was kept.
            refused = await answer(address, old, tmp_path)
            assert (refused.status_code, refused.json()["error"]) == (403, CALLER_REVOKED.code)
            assert (await answer(address, new, tmp_path)).status_code == 204
        finally:
            os.kill(server, signal.SIGCONT)
