"""What the contract does not say: tokens that go away, PINs that are wrong, modules that are none."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDH, ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from vestibule.errors import VestibuleError
from vestibule.keys.pkcs11 import Pkcs11KeyManager
from vestibule.keys.secrets import Secret
from vestibule.keys.token import clear_openssl_errors
from vestibule.keys.token_keys import TokenKey
from vestibule.testing import TestAuthority
from vestibule.testing.softhsm import PIN, SoftToken, softhsm_module

MODULE = softhsm_module()
pytestmark = pytest.mark.skipif(MODULE is None, reason="SoftHSM2 is not installed")


@pytest.fixture
def token(tmp_path: Path) -> SoftToken:
    return SoftToken(tmp_path / "token")


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Tests that use the module themselves leave no errors of its to those that come after them in this thread."""
    yield
    clear_openssl_errors()


def manager(token: SoftToken, pin: str = PIN, *, namespace: str = "one") -> Pkcs11KeyManager:
    assert MODULE is not None
    return Pkcs11KeyManager(MODULE, token.label, Secret(pin), namespace=namespace)


async def works(keys: Pkcs11KeyManager, key_id: str = "a") -> None:
    public = await keys.public_key(key_id)
    public.verify(await keys.sign(key_id, b"data"), b"data", ECDSA(SHA256()))


async def test_keys_outlive_the_manager_that_made_them(token: SoftToken) -> None:
    await manager(token).generate("a")
    again = manager(token)
    assert await again.key_ids() == {"a"}
    await works(again)


async def test_namespaces_in_one_token_do_not_see_each_other(token: SoftToken) -> None:
    one, two = manager(token), manager(token, namespace="two")
    await one.generate("a")
    await two.generate("b")
    await two.delete("a")
    assert await one.key_ids() == {"a"}
    assert await two.key_ids() == {"b"}
    await works(one)


async def test_a_private_key_can_not_be_taken_out_of_the_token(token: SoftToken) -> None:
    import pkcs11

    keys = manager(token)
    await keys.generate("a")
    session = pkcs11.lib(str(MODULE)).get_token(token_label=token.label).open()
    (private,) = session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY})
    assert private[pkcs11.Attribute.SENSITIVE]
    assert not private[pkcs11.Attribute.EXTRACTABLE]
    assert private[pkcs11.Attribute.NEVER_EXTRACTABLE]
    assert not private[pkcs11.Attribute.DERIVE]
    with pytest.raises(pkcs11.PKCS11Error):
        private[pkcs11.Attribute.VALUE]
    session.close()


async def test_who_uses_the_thread_next_does_not_get_the_modules_errors(token: SoftToken) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=1))
    keys, certificate = manager(token), TestAuthority().certificate
    await keys.generate("a")
    context = await asyncio.to_thread(ssl.create_default_context, cadata=certificate)
    assert context.cert_store_stats()["x509"] == 1


async def test_a_session_that_was_lost_is_opened_again(token: SoftToken) -> None:
    import pkcs11

    keys = manager(token)
    await keys.generate("a")
    pkcs11.lib(str(MODULE)).finalize()  # as if the device had been reset
    await works(keys)
    pkcs11.lib(str(MODULE)).reinitialize()
    assert await keys.key_ids() == {"a"}


async def test_a_token_that_went_away_is_named_and_used_again_when_it_is_back(token: SoftToken) -> None:
    keys = manager(token)
    await keys.generate("a")
    away = token.store.rename(token.directory / "away")
    for ask in (keys.sign("a", b""), keys.public_key("a"), keys.generate("b"), keys.key_ids()):
        with pytest.raises(VestibuleError, match="VST1106"):
            await ask
    away.rename(token.store)
    await works(keys)
    assert await keys.key_ids() == {"a"}


async def test_a_wrong_pin_is_tried_once_and_never_shown(
    token: SoftToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = manager(token, "no-such-pin")
    with pytest.raises(VestibuleError, match="VST1107") as refused:
        await keys.generate("a")
    assert "no-such-pin" not in str(refused.value) + repr(keys) + repr(keys.__dict__)
    monkeypatch.setattr(keys._token, "_open", lambda *_, **__: pytest.fail("it knocked again"))
    for _ in range(3):
        with pytest.raises(VestibuleError, match="VST1107"):
            await keys.key_ids()
    await manager(token).generate("a")  # and the token is not locked


async def test_a_token_that_is_not_there_is_named(token: SoftToken) -> None:
    assert MODULE is not None
    keys = Pkcs11KeyManager(MODULE, "nobody", Secret(PIN), namespace="one")
    with pytest.raises(VestibuleError, match=r"VST1106.*nobody"):
        await keys.key_ids()


@pytest.mark.parametrize("content", [None, b"junk"])
async def test_a_module_that_is_none_is_named(tmp_path: Path, content: bytes | None) -> None:
    module = tmp_path / "module.so"
    if content is not None:
        module.write_bytes(content)
    with pytest.raises(VestibuleError, match="VST1108"):
        await Pkcs11KeyManager(module, "t", Secret(PIN), namespace="one").key_ids()


async def test_two_keys_under_one_name_are_refused_not_guessed(token: SoftToken) -> None:
    import pkcs11

    keys = manager(token)
    await keys.generate("a")
    session = pkcs11.lib(str(MODULE)).get_token(token_label=token.label).open(rw=True)
    parameters = session.create_domain_parameters(
        pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107")}, local=True
    )
    parameters.generate_keypair(store=True, label="one/a")
    session.close()
    with pytest.raises(VestibuleError, match="VST1109"):
        await keys.sign("a", b"")


@pytest.mark.parametrize("namespace", ["", "a/b", ".a", "a" * 65])
def test_a_namespace_that_could_reach_into_another_is_refused(namespace: str) -> None:
    with pytest.raises(VestibuleError, match="VST1100"):
        Pkcs11KeyManager(Path("/m.so"), "t", Secret(PIN), namespace=namespace)


class Wrong:
    """A token that signs with some other key, or not at all."""

    def __init__(self, length: int = 64) -> None:
        self._length = length

    def sign(self, digest: bytes, *, mechanism: object) -> bytes:
        return bytes([1]) * self._length


@pytest.mark.parametrize("length", [0, 64, 96])
def test_a_signature_that_does_not_verify_leaves_no_token(length: int) -> None:
    key = TokenKey(Wrong(length), generate_private_key(SECP256R1()).public_key())  # type: ignore[arg-type]
    with pytest.raises(VestibuleError, match="VST1109"):
        key.sign(b"data", ECDSA(SHA256()))


def test_a_key_in_a_token_does_nothing_but_sign_with_sha_256() -> None:
    other = generate_private_key(SECP256R1())
    key = TokenKey(Wrong(), other.public_key())  # type: ignore[arg-type]
    with pytest.raises(VestibuleError, match="VST1109"):
        key.sign(b"data", ECDSA(SHA384()))
    with pytest.raises(NotImplementedError):
        key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(NotImplementedError):
        key.private_numbers()
    with pytest.raises(NotImplementedError):
        key.exchange(ECDH(), other.public_key())
