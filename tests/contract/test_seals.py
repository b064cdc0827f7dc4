"""What every seal promises."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, cast

import pytest

from vestibule.errors import VestibuleError
from vestibule.keys.secrets import secret_in_file
from vestibule.keys.token import Token
from vestibule.keys.token_ciphers import TokenCipher
from vestibule.secrets.seals.file import FileSeal
from vestibule.secrets.seals.peers import PeersSeal
from vestibule.secrets.seals.ports import Plan, Seal
from vestibule.secrets.seals.shares import ShamirSeal
from vestibule.secrets.seals.token import Pkcs11Seal
from vestibule.secrets.seals.wrapping import decode, encode
from vestibule.testing.softhsm import SoftToken, softhsm_module

ROOT = bytes(range(32))
PLAN = Plan(shares=5, threshold=3)

Make: TypeAlias = Callable[[], Seal]
"""The seal as another process of the same installation has it."""


def of_a_token(path: Path, *, rsa: bool) -> Make:
    module = softhsm_module()
    if module is None:
        pytest.skip("SoftHSM2 is not installed")
    soft = SoftToken(path / "token")
    token = Token(module, soft.label, secret_in_file(soft.pin_file))
    if rsa:
        asyncio.run(token.ask(make_rsa_pair))
    return lambda: Pkcs11Seal(TokenCipher(token, "test/seal"))


def make_rsa_pair(session: Any) -> None:
    import pkcs11

    session.generate_keypair(pkcs11.KeyType.RSA, 2048, store=True, label="test/seal")


MAKERS: dict[str, Callable[[Path], Make]] = {
    "file": lambda path: lambda: FileSeal(path / "keys" / "seal.kek"),
    "shamir": lambda _: ShamirSeal,
    "peers": lambda _: lambda: PeersSeal(cast(Any, None), ()),
    "pkcs11": lambda path: of_a_token(path, rsa=False),
    "pkcs11-rsa": lambda path: of_a_token(path, rsa=True),
}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    return MAKERS[request.param](tmp_path)


async def test_the_root_key_comes_back_in_another_process(make: Make) -> None:
    wrapped = await make().wrap(ROOT, PLAN)
    document = decode(encode(wrapped.document))
    assert await make().unwrap(document, wrapped.shares[-3:]) == ROOT
    assert document["kind"] == make().kind


async def test_what_is_kept_holds_no_secret(make: Make) -> None:
    wrapped = await make().wrap(ROOT, PLAN)
    kept = encode(wrapped.document)
    for secret in (ROOT, *wrapped.shares, *(share[:-1] for share in wrapped.shares)):
        assert secret not in kept
        assert secret.hex().encode() not in kept
    assert "shares=" not in repr(wrapped)


async def test_it_says_how_many_shares_it_needs(make: Make) -> None:
    seal = make()
    wrapped = await seal.wrap(ROOT, PLAN)
    assert seal.has_shares is bool(wrapped.shares)
    assert seal.plan(wrapped.document) == (PLAN if wrapped.shares else None)
    if not wrapped.shares:
        with pytest.raises(VestibuleError) as error:
            seal.number(wrapped.document, b"share")
        assert error.value.code.code == "VST5019"


async def test_a_document_that_was_changed_gives_nothing(make: Make) -> None:
    wrapped = await make().wrap(ROOT, PLAN)
    changes: list[dict[str, Any]] = [
        {"wrapped": ""},
        {"wrapped": 7},
        {"wrapped": "AAAA" * 20},
        {"version": 2},
        {"more": True},
    ]
    for change in changes:
        document = json.loads(json.dumps({**wrapped.document, **change}))
        with pytest.raises(VestibuleError) as error:
            await make().unwrap(document, wrapped.shares[:3])
        assert error.value.code.code == "VST5015"


async def test_two_root_keys_have_nothing_in_common(make: Make) -> None:
    first, second = await make().wrap(ROOT, PLAN), await make().wrap(ROOT, PLAN)
    assert first.document["wrapped"] != second.document["wrapped"]
    assert not set(first.shares) & set(second.shares)
