"""Whatever is sent to the parsers of identities and intents, they answer with a result or one of our errors."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.targets import SLOW, TARGETS, Target

EVERY = {**TARGETS, **SLOW}


def mutations(seeds: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Well-formed inputs with a few places changed, cut, doubled or filled."""
    change = st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=12))
    return st.builds(_mutated, st.sampled_from(seeds), st.lists(change, max_size=5))


def _mutated(seed: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    for where, cut, put in changes:
        at = int(where * len(seed))
        seed = seed[:at] + put + seed[at + cut :]
    return seed


@pytest.mark.parametrize("target", EVERY.values(), ids=EVERY.keys())
def test_a_parser_answers_anything_with_a_result_or_an_error_of_ours(target: Target) -> None:
    seeds = target.seeds()
    for seed in seeds:
        target.run(seed)

    @settings(deadline=None, max_examples=200)
    @given(st.one_of(mutations(seeds), st.binary(max_size=300)))
    def run(data: bytes) -> None:
        target.run(data)

    run()
