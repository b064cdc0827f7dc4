"""Tokens: signed, short, of one identity, and gone when they are revoked."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import timedelta

import pytest

from vestibule.errors import ErrorCode, VestibuleError
from vestibule.secrets.client_tokens import LONGEST, PREFIX, SPACE, USUAL, ClientTokens
from vestibule.secrets.codes import TOKEN_REFUSED, TOKEN_SPENT
from vestibule.spiffe import SpiffeId
from vestibule.store.codes import SEALED
from vestibule.testing.barrier import MemoryBarrier
from vestibule.testing.clock import FakeClock

WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")
PAYMENTS = SpiffeId.parse("spiffe://example.org/ns/prod/sa/payments")


class Lab:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.barrier = MemoryBarrier()
        self.tokens = ClientTokens(self.barrier, self.clock)

    async def refused(self, code: ErrorCode, text: str, shown_by: SpiffeId | None = None) -> None:
        with pytest.raises(VestibuleError) as refused:
            await self.tokens.read(text, shown_by=shown_by)
        assert refused.value.code is code
        assert text not in str(refused.value) or not text


@pytest.fixture
def lab() -> Lab:
    return Lab()


async def test_a_token_tells_whose_it_is_and_nothing_is_kept_of_it(lab: Lab) -> None:
    text, made = lab.tokens.issue(WEB)
    assert await lab.tokens.read(text) == made
    assert made.spiffe_id == WEB
    assert await lab.barrier.keys(SPACE) == []


async def test_every_server_of_the_same_barrier_reads_it(lab: Lab) -> None:
    text, made = lab.tokens.issue(WEB)
    assert await ClientTokens(lab.barrier, lab.clock).read(text) == made


async def test_a_token_ends(lab: Lab) -> None:
    text, _ = lab.tokens.issue(WEB)
    lab.clock.advance(USUAL)
    await lab.refused(TOKEN_REFUSED, text)


async def test_somebody_elses_connection_shows_it_in_vain(lab: Lab) -> None:
    text, made = lab.tokens.issue(WEB)
    assert await lab.tokens.read(text, shown_by=WEB) == made
    await lab.refused(TOKEN_REFUSED, text, shown_by=PAYMENTS)


async def test_a_changed_token_is_none(lab: Lab) -> None:
    text, _ = lab.tokens.issue(WEB)
    payload, _, mark = text.removeprefix(PREFIX).partition(".")
    said = urlsafe_b64decode(payload + "=" * (-len(payload) % 4)).replace(b"/sa/web", b"/sa/dba")
    forged = urlsafe_b64encode(said).rstrip(b"=").decode()
    for each in (f"{PREFIX}{forged}.{mark}", f"{PREFIX}{payload}.{mark[:-2]}", f"{payload}.{mark}"):
        await lab.refused(TOKEN_REFUSED, each)


@pytest.mark.parametrize(
    "text", ["", "hvb.", "hvb..", "hvb.a.b", "hvs.abc", "x" * 10_000, "hvb.ä.ö", "hvb.e30.e30"]
)
async def test_what_is_no_token_is_refused(lab: Lab, text: str) -> None:
    await lab.refused(TOKEN_REFUSED, text)


async def test_a_revoked_token_is_refused_at_once_and_stays_so(lab: Lab) -> None:
    text, made = lab.tokens.issue(WEB)
    await lab.tokens.revoke(made)
    await lab.refused(TOKEN_REFUSED, text)
    assert await lab.tokens.sweep() == 0
    await lab.refused(TOKEN_REFUSED, text)


async def test_a_renewal_does_not_undo_a_revocation(lab: Lab) -> None:
    text, _ = lab.tokens.issue(WEB)
    read_before = await lab.tokens.read(text)
    await lab.tokens.revoke(read_before)
    with pytest.raises(VestibuleError) as refused:
        await lab.tokens.renew(read_before)
    assert refused.value.code is TOKEN_REFUSED
    await lab.refused(TOKEN_REFUSED, text)


async def test_its_accessor_is_enough_to_revoke_it(lab: Lab) -> None:
    text, made = lab.tokens.issue(WEB)
    await lab.tokens.revoke_accessor(made.accessor)
    await lab.refused(TOKEN_REFUSED, text)
    lab.clock.advance(LONGEST)
    assert await lab.tokens.sweep() == 1


async def test_a_renewed_token_lasts_longer_but_not_beyond_its_last_end(lab: Lab) -> None:
    text, made = lab.tokens.issue(WEB)
    lab.clock.advance(USUAL - timedelta(seconds=1))
    renewed = await lab.tokens.renew(made, timedelta(hours=1))
    lab.clock.advance(timedelta(minutes=59))
    assert (await lab.tokens.read(text)).expires == renewed.expires
    assert (await lab.tokens.renew(renewed, timedelta(days=1))).expires == made.last
    lab.clock.advance(made.last - lab.clock.now())
    with pytest.raises(VestibuleError) as spent:
        await lab.tokens.renew(made)
    assert spent.value.code is TOKEN_SPENT
    await lab.refused(TOKEN_REFUSED, text)


async def test_a_token_made_with_another_ends_no_later(lab: Lab) -> None:
    _, parent = lab.tokens.issue(WEB)
    lab.clock.advance(timedelta(minutes=10))
    _, child = lab.tokens.issue(WEB, timedelta(days=1), parent=parent)
    assert (child.expires, child.last) == (parent.last, parent.last)


async def test_while_sealed_no_token_is_read_or_made(lab: Lab) -> None:
    text, _ = lab.tokens.issue(WEB)
    lab.barrier.is_sealed = True
    await lab.refused(SEALED, text)
    with pytest.raises(VestibuleError):
        lab.tokens.issue(WEB)
