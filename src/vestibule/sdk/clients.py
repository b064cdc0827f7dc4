"""What integrations with HTTP and gRPC clients share: when to leave a connection, when to ask again, what to say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Protocol

from vestibule.errors import VestibuleError
from vestibule.sdk.codes import NOT_ANSWERED, PLAINTEXT_REFUSED
from vestibule.sdk.connections import Connection, ConnectionBook, Lifetimes
from vestibule.sdk.holder import Holder

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
SOONER: Final = 0.9


class Source(Holder, Protocol):
    """A holder of credentials that also keeps a book of the connections made with them: an ``X509Source``."""

    @property
    def connections(self) -> ConnectionBook: ...


def client_lifetimes(source: Source, given: Lifetimes | None) -> Lifetimes:
    """How long a client keeps connections: a tenth less than a server with the same settings.

    Both sides see the same certificates.  So the client leaves first, and a server that closes what is idle does not
    meet a request on its way.
    """
    if given is not None:
        return given
    usual = source.connections.lifetimes
    return replace(usual, share=usual.share * SOONER)


def may_repeat(method: str, headers: Mapping[str, str], *, sent: int) -> bool:
    """Whether a request whose connection broke before anything was answered may be sent again.

    If nothing of it was sent; or where doing it twice means the same as once (RFC 9110, section 9.2.2).
    """
    return not sent or method.upper() in IDEMPOTENT or "idempotency-key" in {each.lower() for each in headers}


def not_answered(settled: Connection | None) -> VestibuleError:
    """What it probably means when a new connection ends without a word.

    In TLS 1.3 a server looks at the client's certificate after the client's handshake is over.
    """
    peer, own = (settled.peer, settled.own) if settled else ("the peer", "us")
    return NOT_ANSWERED.error(f"{peer} ended the connection before it answered anything: it may refuse {own}")


def plaintext_refused(url: str) -> VestibuleError:
    """For a request that would be sent without TLS."""
    return PLAINTEXT_REFUSED.error(f"{url} is not https, and this client speaks mutual TLS only")
