"""How tokens begin by which proxies know them: as the token service writes them, and no others do."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestibule.pki.token_texts import ACCESS_TOKEN, HEADER_BEGINS, beginning, first_claims, header

ISSUER = "https://tokens.example.org"
CLIENT = "spiffe://example.org/ns/prod/sa/web"
WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)


def written(said: dict[str, object]) -> str:
    text = json.dumps({**said, "sub": "ada", "exp": 1}, separators=(",", ":"))
    return urlsafe_b64encode(text.encode()).decode()


@given(issuer=WORDS, audience=WORDS, scopes=st.lists(WORDS, max_size=3), client=WORDS)
def test_a_token_begins_so_if_it_says_so(issuer: str, audience: str, scopes: list[str], client: str) -> None:
    client = f"spiffe://{client}"
    made = written(first_claims(issuer, audience, scopes, client))
    assert made.startswith(beginning(issuer, audience, scopes, client))
    assert made.startswith(beginning(issuer, audience, scopes))


@given(one=st.tuples(WORDS, WORDS, st.lists(WORDS, max_size=3), WORDS), place=st.integers(0, 3), more=WORDS)
def test_and_not_if_it_says_anything_else(
    one: tuple[str, str, list[str], str], place: int, more: str
) -> None:
    issuer, audience, scopes, client = one
    said = [issuer, audience, " ".join(scopes), client]
    said[place] += more
    other = first_claims(said[0], said[1], [said[2]] if said[2] else [], f"spiffe://{said[3]}")
    assert not written(other).startswith(beginning(issuer, audience, scopes, f"spiffe://{client}"))
    if place < 3:
        assert not written(other).startswith(beginning(issuer, audience, scopes))


@pytest.mark.parametrize("client", ["", CLIENT])
def test_all_of_it_is_looked_at(client: str) -> None:
    for size in range(3, 9):
        said = urlsafe_b64decode(beginning(ISSUER, "x" * size, ["a:read"], client)).decode()
        assert said.startswith(
            f'{{"iss":"{ISSUER}","aud":"{"x" * size}","scope":"a:read","client_id":"{client}'
        )
        assert not client or f'"{client}"' in said


def test_a_header_begins_so_whatever_the_key_if_it_is_of_an_access_token() -> None:
    said = urlsafe_b64decode(HEADER_BEGINS).decode()
    assert said.startswith('{"alg":"ES256","typ":"at+jwt",')
    for kid in ("", "a", "yXPnl8W0oIV4bVdTQXrWdg"):
        assert urlsafe_b64encode(header(ACCESS_TOKEN, kid).encode()).decode().startswith(HEADER_BEGINS)
        assert not urlsafe_b64encode(header("at+jwtx", kid).encode()).decode().startswith(HEADER_BEGINS)
