"""Tokens from end to end, as `vestibule up` runs them: who gets one, who takes it, and what becomes of it.

The seed's diagram 8, step by step; a login outside that becomes a chain inside; thieves; revocation; outages.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
from tests.e2e.front_door import holds_none, until
from tests.e2e.oidc_lab import Provider
from tests.e2e.token_lab import ACCESS_TOKEN, EXCHANGE, JWT_BEARER, PEOPLE, Answer, Shop, claims_of
from tests.whole_lines import whole_lines

WEB, ORDERS, REPORTS = (f"spiffe://example.org/ns/prod/sa/{name}" for name in ("web", "orders", "reports"))
HERE = "http://orders/things"


CHAPTERS: list[Callable[[Shop, str], None]] = []


def chapter(told: Callable[[Shop, str], None]) -> Callable[[Shop, str], None]:
    """One of the story, which is told as a whole: to start a mesh costs more than all that is tried with it."""
    told.__dict__["__test__"] = False  # what pytest asks of a function
    CHAPTERS.append(told)
    return told


@pytest.mark.timeout(400)
def test_the_story_of_tokens(tmp_path: Path) -> None:
    with Provider(tmp_path, PEOPLE) as provider, Shop(tmp_path, provider) as shop:
        shop.logins_count()
        token = shop.mint().token
        until(lambda: shop.as_service("web", HERE, token=token).status == 200, "orders knows the key", 60)
        failures: list[Exception] = []
        for each in CHAPTERS:
            try:
                each(shop, token)
            except Exception as failure:  # noqa: BLE001 - the other chapters are told all the same
                failure.add_note(f"in {each.__name__}")
                failures.append(failure)
        if failures:
            raise ExceptionGroup("some chapters went otherwise", failures)


def refused(answer: Answer, word: str, code: str, status: int = 400) -> None:
    """As RFC 6749, section 5.2, with our code; it may be kept by nobody."""
    said = answer.document
    assert (answer.status, said["error"]) == (status, word), answer
    assert said["error_description"].startswith(code), said


def denied(answer: Answer, status: int = 403, code: str = "VST4001") -> None:
    """By a proxy."""
    assert (answer.status, answer.error) == (status, code), answer


def record(shop: Shop, action: str, **wanted: Any) -> dict[str, Any]:
    """The audit record of it."""
    lines = (shop.data / "audit.jsonl").read_text()
    found = [json.loads(line) for line in whole_lines(lines) if f'"{action}"' in line]
    fitting = [each for each in found if wanted.items() <= each.items()]
    assert fitting, (action, wanted, found[-3:])
    return dict(fitting[-1])


# ------------------------------------------------------------------------------- diagram 8, step by step


@chapter
def test_a_workload_gets_what_policy_lets_it_mint_and_nothing_else(shop: Shop, token: str) -> None:
    answer = shop.mint(name="thief")
    refused(answer, "invalid_target", "VST6010")
    assert answer.headers["cache-control"] == "no-store"
    refused(shop.mint(audience="reports", scope="report:read"), "invalid_target", "VST6010")
    refused(shop.mint(scope="order:read order:write"), "invalid_scope", "VST6011")
    refused(shop.mint(audience="nowhere"), "invalid_target", "VST6010")
    minted = shop.mint()
    said = minted.document
    assert (said["token_type"], said["scope"]) == ("Bearer", "order:read")
    assert minted.headers["cache-control"] == "no-store"
    assert jwt.get_unverified_header(minted.token)["typ"] == "at+jwt"
    claims = claims_of(minted.token)
    assert (claims["aud"], claims["sub"], claims["client_id"]) == ("orders", WEB, WEB)
    assert claims["exp"] - claims["iat"] == said["expires_in"] == 600
    # Both are on record, with why.
    assert record(shop, "token.mint", actor=WEB, outcome="ok")["details"]["rule"] == "orders/web-own"
    assert record(shop, "token.mint", actor=WEB.replace("web", "thief"))["outcome"] != "ok"


@chapter
def test_an_api_takes_the_token_that_was_made_for_it_and_no_other(shop: Shop, token: str) -> None:
    answer = shop.as_service("web", HERE, token=token)
    assert answer.document == {"app": "orders", "authorization": token}, "and the app has it, too"
    denied(shop.as_service("web", HERE))
    denied(shop.as_service("web", HERE, token=token, method="DELETE"))
    head, body, signature = token.split(".")
    forged = ".".join((head, body, signature[:-8] + "AAAAAAAA"))
    denied(shop.as_service("web", HERE, token=forged), 401, "VST4051")
    # It is for orders: even whom reports lets in is refused with it.
    denied(shop.as_service("orders", "http://reports/x", token=token), 401, "VST4051")


# ---------------------------------------------------------------------------- a person, three hops away


@chapter
def test_a_login_outside_becomes_a_chain_whose_last_link_knows_the_first(shop: Shop, token: str) -> None:
    answer = shop.as_person(shop.provider.login("ada", "shop-web"))
    assert answer.status == 200, answer
    last = answer.document
    assert (last["sub"], last["aud"], last["scope"]) == ("ada", "reports", "report:read")
    assert last["act"] == {"sub": ORDERS, "act": {"sub": WEB}}
    said = shop.state / "logs" / "reports.log"
    until(lambda: "the chain of ada" in said.read_text(), said.read_text)
    admitted = record(shop, "token.admit", actor=WEB, outcome="ok")
    exchanged = record(shop, "token.exchange", actor=ORDERS, outcome="ok")
    # One login, one transaction.
    assert admitted["details"]["txn"] == exchanged["details"]["txn"] == last["txn"]


@chapter
def test_logins_that_do_not_count_get_no_further_than_where_that_is_known(shop: Shop, token: str) -> None:
    denied(shop.as_person(), 401, "VST4051")
    denied(shop.as_person(shop.provider.login("ada", "another-application")), 401, "VST4051")
    # Of the mesh's own tokens none is a login.
    denied(shop.as_person(shop.mint().token), 401, "VST4051")
    # A rule about what the provider says of the person.
    refused(shop.as_person(shop.provider.login("eve", "shop-web")), "invalid_target", "VST6010")
    # Neither does anybody else trade a login, nor anybody get more for it than the rules give.
    login = shop.provider.login("ada", "shop-web")
    asked = {"grant_type": JWT_BEARER, "assertion": login, "audience": "orders"}
    refused(shop.ask_token("thief", **asked), "invalid_target", "VST6010")
    refused(shop.ask_token("web", **asked, scope="order:write"), "invalid_scope", "VST6011")


# ------------------------------------------------------------------------------------------- thieves


@chapter
def test_a_stolen_token_is_worth_nothing_to_the_thief(shop: Shop, token: str) -> None:
    # The thief may call orders with a token; but this one is of web.
    denied(shop.as_service("thief", HERE, token=token))
    given = {"subject_token": token, "subject_token_type": ACCESS_TOKEN, "audience": "reports"}
    refused(shop.ask_token("thief", grant_type=EXCHANGE, **given), "invalid_target", "VST6010")
    asked = shop.as_service("thief", "http://tokens/oauth2/introspect", form={"token": token})
    assert asked.document == {"active": False}
    known = shop.as_service("orders", "http://tokens/oauth2/introspect", form={"token": token}).document
    assert (known["active"], known["client_id"]) == (True, WEB)
    shop.as_service("thief", "http://tokens/oauth2/revoke", form={"token": token})
    assert shop.as_service("web", HERE, token=token).status == 200, "nor can it revoke it"


@chapter
def test_an_exchange_neither_widens_nor_prolongs_nor_goes_in_circles(shop: Shop, token: str) -> None:
    given = {"grant_type": EXCHANGE, "subject_token": token, "subject_token_type": ACCESS_TOKEN}
    # web's own has no report:read to hand on.
    refused(
        shop.ask_token("orders", **given, audience="reports", scope="report:read"), "invalid_scope", "VST6016"
    )
    exchanged = shop.ask_token("orders", **given, audience="reports")
    assert exchanged.status == 200, exchanged
    assert claims_of(exchanged.token)["exp"] <= claims_of(token)["exp"]
    again = {**given, "subject_token": exchanged.token}
    assert shop.ask_token("orders", **again, audience="reports").status == 400
    assert shop.ask_token("web", **again, audience="orders").status == 400


# ---------------------------------------------------------------------------------------- revocation


@chapter
def test_what_is_revoked_is_refused_under_load_and_nothing_else_is(shop: Shop, token: str) -> None:
    lost, kept = shop.mint().token, token
    assert shop.as_service("web", HERE, token=lost).status == 200
    with ThreadPoolExecutor(max_workers=2) as others:
        calls = [others.submit(shop.as_service, "web", HERE, token=kept) for _ in range(30)]
        answer = shop.as_service("web", "http://tokens/oauth2/revoke", form={"token": lost})
        assert answer.status == 200, answer
        until(lambda: shop.as_service("web", HERE, token=lost).status == 401, "the revoked token", 60)
    assert {each.result().status for each in calls} == {200}
    asked = shop.as_service("orders", "http://tokens/oauth2/introspect", form={"token": lost})
    assert asked.document == {"active": False}


@chapter
def test_whoever_is_revoked_as_a_subject_has_no_token_left(shop: Shop, token: str) -> None:
    login = shop.provider.login("bob", "shop-web")
    asked = {"grant_type": JWT_BEARER, "assertion": login, "audience": "orders", "scope": "order:read"}
    made = shop.ask_token("web", **asked).token
    assert shop.as_service("web", HERE, token=made).status == 200
    shop.revoke("subject", "bob")
    until(lambda: shop.as_service("web", HERE, token=made).status == 401, "the revoked subject", 60)


# ------------------------------------------------------------------------------------------- outages


@chapter
def test_without_the_database_tokens_are_made_and_taken_and_what_must_be_kept_is_refused(
    shop: Shop, token: str
) -> None:
    database, aside = shop.data / "server.db", shop.data / "aside.db"

    def revoked() -> Answer:
        return shop.as_service("web", "http://tokens/oauth2/revoke", form={"token": lost})

    lost = shop.mint().token
    database.rename(aside)
    try:
        answer = revoked()
        refused(answer, "temporarily_unavailable", "VST8000", 503)
        assert "server.db" not in answer.body, "nothing leaks"
        assert shop.as_service("web", HERE, token=shop.mint().token).status == 200
    finally:
        aside.rename(database)
    until(lambda: revoked().status == 200, lambda: str(revoked()), 60)


@chapter
def test_signing_keys_change_under_load_and_no_call_is_refused(shop: Shop, token: str) -> None:
    before, over = _key_of(shop.mint().token), threading.Event()

    def keep_calling() -> set[int]:
        seen = set[int]()
        while not over.is_set():
            seen.add(shop.as_service("web", HERE, token=shop.mint().token).status)
        return seen

    with ThreadPoolExecutor(max_workers=2) as others:
        calls = [others.submit(keep_calling) for _ in range(2)]
        try:
            shop.operate("RotateKeys", "RotateTokenKeysRequest")
            new = until(lambda: _with_another_key(shop, before), "the next key signs", 60)
        finally:
            over.set()
    assert {status for each in calls for status in each.result()} == {200}
    for each in (token, new):
        assert shop.as_service("web", HERE, token=each).status == 200, "also what the former one signed"


@chapter
def test_an_emergency_makes_all_tokens_of_a_key_worthless_and_new_ones_count(shop: Shop, token: str) -> None:
    old = shop.mint().token
    key_id = _key_of(old)
    shop.operate("RevokeKey", "RevokeTokenKeyRequest", key_id=key_id, reason="a drill")
    new = until(lambda: _with_another_key(shop, key_id), "another key signs", 60)
    until(lambda: shop.as_service("web", HERE, token=old).status == 401, "the old one", 60)
    until(lambda: shop.as_service("web", HERE, token=new).status == 200, "the new one", 60)


def _with_another_key(shop: Shop, key_id: str) -> str:
    answer = shop.mint()
    return answer.token if answer.status == 200 and _key_of(answer.token) != key_id else ""


def _key_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


@chapter
def test_a_provider_that_is_away_keeps_nobody_out_who_is_logged_in(shop: Shop, token: str) -> None:
    login = shop.provider.login("ada", "shop-web")
    shop.provider.stop()
    # Until the key of after the emergency is known to everybody in the chain.
    until(lambda: shop.as_person(login).status == 200, lambda: str(shop.as_person(login)), 60)


@chapter
def test_no_token_stands_in_any_log_or_record(shop: Shop, token: str) -> None:
    texts = {
        str(path): path.read_bytes()
        for place in (shop.state / "logs", shop.data, shop.state / "agent")
        for path in place.rglob("*")
        if path.is_file() and path.suffix in (".log", ".jsonl", ".json") and "app" not in path.name
    }
    assert texts
    holds_none(texts, [token.encode(), token.rpartition(".")[2].encode()])
