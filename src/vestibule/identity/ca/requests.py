"""Asking an offline root for an intermediate, and taking its answer: the side of whoever will hold the key.

The request travels as a file: its step of the transcript, for people, then the PKCS #10 block.  The answer travels the
same way: the root's step, then the certificate.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from vestibule.errors import VestibuleError
from vestibule.identity.ca.codes import DELIVERY_REFUSED
from vestibule.identity.ca.files import Transcript
from vestibule.keys import KeyManager
from vestibule.pki.authority_chains import check_authority_chain
from vestibule.pki.certificates import load_certificate
from vestibule.pki.codes import REQUEST_REFUSED
from vestibule.pki.csr import csr_builder, parse_csr
from vestibule.pki.keys import PublicKey, public_key_der
from vestibule.pki.pem import CERTIFICATE, REQUEST, pem_block, pem_blocks
from vestibule.pki.profiles import authority_id
from vestibule.pki.transcripts import SignedStep, read_step
from vestibule.spiffe import TrustDomain

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_STEP: Final = re.compile(r"^==== step [0-9]+ ====\n(?:[^\n]+\n)+", re.MULTILINE)


def check_name(name: str) -> str:
    """``name``, if an authority may be called so: it names files, too.  Raises: VST1031."""
    if not _NAME.fullmatch(name):
        raise REQUEST_REFUSED.error(
            f"{name[:80]!r} can not be the name of an authority",
            advice="Use 1 to 63 of A-Z, a-z, 0-9, '.', '_' and '-', such as prod-2026-Q4.",
        )
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as it was read from its file; its key is proven, its step (if it has one) is the key's own."""

    name: str
    trust_domain: TrustDomain
    public_key: PublicKey
    csr: bytes
    step: SignedStep | None

    @property
    def key_id(self) -> str:
        """The identifier of the key, in lower-case hex: what is read out aloud and compared."""
        return authority_id(self.public_key)

    @property
    def sha256(self) -> str:
        """Of the request in DER."""
        return hashlib.sha256(self.csr).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Intermediate:
    """An installed answer.  ``chain`` is DER, the intermediate first, without the root; ``not_after`` is its end
    or an earlier one above it."""

    name: str
    chain: tuple[bytes, ...]
    not_before: datetime
    not_after: datetime
    step: SignedStep | None

    @property
    def certificate(self) -> x509.Certificate:
        """The intermediate itself."""
        return load_certificate(self.chain[0])


async def make_request(
    transcript: Transcript, keys: KeyManager, key_id: str, name: str, trust_domain: TrustDomain, now: datetime
) -> bytes:
    """The file with a request for an intermediate, on record in the transcript.  Raises: VST1031, errors of keys."""
    csr = await keys.sign_csr(key_id, csr_builder(trust_domain.id, common_name=check_name(name)))
    public_key = await keys.public_key(key_id)
    facts = {
        "name": name,
        "trust-domain": str(trust_domain),
        "key-id": authority_id(public_key),
        "request-sha256": hashlib.sha256(csr).hexdigest(),
    }
    step = await transcript.add("request", facts, now, keys, key_id)
    return step.render().encode() + pem_block(REQUEST, csr)


def read_request(data: bytes) -> Request:
    """Read a request file.

    1. There is one PKCS #10 block; its signature proves possession of its key, which may be certified.
    2. It names an authority and a trust domain, and nothing else.
    3. If a step of a transcript comes with it, the same key signed it, for this very request.

    Raises: VST1032, VST1000, VST1001, VST1002, VST1003, VST1030, VST1031.
    """
    (csr, *more) = pem_blocks(data, REQUEST)
    if more:
        raise REQUEST_REFUSED.error("the file holds more than one request")
    facts = parse_csr(csr)  # 1
    if facts.spiffe_id is None or facts.spiffe_id.path or facts.dns_names:  # 2
        raise REQUEST_REFUSED.error("the request is not for the signing certificate of a trust domain")
    names = x509.load_der_x509_csr(csr).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1:
        raise REQUEST_REFUSED.error("the request does not name the authority")
    request = Request(
        name=check_name(str(names[0].value)),
        trust_domain=facts.spiffe_id.trust_domain,
        public_key=facts.public_key,
        csr=csr,
        step=step_in(data),
    )
    if request.step is not None:  # 3
        told, own = request.step.step, public_key_der(request.public_key)
        if told.public_key != own or told.facts.get("request-sha256") != request.sha256:
            raise REQUEST_REFUSED.error("the step in the file is not about the request in it")
    return request


def step_in(data: bytes) -> SignedStep | None:
    """The step that travels in a file, if there is one.  Raises: VST1030."""
    found = _STEP.search(data.decode("utf-8", "replace"))
    return None if found is None else read_step(found[0])


def read_answer(
    data: bytes,
    name: str,
    public_key: PublicKey,
    roots: Sequence[bytes],
    trust_domain: TrustDomain,
    now: datetime,
    *,
    signers_below: int = 1,
) -> Intermediate:
    """Read the answer to our request, and trust nothing in it but what the roots vouch for.

    1. It holds a chain of signing certificates, ours first; roots among them are passed over.
    2. The first is for our key, each is signed by the next, the last by one of the roots; all are valid now and of
       our trust domain (``check_authority_chain``).
    3. ``signers_below`` more signers may follow below ours.
    4. It has the name that we asked for.
    5. If a step of the root's transcript comes with it, that root signed it, for this very certificate.

    Raises: VST1032, VST1385.
    """
    known = set(roots)
    chain = tuple(der for der in pem_blocks(data, CERTIFICATE) if der not in known)  # 1
    try:
        facts = check_authority_chain(chain, roots, public_key, trust_domain, now)  # 2
        own = load_certificate(chain[0])
        step = step_in(data)
    except VestibuleError as error:
        raise DELIVERY_REFUSED.error(error.message) from error
    length = own.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    if length is not None and length < signers_below:  # 3
        raise DELIVERY_REFUSED.error(f"the certificate allows {length} signers below it, not {signers_below}")
    common = [str(each.value) for each in own.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if common != [name]:  # 4
        raise DELIVERY_REFUSED.error(
            f"the certificate is that of {', '.join(common) or 'nobody'}, not of {name}"
        )
    if step is not None:  # 5
        _check_step(step, chain[0], roots)
    return Intermediate(
        name=name, chain=chain, not_before=facts.not_before, not_after=facts.not_after, step=step
    )


async def record_install(
    transcript: Transcript, keys: KeyManager, key_id: str, installed: Intermediate, now: datetime
) -> SignedStep:
    """Put the answer on record, signed with the key that it is for.  Raises: VST1030, VST1381, errors of keys."""
    own = installed.certificate
    facts = {
        "name": installed.name,
        "key-id": authority_id(await keys.public_key(key_id)),
        "certificate-sha256": hashlib.sha256(installed.chain[0]).hexdigest(),
        "serial": f"{own.serial_number:x}",
        "not-after": installed.not_after.isoformat(),
        "sign-step": installed.step.step.hash if installed.step else "none",
    }
    return await transcript.add("install", facts, now, keys, key_id)


def _check_step(step: SignedStep, der: bytes, roots: Sequence[bytes]) -> None:
    keys = {public_key_der(load_certificate(root).public_key()) for root in roots}  # type: ignore[arg-type]
    right = step.step.facts.get("certificate-sha256") == hashlib.sha256(der).hexdigest()
    if step.step.public_key not in keys or step.step.action != "sign" or not right:
        raise DELIVERY_REFUSED.error("the step in the file is not a root's about this certificate")
