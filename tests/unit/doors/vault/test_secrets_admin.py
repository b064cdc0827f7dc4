"""The secret manager's API on the operator's socket: the same pipeline, another caller."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.secrets.test_access import group, identity, intent

from vestibule.clock import SystemClock
from vestibule.doors.secrets_admin import SecretsAdminDoor
from vestibule.errors import VestibuleError
from vestibule.net.caller import Caller, CallerKind, set_caller
from vestibule.net.grpc import Servable
from vestibule.secrets.access import IntentAccess
from vestibule.spiffe import TrustDomain
from vestibule.testing.vault import MemoryVault
from vestibule.wire.gen.vestibule.admin.v1 import secrets_pb2 as wire


class Stream:
    """What a door sees of a call."""

    def __init__(self, request: wire.SecretsRequest) -> None:
        self._request = request
        self.sent: list[wire.SecretsResponse] = []

    async def recv_message(self) -> wire.SecretsRequest:
        return self._request

    async def send_message(self, message: wire.SecretsResponse) -> None:
        self.sent.append(message)


class Operator:
    def __init__(self) -> None:
        nothing = intent(group())
        access = IntentAccess(lambda: nothing, SystemClock())
        self.vault = MemoryVault(access, identity("web"), SystemClock())
        self.door = SecretsAdminDoor(
            self.vault.pipeline.answer, None, TrustDomain("example.org"), SystemClock()
        )
        set_caller(Caller(kind=CallerKind.LOCAL, address="uid=1000"))

    async def ask(self, method: str, path: str, body: Any = None, **query: str) -> tuple[int, Any]:
        sent = json.dumps(body).encode() if body is not None else b""
        stream = Stream(wire.SecretsRequest(method=method, path=path, query=query, body=sent))
        await self.door.call(stream)
        (answer,) = stream.sent
        return answer.status, json.loads(answer.body) if answer.body else None


@pytest.fixture
def operator() -> Operator:
    return Operator()


async def test_an_operator_needs_no_rule_and_is_on_record_by_name(operator: Operator) -> None:
    status, _ = await operator.ask("POST", "secret/data/payments/db", {"data": {"password": "s3cret"}})
    assert status == 200
    status, answer = await operator.ask("GET", "secret/data/payments/db")
    assert answer["data"]["data"] == {"password": "s3cret"}
    told = [(each.actor, each.action, each.subject, each.outcome) for each in operator.vault.audit.events]
    assert told == [
        ("local:uid=1000", "secret.write", "secret/payments/db", "requested"),
        ("local:uid=1000", "secret.write", "secret/payments/db", "ok"),
        ("local:uid=1000", "secret.read", "secret/payments/db", "ok"),
    ]
    assert {each.details["rule"] for each in operator.vault.audit.events} == {"operator"}
    assert {each.details["via"] for each in operator.vault.audit.events} == {"operator"}
    assert "s3cret" not in str(operator.vault.audit.events)


async def test_what_is_not_there_is_an_answer(operator: Operator) -> None:
    assert (await operator.ask("GET", "secret/data/none"))[0] == 404


async def test_a_version_says_which_operator_wrote_it(operator: Operator) -> None:
    await operator.ask("POST", "secret/data/a", {"data": {"x": "y"}})
    assert (await operator.vault.versions.metadata("a")).updated_by.name == "local:uid=1000"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("TRACE", "secret/data/a", b"", "VST5207"),
        ("GET", "secret/data/../a", b"", "VST5202"),
        ("GET", "secret/data//a", b"", "VST5202"),
        ("GET", "secret/data/a;b", b"", "VST5202"),
        ("GET", "nothing/a", b"", "VST5205"),
        ("POST", "secret/data/a", b"[]", "VST5203"),
        ("POST", "secret/data/a", b'{"data":{},"data":{}}', "VST5203"),
    ],
)
async def test_what_is_refused_over_http_is_refused_here(
    operator: Operator, method: str, path: str, body: bytes, code: str
) -> None:
    with pytest.raises(VestibuleError) as refused:
        await operator.door.call(Stream(wire.SecretsRequest(method=method, path=path, body=body)))
    assert refused.value.code.code == code


def test_it_is_a_service(operator: Operator) -> None:
    assert isinstance(operator.door.servable(), Servable)


def test_nobody_but_who_has_the_socket_may_call_it() -> None:
    from vestibule.doors import access

    assert {who for path, who in access.TABLE.items() if ".SecretsAdmin/" in path} == {access.Who.LOCAL}
