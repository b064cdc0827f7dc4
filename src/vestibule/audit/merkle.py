"""Merkle trees of RFC 6962 (section 2.1; algorithms of RFC 9162, section 2.1.3): roots, proofs, and their checks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

EMPTY = hashlib.sha256(b"").digest()
"""The root of the tree without leaves."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of what stands above two others."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Edge:
    """The right edge of a tree that grows: the roots of its whole subtrees, from the largest."""

    __slots__ = ("_nodes", "size")

    def __init__(self, size: int = 0, nodes: Sequence[bytes] = ()) -> None:
        self.size = size
        self._nodes = list(nodes)

    def append(self, leaf: bytes) -> None:
        """One more leaf, by its hash."""
        node, size = leaf, self.size
        while size & 1:
            node = node_hash(self._nodes.pop(), node)
            size >>= 1
        self._nodes.append(node)
        self.size += 1

    @property
    def root(self) -> bytes:
        """The hash of the whole tree."""
        if not self._nodes:
            return EMPTY
        node = self._nodes[-1]
        for above in reversed(self._nodes[:-1]):
            node = node_hash(above, node)
        return node


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over leaves' hashes."""
    edge = Edge()
    for leaf in leaves:
        edge.append(leaf)
    return edge.root


def inclusion(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """What proves that the leaf at ``index`` is in the tree over ``leaves``: the nodes beside its way up."""
    if len(leaves) <= 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*inclusion(leaves[:split], index), root_of(leaves[split:])]
    return [*inclusion(leaves[split:], index - split), root_of(leaves[:split])]


def includes(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether ``proof`` shows the leaf at ``index`` in the tree of ``size`` leaves under ``root``."""
    if not 0 <= index < size:
        return False
    position, last, node = index, size - 1, leaf
    for beside in proof:
        if last == 0:
            return False
        if position & 1 or position == last:
            node = node_hash(beside, node)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            node = node_hash(node, beside)
        position, last = position >> 1, last >> 1
    return last == 0 and node == root


def _split(size: int) -> int:
    """The largest power of two below ``size``."""
    return 1 << (size - 1).bit_length() - 1
