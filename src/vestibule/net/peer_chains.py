"""What the other end of a TLS connection showed, whichever Python this is."""

from __future__ import annotations

import ssl
from typing import Any, cast


def peer_chain(tls: ssl.SSLObject) -> tuple[bytes, ...]:
    """The certificates that the peer sent, DER, leaf first; empty if it sent none."""
    public: Any = getattr(tls, "get_unverified_chain", None)  # Python 3.13 and later
    if public is not None:
        return tuple(public())
    private = cast(Any, tls)._sslobj.get_unverified_chain()
    der = cast(Any, ssl)._ssl.ENCODING_DER
    # Python 3.11 puts None in the place of a client certificate that did not come.
    return tuple(certificate.public_bytes(der) for certificate in private or () if certificate is not None)
