"""What a sidecar has before anything of it runs: a directory with its ledger, a home for Envoy, walls, the binary."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vestibule.app.sidecar_home import alive, clear_up, private_home, remove_homes
from vestibule.app.sidecar_walls import Walls, WallSettings
from vestibule.processes import Ledger, Shutdown
from vestibule.proxy.binary import check_version, find_envoy

_DIRECTORY: Final = "sc"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarPlace:
    """``home`` is the directory of what is started, owned by their user; ``address`` is given by walls that have one.

    ``others`` is where all sidecars of the run directory have their own.
    """

    ledger: Ledger
    home: Path
    walls: Walls
    binary: Path
    shutdown: Shutdown
    others: Path
    address: str | None


@asynccontextmanager
async def sidecar_place(
    run_directory: Path, agent_socket: Path, walls: WallSettings, envoy: Path | None
) -> AsyncIterator[SidecarPlace]:
    """Clear up after sidecars that were killed, and have a place until the block is left.

    Raises: VST70xx (no Envoy, or none that fits; directories), VST72xx (walls).
    """
    binary = find_envoy(envoy)
    await check_version(binary)
    directory = run_directory / _DIRECTORY
    for leftover in clear_up(run_directory, directory):
        _log.warning("ended what a killed sidecar had left behind: %s", leftover)
    with Shutdown() as shutdown:
        ledger = Ledger(directory / secrets.token_hex(4))
        ledger.open()
        home = private_home(run_directory, ledger.directory, walls.proxy_user)
        built = Walls(
            settings=walls,
            run_directory=run_directory,
            owner=ledger.directory.name,
            agent_socket=agent_socket,
            directory=ledger.directory,
        )
        try:
            yield SidecarPlace(
                ledger=ledger,
                home=home,
                walls=built,
                binary=binary,
                shutdown=shutdown,
                others=directory,
                address=built.enter(lambda: alive(directory)),
            )
        finally:
            built.take_down()
            remove_homes(run_directory, lambda: alive(directory) - {ledger.directory.name})
            ledger.close(remove=True)
