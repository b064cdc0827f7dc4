"""Attestation by answering on a host name: the server fetches a nonce from the agent's own HTTP port.

It proves that whoever attests controls that port of the machine that the name leads to, for the server, now.  The
payloads are SPIRE's; the agent becomes ``…/http_challenge/HOSTNAME`` with the selector
``http_challenge:hostname:HOSTNAME``.

Somebody outside makes the server call an address, so the server's half is strict: names and ports are those that
the operator lists, the name must lead to another machine than the server's own, the address that was judged is the
one that is called, redirects are not followed, and of the answer 64 bytes are read.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import h11

from vestibule.attest.documents import at, text_at
from vestibule.attest.node.codes import EVIDENCE_REFUSED, MALFORMED_EVIDENCE, NO_EVIDENCE, UNSAFE_ATTESTOR
from vestibule.attest.node.evidence import agent_named, evidence_object, selectors
from vestibule.attest.node.ports import AttestedNode, Challenge
from vestibule.attest.ports import HttpAnswer
from vestibule.errors import VestibuleError
from vestibule.spiffe import TrustDomain

NAME: Final = "http_challenge"
PATH: Final = "/.well-known/spiffe/nodeattestor/http_challenge/{}/challenge"
MAX_REQUEST: Final = 8 * 1024
PRIVILEGED: Final = 1024

Fetch = Callable[[str, int, str], Awaitable[HttpAnswer]]
"""GET from a host, port and path that somebody else named; judges addresses.  Raises: VST2340 to VST2342."""

_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")
_AGENT = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,31}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpChallengeSettings:
    """``hostnames`` are the nodes': exact, or ``*.DOMAIN`` for one more label.  ``ports`` are those called.

    ``tofu`` admits each host once (trust on first use).  Without it a host may attest again, which only ports below
    1024 allow: the others can be taken by any user of the host.  ``allow_loopback`` is for trying it out.
    """

    hostnames: tuple[str, ...]
    ports: tuple[int, ...] = (80,)
    tofu: bool = True
    allow_loopback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpChallengeProofSettings:
    """The agent answers on ``address`` and ``port``; the server is told ``hostname`` and ``advertised_port``.

    With ``reattest`` the agent attests again instead of renewing, for servers whose ``tofu`` is off.
    """

    hostname: str
    port: int = 80
    advertised_port: int = 0
    address: str = "0.0.0.0"  # noqa: S104 - the server comes from another machine
    agent_name: str = "default"
    reattest: bool = False


class HttpChallengeAttestor:
    """The server's half."""

    name = NAME

    def __init__(self, settings: HttpChallengeSettings, trust_domain: TrustDomain, fetch: Fetch) -> None:
        """Raises: VST2009."""
        self._settings = settings
        self._trust_domain = trust_domain
        self._fetch = fetch
        for pattern in settings.hostnames:
            if not _HOST.fullmatch(pattern.removeprefix("*.")) or "." not in pattern.removeprefix("*."):
                raise UNSAFE_ATTESTOR.error(f"{pattern!r} is neither a host name in a domain nor *.DOMAIN")
        if not settings.hostnames or not settings.ports:
            raise UNSAFE_ATTESTOR.error("the names and ports of the nodes are not set")
        if not settings.tofu and any(port >= PRIVILEGED for port in settings.ports):
            raise UNSAFE_ATTESTOR.error(
                "tofu cannot be off for ports that any user may open (1024 and above)"
            )

    async def attest(self, payload: bytes, challenge: Challenge, now: datetime) -> AttestedNode:
        """Raises: VST2003 (malformed), VST2004 (refused)."""
        host, port, agent = self._read(evidence_object(payload))
        nonce = base64.urlsafe_b64encode(os.urandom(32)).decode()
        await challenge(json.dumps({"nonce": nonce}).encode())
        try:
            answer = await self._fetch(host, port, PATH.format(agent))
        except VestibuleError as error:
            # The reason stays in our log: it would tell the outside what our network looks like from here.
            raise EVIDENCE_REFUSED.error(f"{host} port {port} did not answer the challenge") from error
        # A redirect is no answer.
        if answer.status != 200 or not hmac.compare_digest(answer.body.strip(), nonce.encode()):
            raise EVIDENCE_REFUSED.error(f"{host} port {port} answered something else than the challenge")
        return AttestedNode(
            agent_id=agent_named(self._trust_domain, NAME, host),
            selectors=selectors(NAME, [f"hostname:{host}"]),
            can_reattest=not self._settings.tofu,
            first_use_only=self._settings.tofu,
        )

    def _read(self, evidence: dict[str, Any]) -> tuple[str, int, str]:
        host, agent, port = (
            text_at(evidence, "hostname"),
            text_at(evidence, "agentname"),
            at(evidence, "port"),
        )
        if not _HOST.fullmatch(host) or not _AGENT.fullmatch(agent) or type(port) is not int:
            raise MALFORMED_EVIDENCE.error("the host name, port or agent name is malformed")
        if not any(_covers(pattern, host) for pattern in self._settings.hostnames):
            raise EVIDENCE_REFUSED.error(f"{host} is not among the hosts that may attest")
        if port not in self._settings.ports:
            raise EVIDENCE_REFUSED.error(f"port {port} is not among those that are called")
        return host, port, agent


def _covers(pattern: str, host: str) -> bool:
    if pattern.startswith("*."):
        label, _, domain = host.partition(".")
        return bool(label) and domain == pattern[2:]
    return host == pattern


class HttpChallengeProof:
    """The agent's half: answers while the attestation lasts, and one path only."""

    name = NAME
    single_use = False

    def __init__(self, settings: HttpChallengeProofSettings) -> None:
        self._settings = settings
        self._server: asyncio.Server | None = None
        self._nonce: str | None = None

    async def payload(self) -> bytes:
        """Where we answer.  Raises: VST2008 if the port cannot be opened."""
        settings = self._settings
        if self._server is None:
            try:
                self._server = await asyncio.start_server(self._serve, settings.address, settings.port)
            except OSError as error:
                raise NO_EVIDENCE.error(
                    f"cannot listen on {settings.address} port {settings.port}: {error.strerror}"
                ) from error
        port = settings.advertised_port or self._server.sockets[0].getsockname()[1]
        return json.dumps(
            {"hostname": settings.hostname, "agentname": settings.agent_name, "port": port}
        ).encode()

    async def respond(self, challenge: bytes) -> bytes:
        """From now on the nonce is served.  Raises: VST2003."""
        self._nonce = text_at(evidence_object(challenge), "nonce")
        return b"\n"

    async def close(self) -> None:
        """Stop listening."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5):
                writer.write(self._answer(await reader.readuntil(b"\r\n\r\n")))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # somebody else than the server
        finally:
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST)
        http.receive_data(head)
        try:
            request = http.next_event()
        except h11.RemoteProtocolError:
            return b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        wanted = PATH.format(self._settings.agent_name).encode()
        fits = isinstance(request, h11.Request) and (request.method, request.target) == (b"GET", wanted)
        status, body = (200, f"{self._nonce}\n".encode()) if fits and self._nonce else (404, b"")
        headers = [
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
            ("Content-Type", "text/plain"),
        ]
        parts = (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage())
        return b"".join(http.send(part) or b"" for part in parts)
