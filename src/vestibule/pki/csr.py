"""Certificate signing requests (PKCS #10): how an agent asks for an SVID, and what the server reads in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from vestibule.pki.certificates import PARSE_ERRORS
from vestibule.pki.codes import CSR_NAMES, CSR_SIGNATURE, MALFORMED_CSR
from vestibule.pki.keys import PublicKey, certifiable
from vestibule.pki.names import NamesError, alternative_names, read_names
from vestibule.spiffe import SpiffeId

MAX_CSR_BYTES: Final = 16 * 1024
_DIGESTS: Final = (SHA256, SHA384, SHA512)
_ECDSA: Final = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: ECDSA(SHA256()),
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: ECDSA(SHA384()),
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: ECDSA(SHA512()),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CsrFacts:
    """What a request asks for.  The key is proven; the names are only wishes, never a basis for authority."""

    public_key: PublicKey
    spiffe_id: SpiffeId | None
    dns_names: tuple[str, ...]


def make_csr(
    key: EllipticCurvePrivateKey, spiffe_id: SpiffeId | None = None, dns_names: Sequence[str] = ()
) -> bytes:
    """A DER request for ``key``, with the names as SAN when there are any.  Raises: VST1011."""
    return csr_builder(spiffe_id, dns_names).sign(key, SHA256()).public_bytes(Encoding.DER)


def csr_builder(
    spiffe_id: SpiffeId | None = None, dns_names: Sequence[str] = (), *, common_name: str = ""
) -> x509.CertificateSigningRequestBuilder:
    """A request to be signed with the key that it is for, such as one in a key manager.  Raises: VST1011.

    ``common_name`` is what people call the authority that is asked for; workloads have none.
    """
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    builder = x509.CertificateSigningRequestBuilder(subject_name=x509.Name(subject))
    if spiffe_id is not None or dns_names:
        builder = builder.add_extension(alternative_names(spiffe_id, tuple(dns_names)), critical=True)
    return builder


def parse_csr(der: bytes) -> CsrFacts:
    """Read and check a request.

    1. It is of a sane size and is PKCS #10.
    2. Its key may be certified; before any arithmetic with it.
    3. Its signature proves possession of the key.
    4. It names at most one URI, a SPIFFE ID.

    Raises: VST1000 (malformed), VST1003 (key), VST1001 (signature), VST1002 (names).
    """
    if len(der) > MAX_CSR_BYTES:  # 1
        raise MALFORMED_CSR.error(f"the request is larger than {MAX_CSR_BYTES} bytes")
    try:
        request = x509.load_der_x509_csr(der)
        public_key = certifiable(request.public_key())  # 2
        if not _is_signed_with(request, public_key):  # 3
            raise CSR_SIGNATURE.error("the request is not signed by the key it is for")
        spiffe_id, dns_names = read_names(request.extensions)  # 4
    except NamesError as error:
        raise CSR_NAMES.error(f"the request is not for an SVID: {error}") from error
    except PARSE_ERRORS as error:
        raise MALFORMED_CSR.error("the bytes are not a certificate signing request in DER") from error
    return CsrFacts(public_key=public_key, spiffe_id=spiffe_id, dns_names=dns_names)


def _is_signed_with(request: x509.CertificateSigningRequest, public_key: PublicKey) -> bool:
    if not isinstance(public_key, EllipticCurvePublicKey):
        return isinstance(request.signature_hash_algorithm, _DIGESTS) and request.is_signature_valid
    # The library's own check would read the key a second time.
    algorithm = _ECDSA.get(request.signature_algorithm_oid)
    if algorithm is None:
        return False
    try:
        public_key.verify(request.signature, request.tbs_certrequest_bytes, algorithm)
    except InvalidSignature:
        return False
    return True
