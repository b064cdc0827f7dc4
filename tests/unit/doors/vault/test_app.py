"""What is made of a request's head and body, before anybody decides about it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from vestibule.audit import AuditEvent
from vestibule.audit.codes import AUDIT_UNAVAILABLE
from vestibule.doors.platform.codes import NO_CALLER
from vestibule.doors.vault import app as vault_app
from vestibule.doors.vault import crowds
from vestibule.doors.vault.app import VaultApp
from vestibule.doors.vault.callers import Callers
from vestibule.doors.vault.operations import Answer, VaultRequest
from vestibule.secrets.client_tokens import ClientTokens
from vestibule.spiffe import SpiffeId
from vestibule.testing.barrier import MemoryBarrier
from vestibule.testing.clock import FakeClock

ANN = SpiffeId.parse("spiffe://example.org/ann")
BEN = SpiffeId.parse("spiffe://example.org/ben")
CAT = SpiffeId.parse("spiffe://example.org/cat")
Headers = Sequence[tuple[bytes, bytes]]


class Scene:
    """An app in whose place of an engine there is one that remembers what it was asked."""

    def __init__(self) -> None:
        self.tokens = ClientTokens(MemoryBarrier(), FakeClock())
        self.asked: list[VaultRequest] = []
        self.events: list[AuditEvent] = []
        self.revoked: set[SpiffeId] = set()
        self.full = False
        self.opened = asyncio.Event()
        self.opened.set()
        callers = Callers(self.tokens, lambda _: None, "spiffe://example.org/vestibule/secrets", FakeClock())
        self.app = VaultApp(self._handle, self._identify, callers, self)

    async def _handle(self, request: VaultRequest) -> tuple[Answer, Mapping[str, Any] | None]:
        self.asked.append(request)
        await self.opened.wait()
        return Answer(data={"a": 1}), None

    def _identify(self, header: bytes) -> SpiffeId:
        spiffe_id = SpiffeId.parse(header.decode())
        if spiffe_id in self.revoked:
            raise NO_CALLER.error("it is revoked")
        return spiffe_id

    async def record(self, events: Sequence[AuditEvent]) -> None:
        if self.full:
            raise AUDIT_UNAVAILABLE.error("the disk is full")
        self.events += events

    async def send(
        self, *headers: tuple[bytes, bytes], method: str = "GET", path: bytes = b"/v1/secret/data/a",
        body: Sequence[bytes] = (b"",), before_last: Any = None,
    ) -> tuple[int, dict[str, Any]]:  # fmt: skip
        scope = {"method": method, "raw_path": path, "query_string": b"", "headers": list(headers)}
        pieces, sent = list(body), list[dict[str, Any]]()

        async def receive() -> dict[str, Any]:
            piece = pieces.pop(0)
            if not pieces and before_last is not None:
                before_last()
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        text = sent[1]["body"]
        return sent[0]["status"], json.loads(text) if text else {}


def cert(who: SpiffeId) -> tuple[bytes, bytes]:
    return b"x-forwarded-client-cert", str(who).encode()


@pytest.fixture
async def scene() -> Scene:
    return Scene()


@pytest.mark.parametrize(
    "twice",
    [b"x-forwarded-client-cert", b"x-vault-token", b"x-request-id", b"authorization", b"x-vault-wrap-ttl"],
)
async def test_a_header_that_is_there_twice_lets_nobody_be_somebody_else(scene: Scene, twice: bytes) -> None:
    stolen, _ = scene.tokens.issue(BEN)
    headers: Headers = [cert(ANN), (b"x-vault-token", stolen.encode()), (twice, b"x"), (twice, b"x")]
    status, _ = await scene.send(*headers)
    assert (status, scene.asked) == (400, [])
    assert scene.events[0].actor == (str(ANN) if b"cert" not in twice else "unknown")


async def test_a_token_of_somebody_else_is_refused_over_mtls(scene: Scene) -> None:
    stolen, _ = scene.tokens.issue(BEN)
    status, _ = await scene.send(cert(ANN), (b"x-vault-token", stolen.encode()))
    assert (status, scene.asked) == (403, [])


@pytest.mark.parametrize(
    ("headers", "path", "code"),
    [
        ([cert(ANN)], b"/v1/secret/data/../x", "VST5202"),
        ([cert(ANN)], b"/v1/secret//x", "VST5202"),
        ([cert(ANN), (b"x-vault-token", b"hvb.forged.token")], b"/v1/secret/data/a", "VST5550"),
        ([cert(ANN), (b"x-vault-namespace", b"elsewhere")], b"/v1/secret/data/a", "VST5203"),
        ([], b"/v1/secret/data/a", "VST5211"),
    ],
)
async def test_who_is_turned_away_at_the_door_is_on_record(
    scene: Scene, headers: Headers, path: bytes, code: str
) -> None:
    await scene.send(*headers, path=path)
    (event,) = scene.events
    assert (event.actor, event.subject) == (str(ANN) if headers else "unknown", path.decode())
    assert (event.outcome, event.details["code"]) == ("refused", code)


async def test_who_is_revoked_is_turned_away_and_on_record(scene: Scene) -> None:
    scene.revoked.add(ANN)
    status, _ = await scene.send(cert(ANN))
    assert (status, scene.events[0].details["code"], scene.asked) == (403, "VST5201", [])


async def test_no_record_no_answer_also_at_the_door(scene: Scene) -> None:
    scene.full = True
    status, told = await scene.send(cert(ANN), path=b"/v1/secret//x")
    assert (status, told["errors"][0][:7]) == (503, "VST8100")


async def test_who_is_revoked_while_a_body_arrives_is_refused(scene: Scene) -> None:
    status, _ = await scene.send(
        cert(ANN), method="POST", body=(b'{"data":', b"{}}"), before_last=lambda: scene.revoked.add(ANN)
    )
    assert (status, scene.asked) == (403, [])


async def test_a_request_knows_whether_its_caller_still_is_one(scene: Scene) -> None:
    await scene.send(cert(ANN))
    (request,) = scene.asked
    assert request.caller_now is not None
    assert (await request.caller_now()).spiffe_id == ANN
    scene.revoked.add(ANN)
    with pytest.raises(Exception, match="revoked"):
        await request.caller_now()


async def test_only_some_large_bodies_are_in_memory_at_a_time(scene: Scene) -> None:
    scene.opened.clear()
    large = b'{"data":"%b"}' % (b"x" * vault_app.LARGE)
    length = (b"content-length", b"%d" % len(large))
    asking = [
        asyncio.create_task(scene.send(cert(each), length, method="POST", body=(large,)))
        for each in (ANN, BEN, CAT)
        for _ in range(crowds.MOST_LARGE_EACH)
    ]
    small = asyncio.create_task(scene.send(cert(ANN)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(scene.asked) == vault_app.MOST_LARGE + 1  # who sends little does not wait for them
    assert (await scene.send(cert(ANN), length, method="POST", body=(large,)))[0] == 429
    scene.opened.set()
    assert {status for status, _ in await asyncio.gather(*asking, small)} == {200}


async def test_one_identity_takes_no_more_than_its_part(scene: Scene) -> None:
    scene.opened.clear()
    asking = [asyncio.create_task(scene.send(cert(ANN))) for _ in range(crowds.MOST_EACH)]
    while len(scene.asked) < crowds.MOST_EACH:
        await asyncio.sleep(0)
    status, told = await scene.send(cert(ANN))
    assert (status, told["errors"][0][:7]) == (429, "VST5213")
    other = asyncio.create_task(scene.send(cert(BEN)))
    scene.opened.set()
    assert {status for status, _ in await asyncio.gather(*asking, other)} == {200}
    assert (await scene.send(cert(ANN)))[0] == 200
