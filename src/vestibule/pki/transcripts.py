"""Transcripts of ceremonies: text that people read, whose every step is chained to the one before and signed.

A step is a block of lines, ``name: value`` each::

    ==== step 2 ====
    action: sign
    time: 2026-10-01T10:00:00Z
    name: prod-2026-Q4
    …
    previous: hash of step 1
    public-key: the key that signs this step, base64 of its SubjectPublicKeyInfo
    hash: SHA-256 of the lines above, from "====" on, each with its line feed
    signature: ECDSA with SHA-256 over the same bytes, base64 of DER

What is signed is what is read: there is no other form of a step, so a witness can check hash and signature with
``sha256sum`` and ``openssl``.  A blank line ends a step.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from vestibule.errors import VestibuleError
from vestibule.pki.codes import TRANSCRIPT_REFUSED
from vestibule.pki.keys import public_key_der
from vestibule.pki.profiles import authority_id

GENESIS: Final = "0" * 64
"""What the first step has in place of the hash of the one before."""
MAX_TRANSCRIPT_BYTES: Final = 4 * 1024 * 1024

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,39}")
_RESERVED: Final = ("action", "time", "previous", "public-key", "hash", "signature")
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_HEADING: Final = "==== step {} ===="
_NUMBERED: Final = re.compile(r"==== step ([1-9][0-9]{0,8}) ====")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that was done in a ceremony; ``facts`` are what there is to know about it, in order."""

    number: int
    action: str
    time: datetime
    facts: Mapping[str, str]
    previous: str
    public_key: bytes

    @property
    def text(self) -> bytes:
        """What is hashed and signed.  Raises: VST1030 where a fact is not a line of text."""
        rows = {"action": self.action, "time": self.time.astimezone(UTC).strftime(_TIME), **self.facts}
        if any(name in _RESERVED for name in self.facts) or not all(map(_NAME.fullmatch, self.facts)):
            raise TRANSCRIPT_REFUSED.error(f"a step can not have the facts {', '.join(self.facts)}")
        rows |= {"previous": self.previous, "public-key": base64.b64encode(self.public_key).decode()}
        for name, value in rows.items():
            if not value.isprintable() or value != value.strip():
                raise TRANSCRIPT_REFUSED.error(f"the {name} of a step is not a line of plain text")
        lines = [_HEADING.format(self.number), *(f"{name}: {value}" for name, value in rows.items())]
        return "".join(f"{line}\n" for line in lines).encode()

    @property
    def hash(self) -> str:
        """What the next step chains itself to."""
        return hashlib.sha256(self.text).hexdigest()

    @property
    def signed_by(self) -> str:
        """The ID of the key that signs it, in lower-case hex."""
        return authority_id(_public_key(self.public_key))

    def signed(self, signature: bytes) -> SignedStep:
        """The step with its signature (DER) over ``text``."""
        return SignedStep(step=self, signature=signature)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedStep:
    """A step as it stands in a transcript."""

    step: Step
    signature: bytes

    def render(self) -> str:
        """The block of lines, with the blank one that ends it."""
        signature = base64.b64encode(self.signature).decode()
        return f"{self.step.text.decode()}hash: {self.step.hash}\nsignature: {signature}\n\n"


def following(
    steps: Sequence[SignedStep],
    action: str,
    time: datetime,
    facts: Mapping[str, str],
    public_key: EllipticCurvePublicKey,
) -> Step:
    """The next step of a transcript, yet to be signed by the key that ``public_key`` is the public half of."""
    return Step(
        number=len(steps) + 1,
        action=action,
        time=time.replace(microsecond=0),
        facts=facts,
        previous=steps[-1].step.hash if steps else GENESIS,
        public_key=public_key_der(public_key),
    )


def read_transcript(text: str) -> list[SignedStep]:
    """Read a transcript and check that it is whole.

    1. It consists of steps and nothing else, each exactly as we would write it.
    2. They are numbered from 1, and no time is before that of the step before.
    3. Each names the hash of the one before.
    4. Each is signed by the key that it names (``read_step``).  Whose key that is, is for ``check_signers``.

    Raises: VST1030, with the number of the first step that is wrong.
    """
    if len(text) > MAX_TRANSCRIPT_BYTES:
        raise TRANSCRIPT_REFUSED.error(f"the transcript is larger than {MAX_TRANSCRIPT_BYTES} bytes")
    steps: list[SignedStep] = []
    for number, block in enumerate(_blocks(text), start=1):
        signed = read_step(block)  # 1
        if signed.step.number != number:  # 2
            raise _wrong(number, f"it is numbered {signed.step.number}")
        previous = steps[-1].step if steps else None
        if previous is not None and signed.step.time < previous.time:  # 2
            raise _wrong(number, "it was done before the step before it")
        if signed.step.previous != (previous.hash if previous else GENESIS):  # 3
            raise _wrong(number, "it does not follow the step before it")
        steps.append(signed)
    return steps


def check_signers(steps: Sequence[SignedStep], keys: Collection[bytes]) -> None:
    """Only these keys (DER SubjectPublicKeyInfo) may have signed steps.  Raises: VST1030."""
    for each in steps:
        if each.step.public_key not in keys:
            raise _wrong(
                each.step.number, f"it is signed by the key {each.step.signed_by}, which is not expected"
            )


def render(steps: Sequence[SignedStep]) -> str:
    """The whole transcript."""
    return "".join(each.render() for each in steps)


def _blocks(text: str) -> list[str]:
    if not text:
        return []
    if not text.endswith("\n\n"):
        raise TRANSCRIPT_REFUSED.error("the transcript ends in the middle of a step")
    return text.removesuffix("\n\n").split("\n\n")


def read_step(block: str) -> SignedStep:
    """Read one step, as it travels with what was signed, and check its own hash and signature.  Raises: VST1030."""
    heading, *lines = block.strip("\n").split("\n")
    numbered = _NUMBERED.fullmatch(heading)
    if numbered is None:
        raise TRANSCRIPT_REFUSED.error("a step does not begin with its number")
    number = int(numbered[1])
    rows = [line.partition(": ") for line in lines]
    names = [name for name, _, _ in rows]
    values = {name: value for name, _, value in rows}
    ends = ["previous", "public-key", "hash", "signature"]
    if names[:2] != ["action", "time"] or names[-4:] != ends or len(values) != len(names):
        raise _wrong(number, "its lines are not those of a step")
    try:
        step = Step(
            number=number,
            action=values["action"],
            time=datetime.strptime(values["time"], _TIME).replace(tzinfo=UTC),
            facts={name: values[name] for name in names[2:-4]},
            previous=values["previous"],
            public_key=base64.b64decode(values["public-key"], validate=True),
        )
        signed = step.signed(base64.b64decode(values["signature"], validate=True))
        rendered = signed.render()
    except (ValueError, binascii.Error) as error:
        raise _wrong(number, "its time, key or signature cannot be read") from error
    except VestibuleError as error:
        raise _wrong(number, error.message) from error
    if values["hash"] != step.hash:
        raise _wrong(number, "its hash is not that of its lines: it was changed")
    if rendered.strip("\n") != block.strip("\n"):
        raise _wrong(number, "it is not written as steps are")
    _check_signature(number, signed)
    return signed


def _check_signature(number: int, signed: SignedStep) -> None:
    try:
        key = _public_key(signed.step.public_key)
        key.verify(signed.signature, signed.step.text, ECDSA(SHA256()))
    except InvalidSignature:
        raise _wrong(number, "its signature is not that of the key it names") from None


def _public_key(der: bytes) -> EllipticCurvePublicKey:
    try:
        key = load_der_public_key(der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise TRANSCRIPT_REFUSED.error("a step names a key that cannot be read") from error
    if not isinstance(key, EllipticCurvePublicKey):
        raise TRANSCRIPT_REFUSED.error("a step is signed by a key that is no EC key")
    return key


def _wrong(number: int, why: str) -> VestibuleError:
    return TRANSCRIPT_REFUSED.error(f"step {number} of the transcript is wrong: {why}")
