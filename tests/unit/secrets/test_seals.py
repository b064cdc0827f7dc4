"""What each kind of seal has of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vestibule.errors import VestibuleError
from vestibule.keys.secrets import secret_in_file
from vestibule.keys.token import Token
from vestibule.keys.token_ciphers import TokenCipher
from vestibule.secrets.seals.file import FileSeal
from vestibule.secrets.seals.ports import Plan
from vestibule.secrets.seals.shares import ShamirSeal
from vestibule.secrets.seals.token import Pkcs11Seal
from vestibule.secrets.seals.wrapping import decode
from vestibule.testing.softhsm import SoftToken, softhsm_module

ROOT = bytes(range(32))
PLAN = Plan(shares=5, threshold=3)


async def test_a_wrong_share_is_known_by_itself() -> None:
    seal = ShamirSeal()
    wrapped, other = await seal.wrap(ROOT, PLAN), await seal.wrap(ROOT, PLAN)
    assert [seal.number(wrapped.document, share) for share in wrapped.shares] == [1, 2, 3, 4, 5]
    right = wrapped.shares[0]
    for wrong in (
        other.shares[0],
        bytes([right[0] ^ 1]) + right[1:],
        right[:-1] + b"\x02",
        right[:-1] + b"\x77",
    ):
        with pytest.raises(VestibuleError) as error:
            seal.number(wrapped.document, wrong)
        assert error.value.code.code == "VST5012"
        assert right.hex() not in str(error.value)
    for malformed in (b"", right[:-1], right + b"\x01", right[:-1] + b"\x00"):
        with pytest.raises(VestibuleError) as error:
            seal.number(wrapped.document, malformed)
        assert error.value.code.code == "VST5013"


async def test_the_same_share_again_is_not_another_one() -> None:
    seal = ShamirSeal()
    wrapped = await seal.wrap(ROOT, PLAN)
    with pytest.raises(VestibuleError) as error:
        await seal.unwrap(wrapped.document, [wrapped.shares[0]] * 3)
    assert error.value.code.code == "VST5012"


async def test_a_threshold_that_was_lowered_in_the_database_opens_nothing() -> None:
    seal = ShamirSeal()
    wrapped = await seal.wrap(ROOT, PLAN)
    changes: list[dict[str, object]] = [
        {"threshold": 2},
        {"threshold": 0},
        {"threshold": "3"},
        {"shares": 4},
        {"digests": []},
        {"salt": 1},
    ]
    for change in changes:
        with pytest.raises(VestibuleError) as error:
            await seal.unwrap({**wrapped.document, **change}, wrapped.shares[:2])
        assert error.value.code.code in ("VST5015", "VST5012")


@pytest.mark.parametrize(("shares", "threshold"), [(0, 0), (3, 1), (2, 3), (256, 2), (-1, -1)])
def test_some_plans_make_no_sense(shares: int, threshold: int) -> None:
    with pytest.raises(VestibuleError) as error:
        Plan(shares=shares, threshold=threshold)
    assert error.value.code.code == "VST5017"


async def test_a_key_file_that_is_gone_is_not_made_anew_to_open_with(tmp_path: Path) -> None:
    path = tmp_path / "seal.kek"
    wrapped = await FileSeal(path).wrap(ROOT, PLAN)
    assert path.stat().st_mode & 0o777 == 0o600
    key = path.read_bytes()
    path.unlink()
    with pytest.raises(VestibuleError) as error:
        await FileSeal(path).unwrap(wrapped.document)
    assert error.value.code.code == "VST5014"
    assert not path.exists()
    path.write_bytes(key[::-1])
    path.chmod(0o600)
    with pytest.raises(VestibuleError) as error:
        await FileSeal(path).unwrap(wrapped.document)
    assert error.value.code.code == "VST5015"
    path.chmod(0o644)
    with pytest.raises(VestibuleError) as error:
        await FileSeal(path).unwrap(wrapped.document)
    assert error.value.code.code == "VST5014"


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"{}", b'{"kind": 1}', b"[" * 100_000, b" " * 300_000 + b"{}"]
)
def test_a_malformed_document_is_refused(text: bytes) -> None:
    with pytest.raises(VestibuleError) as error:
        decode(text)
    assert error.value.code.code == "VST5015"


@pytest.fixture
def token(tmp_path: Path) -> SoftToken:
    if softhsm_module() is None:
        pytest.skip("SoftHSM2 is not installed")
    return SoftToken(tmp_path / "token")


def seal_of(token: SoftToken, label: str = "test/seal") -> Pkcs11Seal:
    module = softhsm_module()
    assert module is not None
    return Pkcs11Seal(TokenCipher(Token(module, token.label, secret_in_file(token.pin_file)), label))


async def test_a_token_that_is_away_is_waited_for_and_one_without_the_key_is_refused(
    token: SoftToken,
) -> None:
    seal = seal_of(token)
    wrapped = await seal.wrap(ROOT, PLAN)
    away = token.store.rename(token.directory / "away")
    for attempt in (seal.unwrap(wrapped.document), seal.wrap(ROOT, PLAN)):
        with pytest.raises(VestibuleError) as error:
            await attempt
        assert error.value.code.code == "VST5014"
    away.rename(token.store)
    assert await seal.unwrap(wrapped.document) == ROOT
    with pytest.raises(VestibuleError) as error:
        await seal_of(token, "another/label").unwrap(wrapped.document)
    assert error.value.code.code == "VST5015"


@pytest.mark.parametrize(
    "change", [{"key": ""}, {"key": 7}, {"key": "AAAA"}, {"how": "rot13"}, {"key": "A" * 64}]
)
async def test_what_a_token_wrapped_cannot_be_changed(token: SoftToken, change: dict[str, object]) -> None:
    seal = seal_of(token)
    wrapped = await seal.wrap(ROOT, PLAN)
    with pytest.raises(VestibuleError) as error:
        await seal.unwrap({**wrapped.document, **change})
    assert error.value.code.code == "VST5015"


async def test_the_tokens_key_stays_in_it(token: SoftToken) -> None:
    import pkcs11

    await seal_of(token).wrap(ROOT, PLAN)
    module = softhsm_module()
    assert module is not None

    def look(session: Any) -> None:
        (key,) = session.get_objects({pkcs11.Attribute.LABEL: "test/seal"})
        assert key[pkcs11.Attribute.SENSITIVE]
        assert not key[pkcs11.Attribute.EXTRACTABLE]
        with pytest.raises(pkcs11.AttributeSensitive):
            key[pkcs11.Attribute.VALUE]

    await Token(module, token.label, secret_in_file(token.pin_file)).ask(look)
