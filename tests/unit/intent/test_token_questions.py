"""Questions about a token, and one decision of all answers."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from vestibule.intent.token_questions import calls_of, deciding, method_of, paths_of, together
from vestibule.policy import Decision, Verdict
from vestibule.policy.facts import GIVEN
from vestibule.spiffe import SpiffeId

NOW = datetime(2026, 6, 1, tzinfo=UTC)
WEB = SpiffeId.parse("spiffe://example.org/web")
YES, NO = Decision(allowed=True, rule="a/yes"), Decision(allowed=False)


def test_there_is_a_question_for_no_scope_and_one_for_each() -> None:
    assert paths_of("reports", ("read", "a/b")) == ("/reports", "/reports/read", "/reports/a~2fb")
    assert (method_of("mint", "corp"), method_of("admit", "corp")) == ("mint", "admit:corp")


def test_who_mints_gives_no_token() -> None:
    (minted,) = calls_of(WEB, "mint", ["/a"], {"sub": "alice"}, NOW)
    (got,) = calls_of(WEB, "receive", ["/a"], {"sub": "alice"}, NOW)
    assert (minted.tokens, got.tokens) == ({}, {GIVEN: {"sub": "alice"}})


@pytest.mark.parametrize(
    ("allowed", "number"),
    [
        ([True], 0),
        ([False], 0),
        ([True, True], 1),
        ([True, True, True], 1),
        ([True, True, False], 2),
        ([True, False, False], 1),
        ([False, False, True], 0),
        ([False, True, True], 1),
    ],
)
def test_the_first_scope_that_is_refused_decides_unless_nothing_can_be_had_at_all(
    allowed: list[bool], number: int
) -> None:
    assert deciding(allowed) == number


def test_the_answers_are_one_decision() -> None:
    assert together([YES]) == YES
    assert together([YES, YES]) == YES
    assert together([YES, YES, NO]) == NO


def test_what_would_be_in_shadow_is_told_of_all_scopes_together() -> None:
    tried = Decision(allowed=False, shadow=Verdict(allowed=True, rule="a/tried"))
    refused = Decision(allowed=True, rule="a/yes", shadow=Verdict(allowed=False, rule="a/no"))
    assert together([YES, tried]).shadow == Verdict(allowed=True, rule="a/tried")
    assert together([YES, YES, refused]).shadow == Verdict(allowed=False, rule="a/no")
    assert together([YES, tried, NO]).shadow == Verdict(allowed=False)
    assert together([YES, YES]).shadow is None
