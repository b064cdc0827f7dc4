"""What fills the slot for revoked tokens: from the token service's list to what proxies ask."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

from envoy.config.core.v3 import extension_pb2

from vestibule.envoy.nothing import NOTHING
from vestibule.envoy.revoked_tokens import EMPTY, SLOT, RefusedTokens, slot
from vestibule.intent.token_groups import MOST_DEPTH
from vestibule.xds.inspection import inspect
from vestibule.xds.resources import Resource

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECOND = int(NOW.timestamp())


class By(Enum):
    TOKEN = "token"
    CLIENT = "client"
    SUBJECT = "subject"
    KEY = "key"


@dataclass(frozen=True)
class Entry:
    by: By
    value: str
    before: datetime = NOW


def told(refused: RefusedTokens, names: tuple[str, ...] = ("internal",)) -> Resource:
    return slot(refused, names, "https://tokens.example.org", '{"keys":[]}')


def filled(resource: Resource) -> bool:
    config = extension_pb2.TypedExtensionConfig.FromString(resource.body).typed_config
    return bool(config != NOTHING)


def test_nothing_stands_there_while_nothing_is_revoked_or_nobody_speaks_of_the_service() -> None:
    assert not filled(EMPTY)
    assert not filled(told(RefusedTokens()))
    assert not filled(told(RefusedTokens(tokens=("a",)), ()))
    assert filled(told(RefusedTokens(tokens=("a",))))
    assert EMPTY.name == SLOT


def test_what_is_issued_in_the_second_after_counts_again() -> None:
    early, late = NOW, NOW + timedelta(milliseconds=1)
    found = RefusedTokens.of([Entry(By.CLIENT, "a", early), Entry(By.SUBJECT, "b", late)])
    assert found.clients == (("a", SECOND),)
    assert found.subjects == (("b", SECOND + 1),)


def test_of_two_entries_about_one_the_later_counts() -> None:
    entries = [Entry(By.CLIENT, "a", NOW + timedelta(seconds=5)), Entry(By.CLIENT, "a")]
    assert RefusedTokens.of(entries).clients == (("a", SECOND + 5),)


def test_equal_lists_make_equal_slots_in_whatever_order_they_come() -> None:
    entries = [Entry(By.TOKEN, "b"), Entry(By.KEY, "k"), Entry(By.TOKEN, "a"), Entry(By.CLIENT, "c")]
    one, other = RefusedTokens.of(entries), RefusedTokens.of(reversed(entries))
    assert one == other
    assert told(one) is told(other)


def test_beyond_a_bound_every_older_token_is_refused_and_keys_stay() -> None:
    entries = [Entry(By.TOKEN, str(number), NOW + timedelta(seconds=number)) for number in range(3)]
    entries += [Entry(By.KEY, "k"), Entry(By.CLIENT, "c")]
    found = RefusedTokens.of(entries, most=2)
    assert found == RefusedTokens(keys=("k",), clients=(("c", SECOND),), every=SECOND + 2)
    assert RefusedTokens.of(entries, most=3).every is None


def test_a_long_list_is_made_and_looked_at_at_once() -> None:
    entries = [Entry(By.TOKEN, f"token-{number:08}") for number in range(10_000)]
    made = told(RefusedTokens.of(entries))
    assert len(made.body) < 4_000_000
    assert inspect(made).findings == ()


def test_every_actor_that_a_chain_can_have_is_looked_at() -> None:
    body = told(RefusedTokens(clients=(("a", SECOND),))).body
    for depth in range(1, MOST_DEPTH + 1):
        assert f"internal:{':'.join(['act'] * depth)}:sub)".encode() in body
