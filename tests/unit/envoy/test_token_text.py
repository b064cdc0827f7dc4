"""Where proxies know tokens by their text: only where that is enough for all of a port's rules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vestibule.envoy import tokens
from vestibule.envoy.token_text import HEADER, TokenText, is_kept_from, of_port
from vestibule.intent.model import Issuer, IssuerKind, Protocol
from vestibule.policy import Condition, IdentityMatch, Mode, PortPolicy, Rule, TokenDemand
from vestibule.policy import expressions as ex
from vestibule.spiffe import SpiffeId

WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")
OWN = Issuer(name="own", issuer="https://tokens.example.org", keys='{"keys":[]}', kind=IssuerKind.TOKENS)
DEMAND = TokenDemand(issuer="own", audience="payments", scopes=("b", "a"))
RULE = Rule(name="payments/charge", callers=(IdentityMatch(id=WEB),), token=DEMAND)


def text_of(*allow: Rule, issuers: tuple[Issuer, ...] = (OWN,), **more: Any) -> TokenText | None:
    return of_port(PortPolicy(service="payments", port="http", allow=allow, **more), issuers)


def demanding(**demand: Any) -> Rule:
    return replace(RULE, token=replace(DEMAND, **demand))


def test_lists_of_scopes_are_those_that_are_demanded_and_all_together_in_their_order() -> None:
    text = text_of(RULE, demanding(scopes=("c",)))
    assert text is not None
    assert text.scopes == (("a", "b"), ("c",), ("a", "b", "c"), ("b", "a"))
    assert (text.issuer, text.says, text.audience) == ("own", OWN.issuer, "payments")


def test_without_any_scopes_a_token_has_none() -> None:
    text = text_of(demanding(scopes=()))
    assert text is not None
    assert text.scopes == ((),)


ASKING = Condition.of(ex.Operation(ex.IN, (ex.Constant("x"), ex.Name("token.claims"))))
BELOW = IdentityMatch(id=WEB, below=True)
UNKNOWN: dict[str, tuple[Rule, ...]] = {
    "nothing is demanded": (replace(RULE, token=None),),
    "other claims are": (demanding(claims=(("dept", "x"),)),),
    "it is bound to a certificate": (demanding(certificate=True),),
    "it is a JWT-SVID": (demanding(svid=True),),
    "a condition asks for claims": (replace(RULE, when=ASKING),),
    "a condition of another rule does": (RULE, replace(RULE, token=None, when=ASKING)),
    "there are several audiences": (RULE, demanding(audience="x")),
    "there are several issuers": (RULE, demanding(issuer="x")),
    "callers are not named one by one": (replace(RULE, callers=(BELOW,)),),
    "callers are anybody": (replace(RULE, callers=(), anyone=True),),
    "callers are many": (replace(RULE, callers=RULE.callers * 9),),
    "nothing of it is enforced": (replace(RULE, mode=Mode.SHADOW),),
}


@pytest.mark.parametrize("why", UNKNOWN)
def test_they_are_not_where_their_text_does_not_say_enough(why: str) -> None:
    assert text_of(RULE) is not None
    assert text_of(*UNKNOWN[why]) is None


def test_nor_where_a_denial_or_break_glass_asks_for_one() -> None:
    assert text_of(RULE, deny=(RULE,)) is None
    assert text_of(RULE, emergencies=(RULE,)) is None


def test_nor_of_another_issuer_than_the_token_service_or_before_it_is_known() -> None:
    for changes in ({"kind": IssuerKind.FILE}, {"keys": ""}, {"issuer": ""}, {"name": "x"}):
        assert text_of(RULE, issuers=(replace(OWN, **changes),)) is None


def test_nor_where_the_header_could_go_on_to_an_app() -> None:
    assert {each for each in Protocol if is_kept_from(each)} == {Protocol.HTTP, Protocol.MCP}


def test_whoever_a_token_is_bound_to_is_asked_for_by_name_or_by_its_claims() -> None:
    text = text_of(RULE)
    name = HEADER.encode()
    asked = tokens.predicates(DEMAND, denies=False, own=True, caller=str(WEB), text=text)
    assert name in b"".join(asked)
    assert name not in b"".join(tokens.predicates(DEMAND, denies=False, own=True, text=text))
    # Denials hold for whatever is not told more of.
    denying = tokens.predicates(DEMAND, denies=True, own=True, caller=str(WEB), text=text)
    assert denying == tokens.predicates(DEMAND, denies=True, own=True, caller=str(WEB))
    assert name in b"".join(denying)
    assert name not in b"".join(tokens.predicates(DEMAND, denies=True, own=False, caller=str(WEB)))
