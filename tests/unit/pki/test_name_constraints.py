"""What decision 0015 rests on: URI constraints work elsewhere, and not in the library that verifies for us."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from vestibule.errors import VestibuleError
from vestibule.pki import profiles
from vestibule.pki.chains import verify_x509_svid
from vestibule.pki.keys import generate_key
from vestibule.spiffe import SpiffeId, TrustBundle, TrustDomain

TD = TrustDomain.parse("example.org")
WITHIN = x509.NameConstraints([x509.UniformResourceIdentifier("example.org")], None)


def chain(*, constrained: bool) -> tuple[x509.Certificate, x509.Certificate, datetime]:
    now = datetime.now(UTC)
    valid = profiles.lifetime(now, timedelta(hours=1))
    root_key, leaf_key = generate_key(), generate_key()
    builder = profiles.self_signed_ca(TD, root_key.public_key(), valid)
    if constrained:
        builder = builder.add_extension(WITHIN, critical=True)
    root = builder.sign(root_key, SHA256())
    issuer = profiles.Issuer.of(root.public_bytes(Encoding.DER), TD)
    leaf = profiles.svid(SpiffeId.of(TD, "/web"), leaf_key.public_key(), valid, issuer)
    return root, leaf.sign(root_key, SHA256()), now


def test_our_verifier_refuses_any_uri_constraint_so_no_root_of_ours_has_one() -> None:
    root, leaf, now = chain(constrained=False)
    assert verified(root, leaf, now) == SpiffeId.of(TD, "/web")
    root, leaf, now = chain(constrained=True)
    with pytest.raises(VestibuleError, match="VST1007"):  # once this fails, read decision 0015 again
        verified(root, leaf, now)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_takes_what_the_constraint_permits(tmp_path: Path) -> None:
    root, leaf, _ = chain(constrained=True)
    for name, certificate in (("root.pem", root), ("leaf.pem", leaf)):
        (tmp_path / name).write_bytes(certificate.public_bytes(Encoding.PEM))
    command = ["openssl", "verify", "-CAfile", "root.pem", "leaf.pem"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "leaf.pem: OK" in done.stdout


def verified(root: x509.Certificate, leaf: x509.Certificate, now: datetime) -> SpiffeId:
    bundle = TrustBundle(trust_domain=TD, x509_authorities=(root.public_bytes(Encoding.DER),))
    return verify_x509_svid([leaf.public_bytes(Encoding.DER)], bundle, now)
