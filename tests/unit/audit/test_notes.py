"""Signed notes, as others write and read them."""

from __future__ import annotations

import pytest

from vestibule.audit.notes import NoteSigner, NoteVerifier

NEUMANN = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
SIGNED = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
"""The example of golang.org/x/mod/sumdb/note."""


def test_a_note_of_others_verifies() -> None:
    verifier = NoteVerifier.parse(NEUMANN)
    assert verifier.has_signed(TEXT, SIGNED)
    assert not verifier.has_signed(TEXT + "\n", SIGNED)
    assert str(verifier) == NEUMANN


def test_what_is_signed_verifies_with_the_public_half_alone() -> None:
    signer = NoteSigner("vestibule.audit/example.org/a", bytes(32))
    verifier = NoteVerifier.parse(str(signer.verifier))
    assert verifier.has_signed(TEXT, signer.sign(TEXT))
    assert not verifier.has_signed(
        TEXT, NoteSigner("vestibule.audit/example.org/a", bytes(31) + b"1").sign(TEXT)
    )
    assert not verifier.has_signed(TEXT, NoteSigner("another", bytes(32)).sign(TEXT))
    assert verifier.has_signed(TEXT, SIGNED + signer.sign(TEXT))


@pytest.mark.parametrize(
    "text",
    ["", "a", "a+b", "a+00000000+AAAA", NEUMANN.replace("c74f", "c75f"), NEUMANN[:-4], "a b+c+d", "a+b+é"],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"key|ID|form"):
        NoteVerifier.parse(text)


@pytest.mark.parametrize(
    "line", ["", "— PeterNeumann", "— PeterNeumann !!!", "— PeterNeumann x08g", "PeterNeumann a"]
)
def test_what_is_no_signature_verifies_nothing(line: str) -> None:
    assert not NoteVerifier.parse(NEUMANN).has_signed(TEXT, line)


def test_a_signer_shows_no_secret() -> None:
    assert repr(bytes(32)) not in repr(NoteSigner("a", bytes(32)))
