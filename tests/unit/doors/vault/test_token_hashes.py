"""Of a token that leaked it can be found out where it was used, and the token is nowhere."""

from __future__ import annotations

import pytest

from vestibule.audit import AuditEvent
from vestibule.doors.vault.auth import AuthBackend
from vestibule.doors.vault.operations import Answer, Caller, VaultRequest
from vestibule.doors.vault.pipeline import Pipeline
from vestibule.doors.vault.token_hashes import of_answer, of_request, unless_sealed
from vestibule.errors import VestibuleError
from vestibule.secrets.client_tokens import ClientTokens
from vestibule.spiffe import SpiffeId
from vestibule.store.codes import SEALED
from vestibule.testing.barrier import MemoryBarrier, TableAccess
from vestibule.testing.clock import FakeClock

WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")


def hashed(token: str) -> str:
    return f"hash of {len(token)}"


def asked(path: str, shown: str = "", **body: object) -> VaultRequest:
    return VaultRequest(method="POST", path=path, caller=Caller(spiffe_id=WEB), token=shown, body=body)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (asked("secret/data/a", "abc", token="no token", jwt="none"), {"token_hmac": "hash of 3"}),
        (asked("auth/jwt/login", jwt="abcd"), {"given_hmac": "hash of 4"}),
        (
            asked("sys/wrapping/unwrap", "ab", token="a"),
            {"token_hmac": "hash of 2", "given_hmac": "hash of 1"},
        ),
        (asked("auth/token/lookup", token=["odd"]), {}),
        (asked("secret/data/a"), {}),
    ],
)
def test_hashes_are_of_what_is_shown_and_of_what_is_asked_about(
    request_: VaultRequest, expected: dict[str, str]
) -> None:
    assert of_request(request_, hashed) == expected


def test_the_token_in_the_place_of_an_answer_is_the_one_that_is_given_out() -> None:
    login = Answer(auth={"client_token": "abc"})
    assert of_answer(login, None, hashed) == {"issued_hmac": "hash of 3"}
    assert of_answer(login, {"token": "abcd"}, hashed) == {"issued_hmac": "hash of 4"}
    assert of_answer(Answer(data={"token": "a secret"}), None, hashed) == {}


def test_while_sealed_there_are_records_without_hashes() -> None:
    def sealed(_token: str) -> str:
        raise SEALED.error("sealed")

    assert of_request(asked("secret/data/a", "abc"), unless_sealed(sealed)) == {}


async def test_the_hash_of_a_leaked_token_finds_its_login_and_its_uses() -> None:
    events: list[AuditEvent] = []

    class Log:
        async def record(self, found: list[AuditEvent]) -> None:
            events.extend(found)

    barrier, clock = MemoryBarrier(), FakeClock()
    tokens = ClientTokens(barrier, clock)
    pipeline = Pipeline(
        {"auth": AuthBackend(tokens, clock)},
        TableAccess({}),
        Log(),  # type: ignore[arg-type]
        is_operator=lambda _: False,
        hashed=lambda text: barrier.mac("audit", text.encode()).hex(),
    )
    answer, _ = await pipeline.answer(asked("auth/cert/login"))
    token = str((answer.auth or {})["client_token"])
    await pipeline.answer(asked("auth/token/renew-self", token))
    with pytest.raises(VestibuleError):
        await pipeline.answer(asked("secret/data/none", token))
    await pipeline.answer(asked("auth/token/revoke", token=token))
    leaked = barrier.mac("audit", token.encode()).hex()
    found = [each for each in events if leaked in each.details.values()]
    assert {each.subject for each in found} >= {
        "auth/cert/login",
        "auth/token/renew-self",
        "auth/token/revoke",
    }
    assert token not in repr(events)
