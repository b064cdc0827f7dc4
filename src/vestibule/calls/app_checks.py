"""Asking an app of this node whether it is well: by HTTP, by ``grpc.health.v1``, or by connecting alone.

An instance says itself where its app listens, and who asks may be root: only loopback is asked, and sockets on which
the instance's own user listens, so that nobody can have the agent talk to what they could not talk to themselves.
"""

from __future__ import annotations

import asyncio
import ctypes
import ipaddress
import os
import socket
import struct
import threading
from pathlib import Path
from typing import Final

from vestibule.calls.http import HttpServer
from vestibule.calls.unix import connected_channel
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.records import Address, CheckView, Keeper

_PEER: Final = struct.Struct("3i")  # pid, uid, gid
_WELL: Final = range(200, 400)
_NAME: Final = "localhost"
_AGENT: Final = "vestibule-agent"
_LONGEST: Final = 64 * 1024
_NEWNET: Final = 0x40000000  # CLONE_NEWNET


async def ask(check: CheckView, address: Address, protocol: str, keeper: Keeper) -> str | None:
    """What is wrong with an app, or None if it is well; within the check's own time.

    ``protocol`` is the port's, ``keeper`` the sidecar.
    """
    try:
        async with asyncio.timeout(check.timeout):
            return await _ask(check, address, protocol, keeper)
    except TimeoutError:
        return f"it does not answer within {check.timeout:g} s"
    except VestibuleError as error:
        return error.message
    except (OSError, ValueError) as error:
        return f"{address}: {getattr(error, 'strerror', None) or error}"


async def _ask(check: CheckView, address: Address, protocol: str, keeper: Keeper) -> str | None:
    sock = await _connected(address, keeper)
    try:
        if check.kind == "grpc":
            return await _ask_grpc(check, sock)
        if check.kind == "tcp":
            return None
        status = await (_http2(check, sock) if protocol != "http" else _http(check, sock))
        return None if status in _WELL else f"it answers {status} to GET {check.path}"
    finally:
        sock.close()


async def _connected(address: Address, keeper: Keeper) -> socket.socket:
    """A connection to the app.  Raises: OSError, also for an address that is not asked."""
    loop = asyncio.get_running_loop()
    if address.path:
        sock = socket.socket(socket.AF_UNIX)
    else:
        ip = ipaddress.ip_address(address.host)
        if not ip.is_loopback:
            raise PermissionError("it is not on loopback, where alone apps are asked")
        family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
        sock = await asyncio.to_thread(_socket_beside, family, keeper.pid)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, address.path or (address.host, address.port))
        if address.path and keeper.uid not in (0, uid := _listener(sock)):
            raise PermissionError(f"the user {uid} listens there, not the instance's own, {keeper.uid}")
    except BaseException:
        sock.close()
        raise
    return sock


def _socket_beside(family: int, pid: int) -> socket.socket:
    """A socket in the network namespace of a process, in which it stays wherever it is used.  Raises: OSError."""
    theirs = Path(f"/proc/{pid}/ns/net")
    try:
        same = os.path.samestat(theirs.stat(), Path("/proc/self/ns/net").stat())
    except OSError:
        # It is another user's process, whom only root may look at so closely; what is not root cannot enter, either.
        same = True
    if same:
        return socket.socket(family)
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def enter() -> None:
        try:
            with theirs.open("rb") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _NEWNET):
                    raise OSError(ctypes.get_errno(), "its network namespace cannot be entered")
            made.append(socket.socket(family))
        except OSError as error:
            failed.append(error)

    # A thread of its own, which ends there: no other work may ever run in that network.
    thread = threading.Thread(target=enter, name="netns")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def _listener(sock: socket.socket) -> int:
    """The uid of who listens at the other end of a Unix socket."""
    uid: int = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[1]
    return uid


async def _http(check: CheckView, sock: socket.socket) -> int:
    server = HttpServer(host=_NAME, connected=sock.dup(), seconds=check.timeout, limit=1024 * 1024)
    return (await server("GET", check.path, headers={"User-Agent": _AGENT})).status


async def _http2(check: CheckView, sock: socket.socket) -> int:
    """The status of one request with prior knowledge (RFC 9113, section 3.3)."""
    import h2.connection
    import h2.events

    http = h2.connection.H2Connection()
    http.initiate_connection()
    request = {
        ":method": "GET",
        ":scheme": "http",
        ":authority": _NAME,
        ":path": check.path,
        "user-agent": _AGENT,
    }
    http.send_headers(1, list(request.items()), end_stream=True)
    loop = asyncio.get_running_loop()
    while True:
        await loop.sock_sendall(sock, http.data_to_send())
        data = await loop.sock_recv(sock, _LONGEST)
        if not data:
            raise ConnectionResetError("it closed the connection without an answer")
        try:
            events = http.receive_data(data)
        except Exception as error:  # h2 raises many kinds, all of which mean the same
            raise ConnectionError(f"it does not speak HTTP/2: {error}") from error
        for event in events:
            if isinstance(event, h2.events.ResponseReceived):
                return int(dict(event.headers or [])[b":status"])
            if isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                raise ConnectionResetError("it ended the connection without an answer")


async def _ask_grpc(check: CheckView, sock: socket.socket) -> str | None:
    from vestibule.wire.gen.grpc import health_pb2 as wire

    channel = connected_channel(sock.dup())
    try:
        client = Client(channel, wire.DESCRIPTOR.services_by_name["Health"])
        request = wire.HealthCheckRequest(service=check.grpc_service)
        answer = await client.unary("Check", request, timeout=check.timeout)
    finally:
        channel.close()
    serving = wire.HealthCheckResponse.SERVING
    return (
        None
        if answer.status == serving
        else f"it says {wire.HealthCheckResponse.ServingStatus.Name(answer.status)}"
    )
