"""``transit/``: encryption, signatures and hashes by keys that stay inside."""

from __future__ import annotations

import asyncio
import secrets
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from cryptography.hazmat.primitives.hashes import Hash

from vestibule.doors.vault import fields
from vestibule.doors.vault.codes import VAULT_FIELD
from vestibule.doors.vault.operations import Answer, Operation, VaultRequest
from vestibule.doors.vault.transit_keys import KeyBackend
from vestibule.errors import VestibuleError
from vestibule.secrets.ports import Verb
from vestibule.secrets.transit import ciphers, forms, signatures
from vestibule.secrets.transit.engine import Transit
from vestibule.secrets.transit.keys import KeyVersion, TransitKey
from vestibule.secrets.transit.signatures import Marshaling, Padding, Signing

MOUNT: Final = "transit"
MOST_ITEMS: Final = 1000
TURN_SECONDS: Final = 0.005
MOST_RANDOM: Final = 64 * 1024
_DATA_KEY_BITS: Final = (128, 256, 512)

Use: TypeAlias = Callable[[TransitKey, Mapping[str, Any]], dict[str, Any]]
"""What is done with a key for one item of a request."""


class TransitBackend:
    """What is done with keys, and (``transit_keys``) what is done to them."""

    def __init__(self, transit: Transit) -> None:
        self._transit = transit
        self._keys = KeyBackend(transit)
        self._uses: dict[str, Use] = {
            "encrypt": _encrypt,
            "decrypt": _decrypt,
            "rewrap": _rewrap,
            "sign": _sign,
            "verify": _verify,
            "hmac": _hmac,
        }

    def operation(self, request: VaultRequest) -> Operation | None:
        """Raises: VST5210."""
        _, _, rest = request.path.partition("/")
        what, *names = rest.split("/")
        if what == "keys":
            return self._keys.operation(request, names)
        if request.method != "POST":
            return None
        if what in self._uses and 1 <= len(names) <= 2:
            return self._used(what, names, request.body)
        if what == "datakey" and len(names) == 2 and names[0] in ("plaintext", "wrapped"):
            return self._data_key(names[1], names[0] == "plaintext", request.body)
        if what == "random" and len(names) <= 2:
            return _open(f"{MOUNT}/random", lambda: _random(names, request.body))
        if what == "hash" and len(names) <= 1:
            return _open(f"{MOUNT}/hash", lambda: _hash(names, request.body))
        return None

    def _used(self, what: str, names: list[str], body: Mapping[str, Any]) -> Operation | None:
        use, name = self._uses[what], names[0]
        if len(names) == 2:  # the older way to name the hash: sign/NAME/sha2-512
            if what not in ("sign", "verify", "hmac"):
                return None
            body = {"hash_algorithm": names[1], **body}
        batch = fields.items(body, "batch_input", MOST_ITEMS)

        async def run() -> Answer:
            key = await self._transit.key(name)
            if batch is None:
                made = use(key, body)
                return Answer(data=made, detail=_version(made))
            common = {field: value for field, value in body.items() if field != "batch_input"}
            return _batch([each async for each in _turns(use, key, common, batch)])

        return Operation(verb=Verb.USE, resource=f"{MOUNT}/{what}/{name}", run=run)

    def _data_key(self, name: str, shown: bool, body: Mapping[str, Any]) -> Operation:
        bits = fields.number(body, "bits", 256)
        if bits not in _DATA_KEY_BITS:
            raise VAULT_FIELD.error("bits is none of 128, 256 and 512")

        async def run() -> Answer:
            plain = b64encode(secrets.token_bytes(bits // 8)).decode()
            made = _encrypt(await self._transit.key(name), {**body, "plaintext": plain})
            if shown:
                made["plaintext"] = plain
            return Answer(data=made, detail=_version(made))

        # Who gets only the wrapped key is trusted with less than who gets it in the clear.
        kind = "plaintext" if shown else "wrapped"
        return Operation(verb=Verb.USE, resource=f"{MOUNT}/datakey/{kind}/{name}", run=run)


def _encrypt(key: TransitKey, item: Mapping[str, Any]) -> dict[str, Any]:
    if item.get("nonce"):
        raise VAULT_FIELD.error("nonce: we choose it; convergent encryption is not offered")
    version = key.making(fields.number(item, "key_version"))
    plain = forms.plain("plaintext", item.get("plaintext", ""))
    sealed = ciphers.seal(key, version, plain, *_context(item))
    return {"ciphertext": forms.written(version.number, sealed), "key_version": version.number}


def _decrypt(key: TransitKey, item: Mapping[str, Any]) -> dict[str, Any]:
    return {"plaintext": b64encode(_opened(key, item)).decode()}


def _rewrap(key: TransitKey, item: Mapping[str, Any]) -> dict[str, Any]:
    return _encrypt(key, {**item, "plaintext": b64encode(_opened(key, item)).decode()})


def _opened(key: TransitKey, item: Mapping[str, Any]) -> bytes:
    number, sealed = forms.read(item.get("ciphertext"))
    return ciphers.unseal(key, key.version(number), sealed, *_context(item))


def _sign(key: TransitKey, item: Mapping[str, Any]) -> dict[str, Any]:
    version, how = key.making(fields.number(item, "key_version")), _signing(item)
    context, _ = _context(item)
    signature = signatures.sign(key, version, forms.plain("input", item.get("input")), how, context)
    made: dict[str, Any] = {
        "signature": forms.written(version.number, signature, url_safe=_is_url_safe(how)),
        "key_version": version.number,
    }
    if key.derived:
        made["public_key"] = signatures.public_half(key, version, context)
    return made


def _verify(key: TransitKey, item: Mapping[str, Any]) -> dict[str, Any]:
    if "hmac" in item:
        return {"valid": _is_hmac(key, item)}
    how = _signing(item)
    number, signature = forms.read(item.get("signature"), url_safe=_is_url_safe(how))
    data = forms.plain("input", item.get("input"))
    context, _ = _context(item)
    return {"valid": signatures.verify(key, key.version(number), data, signature, how, context)}


def _hmac(key: TransitKey, item: Mapping[str, Any]) -> dict[str, Any]:
    version = key.making(fields.number(item, "key_version"))
    return {"hmac": forms.written(version.number, _mac(version, item))}


def _is_hmac(key: TransitKey, item: Mapping[str, Any]) -> bool:
    number, given = forms.read(item["hmac"])
    return secrets.compare_digest(given, _mac(key.version(number), item))


def _mac(version: KeyVersion, item: Mapping[str, Any]) -> bytes:
    return signatures.mac(version, forms.plain("input", item.get("input")), _hash_name(item))


def _signing(item: Mapping[str, Any]) -> Signing:
    padding = fields.text(item, "signature_algorithm") or Padding.PSS.value
    marshaling = fields.text(item, "marshaling_algorithm") or Marshaling.ASN1.value
    try:
        return Signing(
            hash=signatures.hash_named(_hash_name(item)),
            prehashed=bool(fields.switch(item, "prehashed")),
            padding=Padding(padding),
            marshaling=Marshaling(marshaling),
        )
    except ValueError:
        raise VAULT_FIELD.error(
            "signature_algorithm is pss or pkcs1v15, marshaling_algorithm asn1 or jws"
        ) from None


def _is_url_safe(how: Signing) -> bool:
    return how.marshaling is Marshaling.JWS


def _hash_name(item: Mapping[str, Any]) -> str:
    """``algorithm`` is what HMACs, and older clients, call it."""
    return fields.text(item, "hash_algorithm") or fields.text(item, "algorithm") or "sha2-256"


def _context(item: Mapping[str, Any]) -> tuple[bytes, bytes]:
    return (
        forms.plain("context", item.get("context") or ""),
        forms.plain("associated_data", item.get("associated_data") or ""),
    )


async def _turns(
    use: Use, key: TransitKey, common: Mapping[str, Any], batch: Sequence[Mapping[str, Any]]
) -> AsyncIterator[dict[str, Any]]:
    """One item's outcome after the other.  What takes long (a thousand RSA signatures) lets others have their turn."""
    began = time.monotonic()
    for each in batch:
        yield _item(use, key, {**common, **each})
        if time.monotonic() - began > TURN_SECONDS:
            await asyncio.sleep(0)
            began = time.monotonic()


def _item(use: Use, key: TransitKey, item: Mapping[str, Any]) -> dict[str, Any]:
    """One item's outcome; ``reference`` is the client's own mark, and comes back."""
    try:
        made = use(key, item)
    except VestibuleError as error:
        made = {"error": f"{error.code.code} {error.message}"}
    if isinstance(reference := item.get("reference"), str):
        made["reference"] = reference
    return made


def _batch(results: list[dict[str, Any]]) -> Answer:
    """Something went wrong with all of them: 400; with some: 200, and each says so, as of Vault."""
    failed = sum("error" in each for each in results)
    status = 400 if results and failed == len(results) else 0
    return Answer(
        data={"batch_results": results}, status=status, detail={"items": len(results), "failed": failed}
    )


def _version(made: Mapping[str, Any]) -> dict[str, str | int]:
    return {"key_version": made["key_version"]} if "key_version" in made else {}


def _open(resource: str, make: Callable[[], Mapping[str, Any]]) -> Operation:
    """For everybody: nothing that is kept is touched."""

    async def run() -> Answer:
        return Answer(data=make())

    run_it: Callable[[], Awaitable[Answer]] = run
    return Operation(verb=Verb.USE, resource=resource, run=run_it, open=True)


def _random(names: list[str], body: Mapping[str, Any]) -> dict[str, Any]:
    """``random[/SOURCE][/BYTES]``: there is one source, whatever is asked for."""
    said: dict[str, Any] = {"bytes": names[-1]} if names and names[-1].isdecimal() else {}
    count = fields.number({**body, **said}, "bytes", 32) or 32
    if count > MOST_RANDOM:
        raise VAULT_FIELD.error(f"bytes is more than {MOST_RANDOM}")
    return {"random_bytes": _shown(secrets.token_bytes(count), fields.text(body, "format") or "base64")}


def _hash(names: list[str], body: Mapping[str, Any]) -> dict[str, Any]:
    name = names[0] if names else _hash_name(body)
    digest = Hash(signatures.hash_named(name))
    digest.update(forms.plain("input", body.get("input")))
    return {"sum": _shown(digest.finalize(), fields.text(body, "format") or "hex")}


def _shown(value: bytes, form: str) -> str:
    if form not in ("hex", "base64"):
        raise VAULT_FIELD.error("format is hex or base64")
    return value.hex() if form == "hex" else b64encode(value).decode()
