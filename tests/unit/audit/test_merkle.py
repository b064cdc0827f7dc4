"""Merkle trees as RFC 6962 has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestibule.audit.merkle import EMPTY, Edge, includes, inclusion, leaf_hash, root_of

LEAVES = [
    leaf_hash(bytes.fromhex(each))
    for each in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}
"""Of the test vectors that implementations of Certificate Transparency share."""


@pytest.mark.parametrize(("size", "root"), ROOTS.items())
def test_roots_are_those_of_other_implementations(size: int, root: str) -> None:
    assert root_of(LEAVES[:size]).hex() == root


def test_the_empty_tree_has_a_root() -> None:
    assert root_of([]) == EMPTY


@given(st.integers(1, 70), st.data())
def test_what_is_in_the_tree_is_proven_and_nothing_else(size: int, data: st.DataObject) -> None:
    leaves = [leaf_hash(bytes([at])) for at in range(size)]
    index = data.draw(st.integers(0, size - 1))
    root, proof = root_of(leaves), inclusion(leaves, index)
    assert includes(leaves[index], index, size, proof, root)
    assert not includes(leaf_hash(b"other"), index, size, proof, root)
    assert not includes(leaves[index], index, size, [*proof, EMPTY], root)
    for other in {0, size // 2, size - 1} - {index}:
        assert not includes(leaves[index], other, size, proof, root)
    if proof:
        assert not includes(leaves[index], index, size, proof[:-1], root)


def test_a_place_outside_the_tree_proves_nothing() -> None:
    assert not includes(LEAVES[0], 1, 1, [], LEAVES[0])
    assert not includes(LEAVES[0], -1, 1, [], LEAVES[0])


@given(st.integers(0, 70), st.integers(0, 70))
def test_a_tree_that_grew_is_the_one_that_was_built_at_once(first: int, more: int) -> None:
    leaves = [leaf_hash(bytes([at])) for at in range(first + more)]
    edge = Edge()
    for leaf in leaves:
        edge.append(leaf)
    assert (edge.size, edge.root) == (len(leaves), root_of(leaves))
