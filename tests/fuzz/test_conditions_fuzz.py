"""Whatever is written as a condition: it is let through or refused in our words, soon, and never comes to anything
but true, false or an error of ours."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conditions import truth

from vestibule.errors import VestibuleError
from vestibule.policy import Condition, ConditionError, fold
from vestibule.policy import expressions as ex
from vestibule.policy.regexes import why_not

PIECES = (
    *("request", "caller", "token", "headers", "claims", "labels", "method", "id", "time", "scopes", "body"),
    *(
        ".",
        "'",
        '"',
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "==",
        "&&",
        "||",
        "!",
        "-",
        "+",
        "?",
        ":",
        ",",
        " in ",
        "\n",
        "\\",
    ),
    *(
        "has(",
        "matches(",
        "exists(x, ",
        "all(",
        "map(",
        "timestamp(",
        "duration('1h')",
        "size(",
        "1",
        "9" * 30,
        "1e400",
    ),
    *(
        "true",
        "null",
        "b'",
        "r'",
        "'''",
        "\\u0000",
        "\\xff",
        "0x",
        "u",
        "ä",
        "\u202e",
        "\0",
        "//",
        "optional",
        "google.",
    ),
)
TEXTS = st.one_of(
    st.text(max_size=80),
    st.lists(st.sampled_from(PIECES), max_size=30).map("".join),
    st.builds(
        lambda seed, depth: truth(random.Random(seed), depth), st.integers(0, 10**9), st.integers(0, 6)
    ),
    st.builds(
        lambda seed, at, piece: (written := truth(random.Random(seed), 3))[:at] + piece + written[at:],
        st.integers(0, 10**9),
        st.integers(0, 60),
        st.sampled_from(PIECES),
    ),
    st.builds(lambda piece, count: piece * count, st.sampled_from(PIECES), st.integers(1, 3000)),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
unhurried = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
MOST_SECONDS = 20.0
"""Of the processor, for one text."""


def parsed(text: str) -> Condition | VestibuleError:
    try:
        return Condition.parse(text)
    except VestibuleError as error:
        return error


def outcome(condition: Condition, facts: dict[str, Any]) -> bool | str:
    try:
        return condition.evaluate(facts)
    except ConditionError as error:
        return error.code.code


@unhurried
@given(text=TEXTS, value=JSON)
def test_what_is_written_is_refused_or_comes_to_true_or_false_or_an_error(text: str, value: Any) -> None:
    began = time.process_time()
    judge(text, value)
    assert time.process_time() - began < MOST_SECONDS


def judge(text: str, value: Any) -> None:
    condition = parsed(text)
    if isinstance(condition, VestibuleError):
        assert condition.code.code in ("VST4040", "VST4041", "VST4042", "VST4043")
        assert len(condition.message) < 1000
        assert condition.where is None or (condition.where.line or 0) <= text.count("\n") + 1
        return
    facts = {
        "request.method": "GET",
        "request.headers": {"x-tenant": "\udcff"},
        "request.time": datetime(2026, 1, 1, tzinfo=UTC),
        "token.claims": value if isinstance(value, dict) else {"admin": value},
        "request.body": value,
        "attributes": {"a": value},
    }
    assert outcome(condition, facts) in (True, False, "VST4044")
    assert fold(condition, {"environment": "prod", "caller.labels": {}}) is not None


@unhurried
@given(seed=st.integers(0, 10**9), depth=st.integers(0, 5))
def test_a_condition_that_is_written_out_again_is_the_same(seed: int, depth: int) -> None:
    condition = parsed(truth(random.Random(seed), depth))
    if isinstance(condition, VestibuleError):
        return
    assert condition.tree is not None
    again = Condition.parse(ex.text(condition.tree))
    assert again.tree is not None
    assert ex.text(again.tree) == ex.text(condition.tree)
    assert again.uses == condition.uses


@unhurried
@given(
    value=st.text(max_size=20)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=8)
)
def test_a_literal_is_read_as_it_was_written(value: Any) -> None:
    if isinstance(value, str) and any(each in value for each in "\0\U0010ffff"):
        return
    written = ex.text(ex.Operation(ex.EQUAL, (ex.Constant(value), ex.Constant(value))))
    condition = parsed(f"request.method == 'a' || {written}")
    if isinstance(condition, VestibuleError):
        assert isinstance(value, str), condition  # some characters are refused
        return
    tree = condition.tree
    assert tree is not None
    assert ex.Constant(value) in list(ex.walk(tree)) or isinstance(value, float)


@unhurried
@given(regex=st.text(alphabet="ab(|)[]{}^$*+?\\dwpQEx:<>P-,0123456789é.i#", max_size=60))
def test_any_regular_expression_is_judged(regex: str) -> None:
    began = time.process_time()
    assert why_not(regex) is None or isinstance(why_not(regex), str)
    assert time.process_time() - began < MOST_SECONDS
