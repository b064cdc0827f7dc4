"""The endpoints of bench/scan.py, in a process of their own: prints their addresses, ends with its standard input."""

from __future__ import annotations

import asyncio
import ssl
import sys
from contextlib import suppress

from vestibule.net.tls import load_svid, trust
from vestibule.testing import TestAuthority

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def context(authority: TestAuthority, kind: str) -> ssl.SSLContext | None:
    """``strict``: mutual TLS 1.3. ``lax``: TLS 1.2 and every cipher, certificates at will. ``plain``: none."""
    if kind == "plain":
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_svid(made, authority.svid("/web"))
    trust(made, authority.bundle.x509_authorities)
    made.verify_mode = ssl.CERT_REQUIRED if kind == "strict" else ssl.CERT_OPTIONAL
    made.minimum_version = ssl.TLSVersion.TLSv1_3 if kind == "strict" else ssl.TLSVersion.TLSv1_2
    return made


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says yes to every request."""
    with suppress(OSError):
        if b" HTTP/1.1\r\n" in await reader.read(4096):
            writer.write(OK)
            await writer.drain()
    writer.close()


async def main(kinds: list[str]) -> None:
    """One endpoint of each kind that is named."""
    authority = TestAuthority()
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # handshakes that scans break off
    for kind in kinds:
        tls = context(authority, kind)
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls, backlog=200)
        print(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
