"""Who asks, and the tokens that clients of Vault expect."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from vestibule.doors.vault.auth import AuthBackend
from vestibule.doors.vault.callers import Callers
from vestibule.doors.vault.codes import VAULT_UNAUTHENTICATED
from vestibule.doors.vault.operations import Answer, Caller, VaultRequest
from vestibule.errors import VestibuleError
from vestibule.secrets.client_tokens import ClientTokens
from vestibule.secrets.codes import TOKEN_REFUSED
from vestibule.spiffe import Revocation, Revocations, RevokedIdentity, SpiffeId, TrustDomain
from vestibule.testing import TestAuthority
from vestibule.testing.barrier import MemoryBarrier
from vestibule.testing.clock import FakeClock

DOMAIN = TrustDomain.parse("example.org")
OURS = "spiffe://example.org/vestibule/secrets"
WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")
PAYMENTS = SpiffeId.parse("spiffe://example.org/ns/prod/sa/payments")


class Lab:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.authority = TestAuthority("example.org", now=self.clock.now())
        self.tokens = ClientTokens(MemoryBarrier(), self.clock)
        self.backend = AuthBackend(self.tokens, self.clock)
        bundles = {DOMAIN: self.authority.jwt_bundle}
        self.revocations = Revocations()
        self.callers = Callers(self.tokens, bundles.get, OURS, self.clock, lambda: self.revocations)

    async def answer(
        self, path: str, caller: Caller, token: str = "", method: str = "POST", **body: Any
    ) -> Answer:
        request = VaultRequest(method=method, path=f"auth/{path}", caller=caller, token=token, body=body)
        operation = self.backend.operation(request)
        assert operation is not None
        assert operation.open
        return await operation.run()

    def jwt_svid(self, audience: str) -> str:
        return self.authority.jwt_svid(WEB, audience, now=self.clock.now()).token

    async def logged_in(self, spiffe_id: SpiffeId = WEB) -> str:
        answer = await self.answer("cert/login", Caller(spiffe_id=spiffe_id))
        return str((answer.auth or {})["client_token"])


@pytest.fixture
def lab() -> Lab:
    return Lab()


async def test_a_connection_is_its_identity_whatever_token_it_shows(lab: Lab) -> None:
    for token in ("", "anything", "hvw.wrapped"):
        assert await lab.callers.of("secret/data/a", {}, WEB, token) == Caller(spiffe_id=WEB)


async def test_a_token_of_somebody_else_is_refused_on_a_connection(lab: Lab) -> None:
    token = await lab.logged_in(PAYMENTS)
    with pytest.raises(VestibuleError) as refused:
        await lab.callers.of("secret/data/a", {}, WEB, token)
    assert refused.value.code is TOKEN_REFUSED


async def test_without_a_connections_identity_a_token_says_who_asks(lab: Lab) -> None:
    caller = await lab.callers.of("secret/data/a", {}, None, await lab.logged_in())
    assert (caller.spiffe_id, caller.via) == (WEB, "token")
    assert caller.accessor


async def test_a_jwt_svid_for_us_says_who_asks_and_logs_in(lab: Lab) -> None:
    jwt = lab.jwt_svid(OURS)
    for path, body, token in (("secret/data/a", {}, jwt), ("auth/jwt/login", {"jwt": jwt}, "")):
        caller = await lab.callers.of(path, body, None, token)
        assert (caller.spiffe_id, caller.via) == (WEB, "jwt-svid")


async def test_a_jwt_svid_for_others_one_that_ended_and_none_are_nobody(lab: Lab) -> None:
    other = lab.jwt_svid("spiffe://example.org/other")
    ended = lab.jwt_svid(OURS)
    lab.clock.advance(timedelta(days=1))
    for token in (other, ended, "", "abc"):
        for path, body in (("secret/data/a", {}), ("auth/jwt/login", {"jwt": token})):
            with pytest.raises(VestibuleError) as refused:
                await lab.callers.of(path, body, None, "" if body else token)
            assert refused.value.code is VAULT_UNAUTHENTICATED
            assert not token or token not in str(refused.value)


async def test_who_is_revoked_is_nobody_whatever_was_shown_before(lab: Lab) -> None:
    token, jwt = await lab.logged_in(), lab.jwt_svid(OURS)
    lab.clock.advance(1)
    target = RevokedIdentity(spiffe_id=WEB, issued_before=lab.clock.now())
    revoked = Revocation(target=target, at=lab.clock.now(), version=1)
    lab.revocations = Revocations(1, (revoked,))
    for shown in (token, jwt):
        with pytest.raises(VestibuleError, match=r"revoked|does not count"):
            await lab.callers.of("secret/data/a", {}, None, shown)
    again = await lab.logged_in()
    assert (await lab.callers.of("secret/data/a", {}, None, again)).spiffe_id == WEB


async def test_a_token_tells_of_itself_is_renewed_and_revoked(lab: Lab) -> None:
    token, caller = await lab.logged_in(), Caller(spiffe_id=WEB)
    told = (await lab.answer("token/lookup-self", caller, token, "GET")).data or {}
    assert (told["id"], told["display_name"], told["ttl"]) == (token, str(WEB), 900)
    lab.clock.advance(timedelta(minutes=10))
    renewed = (await lab.answer("token/renew-self", caller, token, increment="1h")).auth or {}
    assert (renewed["client_token"], renewed["lease_duration"]) == (token, 3600)
    answer = await lab.answer("token/revoke-self", caller, token)
    assert answer.data is None
    with pytest.raises(VestibuleError):
        await lab.answer("token/lookup-self", caller, token, "GET")


async def test_a_token_makes_further_ones_of_its_own_identity_only(lab: Lab) -> None:
    token = await lab.logged_in()
    caller = Caller(spiffe_id=WEB, via="token", accessor="a")
    answer = await lab.answer("token/create", caller, token, policies=["root"], ttl="10m")
    made = await lab.tokens.read(str((answer.auth or {})["client_token"]))
    assert made.spiffe_id == WEB
    assert answer.warnings


@pytest.mark.parametrize("field", ["num_uses", "period", "explicit_max_ttl"])
async def test_what_tokens_cannot_do_is_said(lab: Lab, field: str) -> None:
    with pytest.raises(VestibuleError, match=field):
        await lab.answer("token/create", Caller(spiffe_id=WEB), "", "POST", **{field: 5})


def test_revoking_by_accessor_is_for_operators(lab: Lab) -> None:
    request = VaultRequest(
        method="POST", path="auth/token/revoke-accessor", caller=Caller(spiffe_id=WEB), body={"accessor": "a"}
    )
    operation = lab.backend.operation(request)
    assert operation is not None
    assert operation.operators
    assert not operation.open


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "auth/jwt/login"), ("POST", "auth/approle/login"), ("GET", "auth/token/create")],
)
def test_what_is_not_offered_has_no_path(lab: Lab, method: str, path: str) -> None:
    assert lab.backend.operation(VaultRequest(method=method, path=path, caller=Caller(spiffe_id=WEB))) is None


async def test_paths_that_only_hold_the_name_of_another_are_none(lab: Lab) -> None:
    for path in ("x/auth/token/create", "tokens/auth/token/revoke-self", "token"):
        request = VaultRequest(method="POST", path=f"auth/{path}", caller=Caller(spiffe_id=WEB))
        assert lab.backend.operation(request) is None


async def test_somebody_elses_token_is_neither_looked_at_nor_prolonged_but_can_be_revoked(lab: Lab) -> None:
    token, thief = await lab.logged_in(WEB), Caller(spiffe_id=PAYMENTS)

    def asked(what: str) -> VaultRequest:
        return VaultRequest(method="POST", path=f"auth/token/{what}", caller=thief, body={"token": token})

    for what in ("lookup", "renew"):
        operation = lab.backend.operation(asked(what))
        assert operation is not None
        with pytest.raises(VestibuleError) as refused:
            await operation.run()
        assert refused.value.code is TOKEN_REFUSED
    revoke = lab.backend.operation(asked("revoke"))
    assert revoke is not None
    await revoke.run()
    with pytest.raises(VestibuleError):
        await lab.tokens.read(token)
