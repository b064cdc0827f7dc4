"""The Envoy processes of sidecars: found, killed, and seen to be replaced."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

from vestibule.app.up.proofs.proof import CannotTry
from vestibule.app.up.proofs.scene import eventually
from vestibule.app.up.sidecars import SidecarPart
from vestibule.processes import procfs

GONE_WITHIN: Final = 30.0
BACK_WITHIN: Final = 60.0
_NAME: Final = "envoy"


def envoys_of(sidecar: SidecarPart) -> set[int]:
    """The Envoy processes that run under a sidecar.  Raises: CannotTry if there is none."""
    pid = sidecar.kept.pid
    found = {each for each in procfs.descendants(pid) if _name(each) == _NAME} if pid is not None else set()
    if not found:
        raise CannotTry(f"the sidecar of {sidecar.service} runs no Envoy")
    return found


async def kill_envoys_of(sidecar: SidecarPart) -> set[int]:
    """Kill them, and return once the kernel has taken their sockets away."""
    victims = {(pid, procfs.start_time(pid) or 0) for pid in envoys_of(sidecar)}
    for pid, _ in victims:
        os.kill(pid, signal.SIGKILL)

    async def gone() -> bool | None:
        return None if any(procfs.is_running(*each) for each in victims) else True

    if await eventually(gone, GONE_WITHIN) is None:
        raise CannotTry(f"the Envoy of {sidecar.service} cannot be killed")
    return {pid for pid, _ in victims}


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
