"""``POST /webhook/git``: GitHub, GitLab, Gitea and Forgejo say that something was pushed.

The message is believed in one thing only, that there may be something new; what it is, the repository says.  It must
prove that its sender knows the secret: by an HMAC-SHA256 of the body (GitHub's ``X-Hub-Signature-256``, Gitea's
``X-Gitea-Signature``), or by the secret itself (GitLab's ``X-Gitlab-Token``).  A message that is played again, or a
flood of them, costs one question to the repository per second, at most.

The rate is limited for those who know the secret: a limit that strangers use up would silence the one who is meant.
What strangers cost is bounded otherwise: how much they may say, how long they may take for it, and how many at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vestibule.doors.codes import WEBHOOK_REFUSED
from vestibule.doors.limits import PerSource
from vestibule.errors import VestibuleError
from vestibule.keys.secrets import Secret

PATH: Final = "/webhook/git"
MOST_BYTES: Final = 4 * 2**20
PER_SECOND: Final = 5
BURST: Final = 20
MOST_AT_ONCE: Final = 8
"""Messages that are read at a time: their bodies are held in memory."""
MOST_WAITING: Final = 256
"""Messages that wait for their turn to be read."""
READ_WITHIN: Final = 3.0
"""Seconds that a sender may take to say all that it has to say."""
PROOFS: Final = ("x-hub-signature-256", "x-gitea-signature", "x-forgejo-signature", "x-gitlab-token")

_log = logging.getLogger(__name__)


class GitWebhook:
    """Checks the messages; ``tell`` is called for those that hold.  The secret is read anew for each message."""

    def __init__(self, secret: Callable[[], Secret], tell: Callable[[], None]) -> None:
        self._secret = secret
        self._tell = tell
        self._limit = PerSource(rate=PER_SECOND, burst=BURST, patience=0.0)
        self._slots = asyncio.Semaphore(MOST_AT_ONCE)
        self._waiting = 0

    @property
    def route(self) -> Route:
        """The page."""
        return Route(PATH, self._take, methods=["POST"])

    async def _take(self, request: Request) -> Response:
        if not any(each in request.headers for each in PROOFS):
            return _answer(401, WEBHOOK_REFUSED.error("the signature is missing or wrong"))
        if self._waiting >= MOST_WAITING:
            return _answer(503, WEBHOOK_REFUSED.error("too many messages at once"))
        self._waiting += 1
        try:
            async with self._slots:
                return await self._judge(request)
        except ClientDisconnect:
            return Response(status_code=400)
        except TimeoutError:
            return _answer(408, WEBHOOK_REFUSED.error(f"the message took longer than {READ_WITHIN:.0f} s"))
        finally:
            self._waiting -= 1

    async def _judge(self, request: Request) -> Response:
        body = bytearray()
        async with asyncio.timeout(READ_WITHIN):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    return _answer(
                        413, WEBHOOK_REFUSED.error(f"the message has more than {MOST_BYTES} bytes")
                    )
        try:
            secret = self._secret().reveal().encode()
        except VestibuleError as error:
            _log.error("webhooks cannot be judged: %s", error)
            return _answer(503, WEBHOOK_REFUSED.error("the secret cannot be read here"))
        if not is_genuine(request.headers.get, bytes(body), secret):
            _log.warning("a webhook was refused: its sender does not know the secret")
            return _answer(401, WEBHOOK_REFUSED.error("the signature is missing or wrong"))
        try:
            # One limit for all: behind a proxy, everybody has its address.
            await self._limit.pass_through("webhooks")
        except VestibuleError as error:
            return _answer(429, error)
        self._tell()
        return JSONResponse({"accepted": True}, status_code=202)


def is_genuine(header: Callable[[str], str | None], body: bytes, secret: bytes) -> bool:
    """Whether the sender knows the secret."""
    wanted = hmac.new(secret, body, hashlib.sha256).hexdigest().encode()
    signature = header("x-hub-signature-256") or header("x-gitea-signature") or header("x-forgejo-signature")
    if signature is not None:
        return hmac.compare_digest(signature.removeprefix("sha256=").encode(), wanted)
    token = header("x-gitlab-token")
    return token is not None and hmac.compare_digest(token.encode(), secret)


def _answer(status: int, error: VestibuleError) -> Response:
    return JSONResponse({"code": error.code.code, "message": error.message}, status_code=status)
