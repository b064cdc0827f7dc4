"""Certificates that belong to an intent: PEM files in ``certs/``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from cryptography import x509

from vestibule.intent import codes
from vestibule.intent.files import CERTS
from vestibule.intent.problems import Findings
from vestibule.intent.resolving import advice
from vestibule.intent.shapes import At


def read_certificates(name: At[str], files: Mapping[str, bytes], findings: Findings) -> str | None:
    """The certificates of a file of the intent, as PEM; None if there is no such file or it holds something else."""
    content = files.get(name.value)
    if content is None:
        known = [each for each in files if each.startswith(f"{CERTS}/")]
        message = f"there is no file {name.value!r}"
        findings.add(
            codes.UNKNOWN_NAME, message, name.at, advice=advice(name.value, known, "files in certs/")
        )
        return None
    if b"PRIVATE KEY" in content:
        findings.add(
            codes.NOT_CERTIFICATES, f"{name.value!r} holds a private key", name.at, advice=codes.KEY_ADVICE
        )
        return None
    try:
        with warnings.catch_warnings():
            # Serial numbers and the like of old authorities are not as they should be; that is no reason.
            warnings.simplefilter("ignore")
            x509.load_pem_x509_certificates(content)
        return content.decode("utf-8")
    except ValueError:
        findings.add(codes.NOT_CERTIFICATES, f"{name.value!r} holds no certificates in PEM form", name.at)
        return None
