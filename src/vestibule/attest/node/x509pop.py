"""Attestation by an X.509 certificate of another authority, and proof that the agent has its key.

The payloads are SPIRE's: ``{"certificates": [DER…]}``, a challenge of 32 random bytes for the kind of key, and
a signature over SHA-256(challenge nonce ‖ own nonce).  The agent becomes ``…/x509pop/FINGERPRINT`` (SHA-1 of the
certificate in hex, as SPIRE's) and can attest again as long as its certificate is valid.

Selectors: ``x509pop:subject:cn:NAME``, ``ca:fingerprint:HEX`` for each authority above the certificate,
``serialnumber:HEX``, and ``san:KEY:VALUE`` for a URI name ``x509pop://TRUSTDOMAIN/KEY/VALUE``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    VerificationError,
)
from cryptography.x509.verification import Store as TrustAnchors

from vestibule.attest.documents import at
from vestibule.attest.node.codes import EVIDENCE_REFUSED, MALFORMED_EVIDENCE, NO_EVIDENCE, UNSAFE_ATTESTOR
from vestibule.attest.node.evidence import agent_named, evidence_object, from_base64, selectors
from vestibule.attest.node.ports import AttestedNode, Challenge
from vestibule.spiffe import TrustDomain

NAME: Final = "x509pop"
NONCE_BYTES: Final = 32
MAX_CERTIFICATE: Final = 16 * 1024
SMALLEST_RSA: Final = 2048
LARGEST_EXPONENT: Final = 2**32
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class X509PopSettings:
    """``ca_file`` holds the authorities (PEM) whose certificates are believed.

    More intermediates, and larger RSA keys (bits), are refused unverified.
    """

    ca_file: Path
    max_intermediates: int = 4
    max_rsa_key_size: int = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class X509PopProofSettings:
    """The agent's certificate with its intermediates, and its key, both PEM."""

    certificate_file: Path
    key_file: Path


class X509PopAttestor:
    """The server's half."""

    name = NAME

    def __init__(self, settings: X509PopSettings, trust_domain: TrustDomain) -> None:
        self._settings = settings
        self._trust_domain = trust_domain
        _authorities(settings.ca_file)

    async def attest(self, payload: bytes, challenge: Challenge, now: datetime) -> AttestedNode:
        """Raises: VST2003 (malformed), VST2004 (refused).

        1. There are not more certificates than admitted, none is large, and all keys are of usual kinds and sizes:
           nobody is made to compute with a key that takes minutes.
        2. A path of signatures leads to an authority of ours, all valid now.  The authorities are read from their
           file anew, so that replacing it is enough.
        3. The certificate may sign, and the agent signs our nonce with its key.
        """
        chain = self._read(payload)  # 1
        path = _verified(
            chain, _authorities(self._settings.ca_file), self._settings.max_intermediates, now
        )  # 2
        await _prove_possession(chain[0], challenge)  # 3
        fingerprint = _fingerprint(chain[0])
        return AttestedNode(
            agent_id=agent_named(self._trust_domain, NAME, fingerprint),
            selectors=selectors(NAME, self._values(path)),
            can_reattest=True,
        )

    def _read(self, payload: bytes) -> list[x509.Certificate]:
        found = at(evidence_object(payload), "certificates")
        if not isinstance(found, list) or not found:
            raise MALFORMED_EVIDENCE.error("there is no certificate to attest with")
        if len(found) > 1 + self._settings.max_intermediates:
            raise EVIDENCE_REFUSED.error(f"{len(found) - 1} intermediate certificates are too many")
        chain = []
        for each in found:
            der = from_base64(each)
            if len(der) > MAX_CERTIFICATE:
                raise EVIDENCE_REFUSED.error(f"a certificate of {len(der)} bytes is not read")
            try:
                certificate = x509.load_der_x509_certificate(der)
                key = certificate.public_key()
            except (ValueError, TypeError, x509.InvalidVersion) as error:
                raise MALFORMED_EVIDENCE.error(f"a certificate cannot be read: {error}") from error
            except Exception as error:
                raise MALFORMED_EVIDENCE.error(
                    f"a certificate cannot be read: {type(error).__name__}"
                ) from error
            _check_key(key, self._settings.max_rsa_key_size)
            chain.append(certificate)
        return chain

    def _values(self, path: Sequence[x509.Certificate]) -> Iterator[str]:
        leaf = path[0]
        for attribute in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
            yield f"subject:cn:{_text(attribute.value)}"
        yield from (f"ca:fingerprint:{_fingerprint(each)}" for each in path[1:])
        serial = f"{leaf.serial_number:x}"
        yield f"serialnumber:{'0' * (len(serial) % 2)}{serial}"
        for uri in _uris(leaf):
            parts = urlsplit(uri)
            if parts.scheme == NAME and parts.netloc == str(self._trust_domain):
                key, _, value = parts.path.strip("/").partition("/")
                if key and value:
                    yield f"san:{key}:{value}"


def _check_key(key: Any, largest_rsa: int) -> _PublicKey:
    """Raises: VST2004 for a key that it would be costly, or worthless, to compute with."""
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        return key
    if isinstance(key, rsa.RSAPublicKey):
        if not SMALLEST_RSA <= key.key_size <= largest_rsa:
            raise EVIDENCE_REFUSED.error(f"an RSA key of {key.key_size} bits is not accepted")
        if key.public_numbers().e > LARGEST_EXPONENT:
            raise EVIDENCE_REFUSED.error("an RSA key with so large an exponent is not accepted")
        return key
    raise EVIDENCE_REFUSED.error("a certificate's key is neither RSA nor on P-256, P-384 or P-521")


def _authorities(file: Path) -> list[x509.Certificate]:
    """Raises: VST2009."""
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UNSAFE_ATTESTOR.error(f"the authorities in {file} cannot be read: {error}") from error


def _verified(
    chain: list[x509.Certificate], authorities: list[x509.Certificate], depth: int, now: datetime
) -> list[x509.Certificate]:
    leaf, *intermediates = chain
    # Each one issued by the next: with no choice of path, there is no search that could take long.
    for issued, issuer in zip(chain, intermediates, strict=False):
        if issued.issuer != issuer.subject:
            raise EVIDENCE_REFUSED.error("the certificates are not in order, each issued by the next")
    policy = PolicyBuilder().store(TrustAnchors(authorities)).time(now).max_chain_depth(depth + 1)
    verifier = policy.extension_policies(ca_policy=_SIGNERS, ee_policy=_LEAVES).build_client_verifier()
    try:
        path = list(verifier.verify(leaf, intermediates).chain)
    except VerificationError as error:
        raise EVIDENCE_REFUSED.error("no valid path leads from the certificate to an authority") from error
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        usage = None
    if usage is None or not usage.digital_signature:
        raise EVIDENCE_REFUSED.error("the certificate is not for digital signatures")
    return path


async def _prove_possession(leaf: x509.Certificate, challenge: Challenge) -> None:
    nonce = os.urandom(NONCE_BYTES)
    key = leaf.public_key()
    kind = "rsa_signature" if isinstance(key, rsa.RSAPublicKey) else "ecdsa_signature"
    question = json.dumps({kind: {"nonce": base64.b64encode(nonce).decode()}}).encode()
    answer = at(evidence_object(await challenge(question)), kind)
    theirs = from_base64(at(answer, "nonce"))
    if len(theirs) != NONCE_BYTES:
        raise MALFORMED_EVIDENCE.error("the agent's nonce has another length than 32 bytes")
    digest = hashlib.sha256(nonce + theirs).digest()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO)
            key.verify(from_base64(at(answer, "signature")), digest, pss, Prehashed(hashes.SHA256()))
        elif isinstance(key, ec.EllipticCurvePublicKey):
            r, s = (int.from_bytes(from_base64(at(answer, part))[:128]) for part in ("r", "s"))
            key.verify(encode_dss_signature(r, s), digest, ec.ECDSA(Prehashed(hashes.SHA256())))
        else:
            raise InvalidSignature
    except InvalidSignature:
        raise EVIDENCE_REFUSED.error("the agent does not have the key of its certificate") from None


class X509PopProof:
    """The agent's half."""

    name = NAME
    single_use = False

    def __init__(self, settings: X509PopProofSettings) -> None:
        self._settings = settings

    async def payload(self) -> bytes:
        """The certificates.  Raises: VST2008."""
        try:
            chain = x509.load_pem_x509_certificates(self._settings.certificate_file.read_bytes())
        except (OSError, ValueError) as error:
            raise NO_EVIDENCE.error(f"{self._settings.certificate_file} cannot be read: {error}") from error
        der = [each.public_bytes(serialization.Encoding.DER) for each in chain]
        return json.dumps({"certificates": [base64.b64encode(each).decode() for each in der]}).encode()

    async def respond(self, challenge: bytes) -> bytes:
        """The signature.  Raises: VST2003, VST2008."""
        key = self._key()
        kind = "rsa_signature" if isinstance(key, rsa.RSAPrivateKey) else "ecdsa_signature"
        theirs = from_base64(at(evidence_object(challenge), kind, "nonce"))
        if len(theirs) != NONCE_BYTES:
            raise MALFORMED_EVIDENCE.error("the server's nonce has another length than 32 bytes")
        nonce = os.urandom(NONCE_BYTES)
        digest = hashlib.sha256(theirs + nonce).digest()
        answer = {"nonce": nonce}
        if isinstance(key, rsa.RSAPrivateKey):
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
            answer["signature"] = key.sign(digest, pss, Prehashed(hashes.SHA256()))
        else:
            r, s = decode_dss_signature(key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256()))))
            answer |= {"r": r.to_bytes(66).lstrip(b"\0"), "s": s.to_bytes(66).lstrip(b"\0")}
        return json.dumps(
            {kind: {name: base64.b64encode(data).decode() for name, data in answer.items()}}
        ).encode()

    async def close(self) -> None:
        """There is nothing to put away."""

    def _key(self) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
        try:
            key = serialization.load_pem_private_key(self._settings.key_file.read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise NO_EVIDENCE.error(f"{self._settings.key_file} cannot be read as a private key") from error
        if not isinstance(key, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey)):
            raise NO_EVIDENCE.error(f"{self._settings.key_file} is neither an RSA nor an EC key")
        return key


def _fingerprint(certificate: x509.Certificate) -> str:
    # SHA-1 because SPIRE's agent IDs and selectors have it.  It names certificates that our authorities signed, and
    # decides nothing: two of them with one fingerprint would need an authority that helps.
    return hashlib.sha1(
        certificate.public_bytes(serialization.Encoding.DER), usedforsecurity=False
    ).hexdigest()


def _uris(leaf: x509.Certificate) -> list[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _must_sign(_: Policy, __: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("a signer without keyCertSign")


# Private authorities' certificates need none of the extensions of the web's; times, signatures, CA flags and path
# lengths are checked whatever the policy.
_SIGNERS = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _must_sign)
)
_LEAVES = ExtensionPolicy.permit_all()
