"""The token service on the operator's socket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from vestibule.audit import AuditEvent
from vestibule.doors.tokens_admin import TokensAdminDoor
from vestibule.errors import VestibuleError
from vestibule.net.caller import Caller, CallerKind, set_caller
from vestibule.testing.tokens import ISSUER, MemoryTokens, client, spiffe_id
from vestibule.tokens.ports import Verb
from vestibule.wire.gen.vestibule.admin.v1 import tokens_pb2 as wire


class Stream:
    """What a door sees of a call."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self.sent: list[Any] = []

    async def recv_message(self) -> Any:
        return self._request

    async def send_message(self, message: Any) -> None:
        self.sent.append(message)


class Operator:
    def __init__(self) -> None:
        self.tokens = MemoryTokens()
        self.events: list[AuditEvent] = []
        self.door = TokensAdminDoor(self.tokens.service, self)
        set_caller(Caller(kind=CallerKind.LOCAL, address="uid=1000"))

    async def record_or_defer(self, events: Sequence[AuditEvent]) -> None:
        self.events += events

    async def ask(self, method: str, request: Any) -> Any:
        stream = Stream(request)
        await getattr(self.door, method)(stream)
        (answer,) = stream.sent
        return answer


@pytest.fixture
async def operator() -> Operator:
    found = Operator()
    await found.tokens.service.start()
    return found


async def test_keys_are_listed_without_what_is_secret(operator: Operator) -> None:
    found = await operator.ask("list_keys", wire.ListTokenKeysRequest())
    assert found.issuer == ISSUER
    assert [each.state for each in found.keys] == ["current", "next"]
    assert all(each.key_id and each.published_at for each in found.keys)


async def test_keys_are_changed_and_that_is_on_record(operator: Operator) -> None:
    await operator.ask("rotate_keys", wire.RotateTokenKeysRequest())
    assert (operator.events[0].actor, operator.events[0].action) == ("local:uid=1000", "token.key.rotate")


async def test_a_key_that_is_known_to_others_is_revoked(operator: Operator) -> None:
    before = (await operator.ask("list_keys", wire.ListTokenKeysRequest())).keys[0].key_id
    found = await operator.ask("revoke_key", wire.RevokeTokenKeyRequest(key_id=before, reason="it leaked"))
    assert (found.by, found.value, found.reason) == ("key", before, "it leaked")
    (event,) = operator.events
    assert (event.action, event.subject, event.details["reason"]) == ("token.key.revoke", before, "it leaked")
    after = await operator.ask("list_keys", wire.ListTokenKeysRequest())
    assert before not in {each.key_id for each in after.keys}


async def test_tokens_are_revoked_by_what_they_have_in_common(operator: Operator) -> None:
    web = str(spiffe_id("web"))
    for by, value in (("client", web), ("subject", "user-7"), ("token", "jti-1")):
        found = await operator.ask("revoke", wire.RevokeTokensRequest(by=by, value=value))
        assert (found.by, found.value) == (by, value)
    listed = await operator.ask("list_revoked", wire.ListRevokedTokensRequest())
    assert {(each.by, each.value) for each in listed.revoked} == {
        ("client", web),
        ("subject", "user-7"),
        ("token", "jti-1"),
    }
    assert [each.details["by"] for each in operator.events] == ["client", "subject", "token"]


async def test_by_anything_else_nothing_is_revoked(operator: Operator) -> None:
    for by in ("key", "", "audience"):
        with pytest.raises(VestibuleError, match="revoked by one of"):
            await operator.ask("revoke", wire.RevokeTokensRequest(by=by, value="x"))


async def test_a_token_in_the_place_of_its_id_is_not_put_on_record(operator: Operator) -> None:
    operator.tokens.access.allow("web", Verb.MINT, "reports")
    minted = await operator.tokens.service.mint(client("web"), audiences=["reports"])
    with pytest.raises(VestibuleError, match="perhaps a token itself") as caught:
        await operator.ask("revoke", wire.RevokeTokensRequest(by="token", value=minted.text))
    assert minted.text not in str(caught.value)
    assert not operator.events


async def test_who_has_had_tokens_is_listed(operator: Operator) -> None:
    operator.tokens.access.allow("web", Verb.MINT, "reports")
    await operator.tokens.service.mint(client("web"), audiences=["reports"])
    (found,) = (await operator.ask("list_clients", wire.ListTokenClientsRequest())).clients
    assert (found.client, found.tokens, found.refusals) == (str(spiffe_id("web")), 1, 0)


async def test_a_server_without_the_service_says_so(operator: Operator) -> None:
    operator.door = TokensAdminDoor(None, operator)
    with pytest.raises(VestibuleError) as caught:
        await operator.ask("list_keys", wire.ListTokenKeysRequest())
    assert caught.value.code.code == "VST6078"
