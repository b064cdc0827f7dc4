"""``transit/`` in Vault's dialect: what comes back opens, verifies and is refused as its clients expect."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from base64 import b64decode, b64encode, urlsafe_b64decode
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from vestibule.doors.vault.operations import Answer, Caller, Operation, VaultRequest
from vestibule.doors.vault.transit import TransitBackend
from vestibule.errors import VestibuleError
from vestibule.secrets.ports import Verb
from vestibule.secrets.transit.engine import Transit
from vestibule.spiffe import SpiffeId
from vestibule.testing.barrier import MemoryBarrier
from vestibule.testing.clock import FakeClock

CALLER = Caller(spiffe_id=SpiffeId.parse("spiffe://example.org/ns/prod/sa/payments"))


def b64(text: bytes) -> str:
    return b64encode(text).decode()


class Lab:
    """The door, asked as the pipeline asks it."""

    def __init__(self) -> None:
        self.backend = TransitBackend(Transit(MemoryBarrier(), FakeClock()))

    def operation(self, method: str, path: str, body: dict[str, Any]) -> Operation | None:
        return self.backend.operation(
            VaultRequest(method=method, path=f"transit/{path}", caller=CALLER, body=body)
        )

    async def answer(self, method: str, path: str, **body: Any) -> Answer:
        operation = self.operation(method, path, body)
        assert operation is not None
        return await operation.run()

    async def post(self, path: str, **body: Any) -> dict[str, Any]:
        answer = await self.answer("POST", path, **body)
        return dict(answer.data or {})


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.mark.parametrize("kind", ["aes128-gcm96", "aes256-gcm96", "chacha20-poly1305", "rsa-2048"])
async def test_what_was_encrypted_opens_again(lab: Lab, kind: str) -> None:
    await lab.post("keys/cards", type=kind)
    made = await lab.post("encrypt/cards", plaintext=b64(b"4111"))
    assert made["ciphertext"].startswith("vault:v1:")
    assert made["key_version"] == 1
    assert await lab.post("decrypt/cards", ciphertext=made["ciphertext"]) == {"plaintext": b64(b"4111")}


async def test_a_changed_ciphertext_a_foreign_one_and_other_data_do_not_open(lab: Lab) -> None:
    await lab.post("keys/cards")
    await lab.post("keys/others")
    made = (await lab.post("encrypt/cards", plaintext=b64(b"4111"), associated_data=b64(b"id=7")))[
        "ciphertext"
    ]
    body = bytearray(b64decode(made.removeprefix("vault:v1:")))
    body[-1] ^= 1
    changed = f"vault:v1:{b64(bytes(body))}"
    for key, asked in (
        ("cards", {"ciphertext": changed, "associated_data": b64(b"id=7")}),
        ("cards", {"ciphertext": made, "associated_data": b64(b"id=8")}),
        ("cards", {"ciphertext": made}),
        ("others", {"ciphertext": made, "associated_data": b64(b"id=7")}),
        ("cards", {"ciphertext": "vault:v1:"}),
    ):
        with pytest.raises(VestibuleError, match="does not open"):
            await lab.post(f"decrypt/{key}", **asked)
    with pytest.raises(VestibuleError, match="no version 2"):
        await lab.post("decrypt/cards", ciphertext=made.replace("v1", "v2"))


@pytest.mark.parametrize("text", ["", "vault:v0:aa", "vault:v1", "v1:aa", "vault:v1:a a", 5, None])
async def test_what_is_no_ciphertext_is_refused(lab: Lab, text: object) -> None:
    await lab.post("keys/cards")
    with pytest.raises(VestibuleError) as refused:
        await lab.post("decrypt/cards", ciphertext=text)
    assert refused.value.code.code == "VST5502"


async def test_derived_keys_differ_by_context(lab: Lab) -> None:
    await lab.post("keys/cards", derived=True)
    made = (await lab.post("encrypt/cards", plaintext=b64(b"4111"), context=b64(b"user-1")))["ciphertext"]
    with pytest.raises(VestibuleError, match="does not open"):
        await lab.post("decrypt/cards", ciphertext=made, context=b64(b"user-2"))
    with pytest.raises(VestibuleError, match="needs a context"):
        await lab.post("decrypt/cards", ciphertext=made)
    opened = await lab.post("decrypt/cards", ciphertext=made, context=b64(b"user-1"))
    assert opened == {"plaintext": b64(b"4111")}


async def test_rewrapping_moves_to_the_newest_version(lab: Lab) -> None:
    await lab.post("keys/cards")
    old = (await lab.post("encrypt/cards", plaintext=b64(b"4111")))["ciphertext"]
    await lab.post("keys/cards/rotate")
    new = await lab.post("rewrap/cards", ciphertext=old)
    assert new["ciphertext"].startswith("vault:v2:")
    assert await lab.post("decrypt/cards", ciphertext=new["ciphertext"]) == {"plaintext": b64(b"4111")}


async def test_in_a_batch_each_item_has_its_own_outcome(lab: Lab) -> None:
    await lab.post("keys/cards")
    batch = [{"plaintext": b64(b"a"), "reference": "first"}, {"plaintext": "?"}]
    answer = await lab.answer("POST", "encrypt/cards", batch_input=batch)
    first, second = (answer.data or {})["batch_results"]
    assert first["reference"] == "first"
    assert first["ciphertext"].startswith("vault:v1:")
    assert "VST5502" in second["error"]
    assert answer.status == 0
    assert answer.detail == {"items": 2, "failed": 1}


async def test_a_batch_of_which_nothing_succeeded_is_refused(lab: Lab) -> None:
    await lab.post("keys/cards")
    answer = await lab.answer("POST", "decrypt/cards", batch_input=[{"ciphertext": "x"}])
    assert answer.status == 400


async def test_ecdsa_signatures_are_what_others_verify(lab: Lab) -> None:
    await lab.post("keys/signer", type="ecdsa-p256")
    shown = (await lab.answer("GET", "keys/signer")).data or {}
    public = load_pem_public_key(shown["keys"]["1"]["public_key"].encode())
    assert isinstance(public, EllipticCurvePublicKey)
    made = (await lab.post("sign/signer", input=b64(b"text")))["signature"]
    public.verify(b64decode(made.removeprefix("vault:v1:")), b"text", ECDSA(SHA256()))
    jws = (await lab.post("sign/signer", input=b64(b"text"), marshaling_algorithm="jws"))["signature"]
    assert len(urlsafe_b64decode(jws.removeprefix("vault:v1:") + "==")) == 64
    asked = {"input": b64(b"text"), "signature": jws, "marshaling_algorithm": "jws"}
    assert await lab.post("verify/signer", **asked) == {"valid": True}
    assert await lab.post("verify/signer", **{**asked, "input": b64(b"other")}) == {"valid": False}
    short = {**asked, "signature": "vault:v1:YWJj"}
    assert await lab.post("verify/signer", **short) == {"valid": False}


async def test_rsa_signatures_are_what_others_verify(lab: Lab) -> None:
    await lab.post("keys/signer", type="rsa-2048")
    shown = (await lab.answer("GET", "keys/signer")).data or {}
    public = load_pem_public_key(shown["keys"]["1"]["public_key"].encode())
    assert isinstance(public, RSAPublicKey)
    made = (await lab.post("sign/signer", input=b64(b"text")))["signature"]
    public.verify(b64decode(made.removeprefix("vault:v1:")), b"text", PSS(MGF1(SHA256()), 32), SHA256())
    digest = hashlib.sha512(b"text").digest()
    how = {"prehashed": True, "signature_algorithm": "pkcs1v15", "hash_algorithm": "sha2-512"}
    made = (await lab.post("sign/signer", input=b64(digest), **how))["signature"]
    whole = {"signature_algorithm": "pkcs1v15", "input": b64(b"text"), "signature": made}
    assert await lab.post("verify/signer/sha2-512", **whole) == {"valid": True}
    assert await lab.post("verify/signer", **whole) == {"valid": False}
    with pytest.raises(VestibuleError, match="no digest"):
        await lab.post("sign/signer", input=b64(b"text"), prehashed=True)


async def test_ed25519_signatures_of_a_context_verify_with_its_own_public_key(lab: Lab) -> None:
    await lab.post("keys/signer", type="ed25519", derived=True)
    made = await lab.post("sign/signer", input=b64(b"text"), context=b64(b"user-1"))
    public = Ed25519PublicKey.from_public_bytes(b64decode(made["public_key"]))
    public.verify(b64decode(made["signature"].removeprefix("vault:v1:")), b"text")
    asked = {"input": b64(b"text"), "signature": made["signature"]}
    assert await lab.post("verify/signer", **asked, context=b64(b"user-1")) == {"valid": True}
    assert await lab.post("verify/signer", **asked, context=b64(b"user-2")) == {"valid": False}


async def test_hmacs_are_verified(lab: Lab) -> None:
    await lab.post("keys/cards")
    made = (await lab.post("hmac/cards/sha2-512", input=b64(b"text")))["hmac"]
    assert len(b64decode(made.removeprefix("vault:v1:"))) == 64
    asked = {"input": b64(b"text"), "hmac": made, "algorithm": "sha2-512"}
    assert await lab.post("verify/cards", **asked) == {"valid": True}
    assert await lab.post("verify/cards", **{**asked, "algorithm": "sha2-256"}) == {"valid": False}


async def test_a_data_key_comes_plain_and_wrapped_or_wrapped_alone(lab: Lab) -> None:
    await lab.post("keys/cards")
    made = await lab.post("datakey/plaintext/cards", bits=128)
    assert len(b64decode(made["plaintext"])) == 16
    opened = await lab.post("decrypt/cards", ciphertext=made["ciphertext"])
    assert opened["plaintext"] == made["plaintext"]
    assert "plaintext" not in await lab.post("datakey/wrapped/cards")


async def test_plain_and_wrapped_data_keys_are_allowed_apart(lab: Lab) -> None:
    plain, wrapped = (lab.operation("POST", f"datakey/{each}/cards", {}) for each in ("plaintext", "wrapped"))
    assert plain is not None
    assert wrapped is not None
    assert (plain.verb, plain.resource) == (Verb.USE, "transit/datakey/plaintext/cards")
    assert wrapped.resource == "transit/datakey/wrapped/cards"


async def test_random_bytes_and_hashes_are_for_everybody(lab: Lab) -> None:
    for path in ("random", "random/16", "random/platform/16"):
        operation = lab.operation("POST", path, {"format": "hex"})
        assert operation is not None
        assert operation.open
        assert len(((await operation.run()).data or {})["random_bytes"]) in (32, 64)
    made = await lab.post("hash/sha2-256", input=b64(b"text"))
    assert made == {"sum": hashlib.sha256(b"text").hexdigest()}
    with pytest.raises(VestibuleError, match="more than"):
        await lab.post("random", bytes=10**9)


@pytest.mark.parametrize(
    ("method", "path", "verb", "changes"),
    [
        ("GET", "keys/cards", Verb.READ, False),
        ("LIST", "keys", Verb.LIST, False),
        ("POST", "keys/cards", Verb.WRITE, True),
        ("POST", "keys/cards/config", Verb.WRITE, True),
        ("DELETE", "keys/cards", Verb.WRITE, True),
        ("POST", "keys/cards/rotate", Verb.ROTATE, True),
    ],
)
def test_what_is_done_to_keys_needs_its_own_permission(
    lab: Lab, method: str, path: str, verb: Verb, changes: bool
) -> None:
    operation = lab.operation(method, path, {})
    assert operation is not None
    resource = "transit/keys" if method == "LIST" else "transit/keys/cards"
    assert (operation.verb, operation.resource, operation.changes) == (verb, resource, changes)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "export/encryption-key/cards"), ("GET", "encrypt/cards"), ("POST", "encrypt"), ("POST", "keys"),
     ("POST", "encrypt/cards/x"), ("POST", "datakey/other/cards"), ("GET", "backup/cards")],
)  # fmt: skip
def test_what_is_not_offered_has_no_path(lab: Lab, method: str, path: str) -> None:
    assert lab.operation(method, path, {}) is None


@pytest.mark.parametrize("field", ["exportable", "allow_plaintext_backup", "convergent_encryption"])
def test_a_key_that_could_leave_is_not_made(lab: Lab, field: str) -> None:
    with pytest.raises(VestibuleError, match=field):
        lab.operation("POST", "keys/cards", {field: True})


async def test_use_makes_no_keys(lab: Lab) -> None:
    with pytest.raises(VestibuleError, match="no transit key"):
        await lab.post("encrypt/cards", plaintext=b64(b"a"))
    assert (await lab.answer("GET", "keys/cards")).status == 404
    assert (await lab.answer("LIST", "keys")).status == 404


async def test_a_key_that_does_not_encrypt_says_so(lab: Lab) -> None:
    await lab.post("keys/signer", type="ed25519")
    with pytest.raises(VestibuleError, match="does not encrypt"):
        await lab.post("encrypt/signer", plaintext=b64(b"a"))
    await lab.post("keys/cards")
    with pytest.raises(VestibuleError, match="does not sign"):
        await lab.post("sign/cards", input=b64(b"a"))


async def test_an_hmac_key_makes_the_hmac_of_its_own_bytes(lab: Lab) -> None:
    key = await lab.backend._transit.make("mac", kind=_hmac_kind())
    made = (await lab.post("hmac/mac", input=b64(b"text")))["hmac"]
    assert b64decode(made.removeprefix("vault:v1:")) == hmac.digest(key.latest.material, b"text", "sha256")


def _hmac_kind() -> Any:
    from vestibule.secrets.transit.kinds import KeyKind

    return KeyKind.HMAC


async def test_a_large_batch_lets_others_have_their_turn(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vestibule.doors.vault.transit.TURN_SECONDS", 0.0)
    await lab.post("keys/cards")
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    batch = [{"plaintext": b64(b"4111"), "reference": str(number)} for number in range(100)]
    results = (await lab.post("encrypt/cards", batch_input=batch))["batch_results"]
    task.cancel()
    assert [each["reference"] for each in results] == [str(number) for number in range(100)]
    assert turns >= 100
