"""What a secret may hold, how it is patched, and its shape."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestibule.errors import VestibuleError
from vestibule.secrets.versions.codes import MALFORMED_VALUE, VALUE_TOO_LARGE
from vestibule.secrets.versions.values import DEEPEST, LARGEST, data_of, merged, shape, text_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=4)


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"bottom": 1}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


@given(OBJECTS)
def test_what_is_kept_comes_back_as_it_was(data: dict[str, Any]) -> None:
    assert data_of(text_of(data)) == data


def test_integers_of_any_size_stay_what_they_are() -> None:
    assert data_of(text_of({"id": 2**64 + 1})) == {"id": 2**64 + 1}


def test_a_secret_is_as_long_as_a_mebibyte() -> None:
    frame = len(text_of({"a": ""}))
    assert len(text_of({"a": "x" * (LARGEST - frame)})) == LARGEST
    with pytest.raises(VestibuleError, match=r"1,048,577 bytes of JSON; at most 1,048,576") as refused:
        text_of({"a": "x" * (LARGEST - frame + 1)})
    assert refused.value.code is VALUE_TOO_LARGE


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", b"bytes", deep(DEEPEST)])
def test_what_is_not_json_is_refused_without_showing_it(value: object) -> None:
    with pytest.raises(VestibuleError) as refused:
        text_of({"planted": value})
    assert refused.value.code is MALFORMED_VALUE
    assert "planted" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_nesting_has_a_bound_that_no_stack_notices() -> None:
    assert text_of(deep(DEEPEST))
    listed: list[Any] = []
    for _ in range(100_000):
        listed = [listed]
    for call in (lambda: text_of({"a": listed}), lambda: merged({}, deep(100_000))):
        with pytest.raises(VestibuleError, match="nested"):
            call()


# RFC 7396, appendix A, where it speaks of objects.
@pytest.mark.parametrize(
    ("data", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_patch_merges(data: dict[str, Any], patch: dict[str, Any], result: dict[str, Any]) -> None:
    before = text_of(data)
    assert merged(data, patch) == result
    assert text_of(data) == before


def test_the_shape_has_the_names_and_none_of_the_values() -> None:
    data = {"foo": "abc", "bar": {"baz": {"quux": 1}, "empty": {}}, "list": [{"x": 1}]}
    assert shape(data) == {"foo": None, "bar": {"baz": {"quux": None}, "empty": None}, "list": None}
    assert shape(data, depth=1) == {"foo": None, "bar": None, "list": None}
    assert shape(data, depth=2) == {"foo": None, "bar": {"baz": None, "empty": None}, "list": None}
