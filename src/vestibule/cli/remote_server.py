"""The way to a server on another machine, for administrators with an X509-SVID: its port, over mutual TLS."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from vestibule.cli.codes import USAGE
from vestibule.cli.sockets import find_sockets
from vestibule.records import Address

VARIABLE: Final = "VESTIBULE_SERVER_ADDRESS"


def remote_address() -> Address | None:
    """Where the environment says that the server is; ``None``: on this machine.  Raises: VST9100."""
    text = os.environ.get(VARIABLE, "")
    if not text:
        return None
    try:
        address = Address.parse(text)
    except ValueError as error:
        raise USAGE.error(f"{VARIABLE}: {error}") from error
    if address.path:
        raise USAGE.error(f"{VARIABLE} is HOST:PORT; sockets are named with --server-socket")
    return address


async def remote_channel(address: Address) -> Any:
    """A channel to the server's port, with this process's own SVID from the Workload API.

    Raises: what the Workload API refuses with (VST2105: no identity), VST9102 (no agent); calls raise VST2300 and
    VST2315 (not the server).
    """
    from vestibule.calls.channel import ServerChannel
    from vestibule.calls.unix import unix_channel
    from vestibule.calls.workload_api import WorkloadApi
    from vestibule.clock import SystemClock

    socket = os.environ.get("VESTIBULE_AGENT_SOCKET") or os.environ.get("SPIFFE_ENDPOINT_SOCKET")
    local = unix_channel(find_sockets(agent=Path(socket) if socket else None).existing_agent())
    try:
        context = await WorkloadApi(local).fetch()
    finally:
        local.close()
    svid = context.svids[0]
    bundle = context.bundle_of(svid)
    return ServerChannel(address, bundle=lambda: bundle, svid=lambda: svid, clock=SystemClock())
