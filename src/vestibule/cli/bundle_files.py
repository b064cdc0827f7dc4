"""Trust bundles in files, and between the server's messages and the house's own values."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Final

from vestibule.cli.codes import USAGE
from vestibule.pki.bundles import MAX_BUNDLE_BYTES, from_jwks, from_pem
from vestibule.spiffe import JwtAuthority, TrustBundle, TrustDomain
from vestibule.wire.gen.spire import types_pb2

STANDARD_INPUT: Final = Path("-")


class FileFormat(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """How a bundle stands in a file."""

    PEM = "pem"
    SPIFFE = "spiffe"


def read_file(path: Path) -> bytes:
    """A file, or ``-`` for standard input, of the size that a bundle may have.  Raises: VST9100."""
    try:
        if path == STANDARD_INPUT:
            data = sys.stdin.buffer.read(MAX_BUNDLE_BYTES + 1)
        else:
            with path.open("rb") as file:
                data = file.read(MAX_BUNDLE_BYTES + 1)
    except OSError as error:
        raise USAGE.error(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_BUNDLE_BYTES:
        raise USAGE.error(f"{path} is larger than {MAX_BUNDLE_BYTES} bytes")
    return data


def parse_bundle(trust_domain: TrustDomain, data: bytes, form: FileFormat | None) -> TrustBundle:
    """A bundle in one of the two forms; ``None`` finds out which.  Raises: VST1009."""
    if form is None:
        form = FileFormat.SPIFFE if data.lstrip().startswith(b"{") else FileFormat.PEM
    return (from_jwks if form is FileFormat.SPIFFE else from_pem)(trust_domain, data)


def to_message(bundle: TrustBundle) -> types_pb2.Bundle:
    """As the server takes it."""
    return types_pb2.Bundle(
        trust_domain=str(bundle.trust_domain),
        x509_authorities=[types_pb2.X509Certificate(asn1=der) for der in bundle.x509_authorities],
        jwt_authorities=[
            types_pb2.JWTKey(public_key=key.public_key, key_id=key.key_id) for key in bundle.jwt_authorities
        ],
        refresh_hint=bundle.refresh_hint,
        sequence_number=bundle.sequence,
    )


def from_message(message: types_pb2.Bundle) -> TrustBundle:
    """As the server gives it."""
    return TrustBundle(
        trust_domain=TrustDomain.parse(message.trust_domain),
        x509_authorities=tuple(each.asn1 for each in message.x509_authorities),
        sequence=message.sequence_number,
        refresh_hint=message.refresh_hint,
        jwt_authorities=tuple(
            JwtAuthority(key_id=each.key_id, public_key=each.public_key) for each in message.jwt_authorities
        ),
    )
