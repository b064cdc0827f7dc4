"""What the agent demands of a certificate that the server returns, before anybody is shown it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from vestibule.agent.cache import Held
from vestibule.agent.codes import WRONG_SVID
from vestibule.errors import VestibuleError
from vestibule.pki.certificates import load_certificate
from vestibule.pki.chains import leaf_facts, verify_x509_svid
from vestibule.pki.keys import certifiable, key_to_pkcs8, public_key_der
from vestibule.pki.renewal import renew_at
from vestibule.records import Entry
from vestibule.spiffe import SpiffeId, TrustBundle, X509Svid


def accept(
    key: EllipticCurvePrivateKey,
    chain: Sequence[bytes],
    bundle: TrustBundle | None,
    now: datetime,
    expected: SpiffeId | None = None,
) -> X509Svid:
    """The SVID, if it is for our key, for the expected identity (any, if ``None``), and valid under our bundle.

    Raises: VST2109; its cause is the error of ``pki.chains`` where our bundle does not lead to the certificate.
    """
    if not chain or bundle is None:
        raise WRONG_SVID.error("the server returned no certificate")
    try:
        found = verify_x509_svid(chain, bundle, now)
    except VestibuleError as error:
        raise WRONG_SVID.error(f"the server's answer is not a valid SVID: {error.message}") from error
    if expected is not None and found != expected:
        raise WRONG_SVID.error(f"the server returned an SVID of {found} for {expected}")
    theirs = public_key_der(certifiable(load_certificate(chain[0]).public_key()))
    if theirs != public_key_der(key.public_key()):
        raise WRONG_SVID.error(f"the server returned an SVID of {found} for another key")
    facts = leaf_facts(chain[0])
    return X509Svid(
        spiffe_id=found,
        chain=tuple(chain),
        key=key_to_pkcs8(key),
        serial=int(facts.serial),
        not_before=facts.not_before,
        not_after=facts.not_after,
    )


def hold(svid: X509Svid, entry: Entry | None, now: datetime, jitter: float) -> Held:
    """The SVID with the instant of its renewal (``jitter`` from -1 to 1), and what of ``entry`` went into it."""
    due = renew_at(svid.not_before, svid.not_after, now, jitter)
    if entry is None:
        return Held(svid=svid, renew_at=due)
    return Held(svid=svid, renew_at=due, dns_names=entry.dns_names, ttl=entry.x509_svid_ttl)
