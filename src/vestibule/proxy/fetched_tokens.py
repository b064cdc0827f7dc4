"""Tokens of the mesh's own token service, for Envoy to send along with the app's calls.

They are got through Envoy itself, on a socket that is for its sidecar alone: it shows the certificate of the service
that it stands beside, so that no secret but that is needed (RFC 8705, section 2).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import h11

from vestibule.envoy.host_secrets import FetchedToken
from vestibule.errors import VestibuleError
from vestibule.proxy.admin import Answer, response_of
from vestibule.proxy.codes import TOKEN_NOT_FETCHED

MOST: Final = 1000
"""Tokens for one Envoy."""

RENEW_AFTER: Final = 60.0
"""Seconds, at most, after which the next token is got, or half of the token's life: what is revoked is so replaced."""

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
"""Seconds between two tries."""

TIMEOUT: Final = 10.0
SHORTEST_LIFE: Final = 1.0
_SHOWN: Final = 300

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Held:
    value: bytes | None = field(default=None, repr=False)
    ends: float = 0.0
    problem: str = ""
    settled: bool = False


class FetchedTokens:
    """Gets what is asked for, and keeps it fresh, while ``run`` runs; ``told`` is called whenever something changed."""

    def __init__(self, socket: Path, told: Callable[[], None]) -> None:
        self._socket = socket
        self._told = told
        self._held: dict[FetchedToken, _Held] = {}
        self._new = asyncio.Event()

    def content(self, wanted: FetchedToken) -> bytes | None:
        """The value of the header; None before there is one, empty where it has ended, both of which is logged.

        Who asks once is served from then on.
        """
        if wanted not in self._held and len(self._held) < MOST:
            self._held[wanted] = _Held()
            self._new.set()
        held = self._held.get(wanted)
        return None if held is None else held.value

    @property
    def settled(self) -> bool:
        """Whether everything that was asked for is there, or could not be had."""
        return all(each.settled for each in self._held.values())

    async def run(self) -> None:
        """Never ends by itself."""
        begun: set[FetchedToken] = set()
        async with asyncio.TaskGroup() as tasks:
            while True:
                for wanted in self._held.keys() - begun:
                    begun.add(wanted)
                    tasks.create_task(self._keep(wanted, self._held[wanted]), name="fetched-token")
                await self._new.wait()
                self._new.clear()

    async def _keep(self, wanted: FetchedToken, held: _Held) -> None:
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
        while True:
            try:
                value, lasts = await self._fetch(wanted)
            except VestibuleError as error:
                self._failed(held, error, loop.time(), after_start=pause >= 1.0)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            if held.problem:
                _log.info("there is a token for %s again", wanted.audience)
            held.value, held.ends, held.problem, held.settled = value, loop.time() + lasts, "", True
            pause = FIRST_PAUSE
            self._told()
            await asyncio.sleep(min(lasts / 2, RENEW_AFTER))

    def _failed(self, held: _Held, error: VestibuleError, now: float, *, after_start: bool) -> None:
        # An Envoy that begins does not know the token service yet: that is no news until a second is over.
        if after_start and str(error) != held.problem:
            _log.error("%s (%s)", error, error.advice)
            held.problem = str(error)
        held.settled |= after_start
        if held.value and now >= held.ends:
            # Envoy does not let go of a secret that it had, but sends nothing without any text in it.
            held.value = b""
            self._told()

    async def _fetch(self, wanted: FetchedToken) -> tuple[bytes, float]:
        asked = {"grant_type": "client_credentials", "audience": wanted.audience}
        if wanted.scopes:
            asked["scope"] = " ".join(wanted.scopes)
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await self._ask(urlencode(asked).encode())
        except (OSError, TimeoutError, h11.ProtocolError) as error:
            raise _not_fetched(wanted, str(error) or "no answer") from error
        said = _object(answer.body)
        if answer.status != 200:
            raise _not_fetched(
                wanted, f"{said.get('error', answer.status)}: {said.get('error_description', '')}"
            )
        token, lasts = said.get("access_token"), said.get("expires_in")
        if not _is_sendable(token) or not isinstance(lasts, int | float) or lasts < SHORTEST_LIFE:
            raise _not_fetched(wanted, "the answer holds no token")
        return f"Bearer {token}".encode("ascii"), float(lasts)

    async def _ask(self, body: bytes) -> Answer:
        reader, writer = await asyncio.open_unix_connection(str(self._socket))
        try:
            connection = h11.Connection(h11.CLIENT)
            headers = [
                ("host", "tokens"),
                ("connection", "close"),
                ("accept", "application/json"),
                ("content-type", "application/x-www-form-urlencoded"),
                ("content-length", str(len(body))),
            ]
            request = h11.Request(method="POST", target="/oauth2/token", headers=headers)
            for event in (request, h11.Data(data=body), h11.EndOfMessage()):
                writer.write(connection.send(event) or b"")
            return await response_of(connection, reader)
        finally:
            writer.close()


def _is_sendable(token: Any) -> bool:
    """What a header can carry, and nothing else (RFC 6750, section 2.1)."""
    return isinstance(token, str) and bool(token) and all(0x21 <= ord(each) < 0x7F for each in token)


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _not_fetched(wanted: FetchedToken, why: str) -> VestibuleError:
    scopes = f" ({' '.join(wanted.scopes)})" if wanted.scopes else ""
    return TOKEN_NOT_FETCHED.error(f"there is no token for {wanted.audience}{scopes}: {why[:_SHOWN]}")
