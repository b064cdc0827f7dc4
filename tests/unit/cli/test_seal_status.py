"""What ``vestibule status`` says of the secret manager in one line."""

from __future__ import annotations

from vestibule.cli.seal_status import seal_document, seal_words
from vestibule.wire.gen.vestibule.admin.v1 import secrets_pb2


def words(**given: object) -> str:
    document = seal_document(secrets_pb2.SealStatus(kind="file", **{"initialised": True, **given}))  # type: ignore[arg-type]
    assert document is not None
    return seal_words(document)


def test_the_line_says_how_it_is_and_what_is_wrong() -> None:
    assert words() == "unsealed (seal: file)"
    assert words(sealed=True, problem="the file is gone") == "sealed (seal: file): the file is gone"
    assert words(sealed=True, initialised=False) == "not initialised (seal: file)"
    assert words(damaged=["secret"]) == "unsealed (seal: file); rows were tampered with: secret"


def test_without_a_secret_manager_there_is_no_line() -> None:
    assert seal_document(None) is None
