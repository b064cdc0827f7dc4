"""TLS contexts that show the newest SVID, trust the newest bundles, and know peers by SPIFFE ID.

They are ``ssl.SSLContext`` objects, so asyncio, httpx, grpclib and the like take them.  Each connection is made with
what the source holds at that instant.  Connections that are open stay open: ``sdk.connections`` tells how long.

A peer is verified inside the handshake, after the TLS stack's own checks and before a byte of the application is
read or written (X509-SVID.md, section 5; host names play no part):

1. It showed a certificate.
2. The SPIFFE ID in it names a trust domain, whose bundle is the only one consulted: a federated authority
   cannot speak for another trust domain.
3. The chain holds against that bundle, now, and nothing of it is revoked.
4. The authorizer wants that ID.

Times are judged in step 3 alone: the TLS stack would refuse an expired certificate, too, and say less.
Whatever fails, its ``VestibuleError`` is the cause of the ``ssl.SSLError`` that libraries expect (``sdk.reason``).
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final, Self, cast

from vestibule.errors import VestibuleError
from vestibule.net.peer_chains import peer_chain
from vestibule.net.tls import load_svid, trust
from vestibule.pki.chains import leaf_facts
from vestibule.pki.codes import UNTRUSTED_CHAIN
from vestibule.pki.revocation import verify_unrevoked
from vestibule.sdk.authorizers import Authorizer, is_wanted
from vestibule.sdk.codes import NO_PEER_CERTIFICATE, NOT_AUTHORIZED, NOT_TLS, REFUSED_BY_PEER
from vestibule.sdk.connections import Connection, connection_of, end_of
from vestibule.sdk.holder import Holder
from vestibule.spiffe import SpiffeId, TrustBundle, X509Svid


def client_context(source: Holder, authorize: Authorizer) -> ssl.SSLContext:
    """For calling peers that ``authorize`` wants.

    Connecting raises ``ssl.SSLError`` while there is no SVID to show, and ``ssl.SSLCertVerificationError`` when
    the peer is refused; both texts start with the code of the reason (VST2402 to VST2405, VST10nn).
    """
    return _Following(source, authorize, server_side=False)


def server_context(source: Holder, authorize: Authorizer) -> ssl.SSLContext:
    """For being called by peers that ``authorize`` wants.  While there is no SVID to show, handshakes fail."""
    return _Following(source, authorize, server_side=True)


def peer_id(connection: ssl.SSLObject | ssl.SSLSocket) -> SpiffeId:
    """The verified SPIFFE ID at the other end: of an ``SSLSocket``, or of what ``get_extra_info("ssl_object")`` gives.

    Raises: VST2405.
    """
    return connection_of(connection).peer


_WAITING: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
_NO_CHECK_TIME: Final = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME, which Python has no name for."""

_NO_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNSUPPORTED_PROTOCOL", "UNKNOWN_PROTOCOL", "BAD_RECORD_TYPE"}
    | {
        "RECORD_LAYER_FAILURE",
        "TLSV1_ALERT_PROTOCOL_VERSION",
        "NO_PROTOCOLS_AVAILABLE",
        "PACKET_LENGTH_TOO_LONG",
    }
)


_log = logging.getLogger(__name__)


class _Following(ssl.SSLContext):
    """Stands for the context of the moment.

    What other code sets on it (check_hostname, verify_mode, certificates) has no effect, except for the ALPN
    protocols, which are the application's business.
    """

    def __new__(cls, source: Holder, authorize: Authorizer, *, server_side: bool) -> Self:
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, source: Holder, authorize: Authorizer, *, server_side: bool) -> None:
        self._source = source
        self._authorize = authorize
        self._server_side = server_side
        self._alpn: tuple[str, ...] = ()
        self._made: tuple[object, _Verifying] | None = None
        _harden(self)

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        self._alpn = tuple(alpn_protocols)
        super().set_alpn_protocols(self._alpn)

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        return self._current().wrap_bio(*arguments, **options)

    def wrap_socket(
        self, sock: Any, server_side: bool = False, *arguments: Any, **options: Any
    ) -> ssl.SSLSocket:
        if server_side and not _is_connected(sock):
            # A listening socket makes no handshake; those that it accepts come back here, one by one.
            return super().wrap_socket(sock, server_side, *arguments, **options)
        return self._current().wrap_socket(sock, server_side, *arguments, **options)

    def _current(self) -> _Verifying:
        try:
            svid, bundles = self._source.svid, self._source.context.bundles
        except VestibuleError as error:
            context = self._empty()
            context.absent = error
            return context
        key = (svid, bundles, self._alpn)
        made = self._made
        if made is None or made[0] != key:
            made = self._made = (key, self._filled(svid, bundles))
        return made[1]

    def _filled(self, svid: X509Svid, bundles: Iterable[TrustBundle]) -> _Verifying:
        context = self._empty()
        load_svid(context, svid)
        context.svid = svid
        authorities = [each for bundle in bundles for each in bundle.x509_authorities]
        if authorities:
            trust(context, authorities)
        return context

    def _empty(self) -> _Verifying:
        context = _Verifying(self._source, self._authorize, server_side=self._server_side)
        if self._alpn:
            context.set_alpn_protocols(self._alpn)
        return context


class _Verifying(ssl.SSLContext):
    """A context as it was at one instant; its connections judge their peers by what holds when they are made."""

    def __new__(cls, source: Holder, authorize: Authorizer, *, server_side: bool) -> Self:
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, source: Holder, authorize: Authorizer, *, server_side: bool) -> None:
        self._source = source
        self._authorize = authorize
        self.absent: VestibuleError | None = None
        self.svid: X509Svid | None = None
        self.sslobject_class = _Object
        self.sslsocket_class = _Socket
        _harden(self)
        # Of what was hardened, this alone is left to step 3.
        self.verify_flags |= _NO_CHECK_TIME

    def prepare(self) -> None:
        """Raises: ssl.SSLError if there is no SVID to show.

        In the handshake, where event loops expect errors: one in ``wrap_bio`` would leave the socket open.
        """
        if self.absent is not None:
            raise ssl.SSLError(1, _text(self.absent)) from self.absent

    def settle(self, connection: ssl.SSLObject | ssl.SSLSocket) -> Connection:
        """Who the peer is (the steps stand at the top of this file).  Raises: ssl.SSLCertVerificationError."""
        try:
            chain = peer_chain(cast(ssl.SSLObject, connection))
            return self._settled(self._verified(chain), chain)
        except VestibuleError as error:
            raise self._refusal(error) from error

    def explained(self, connection: ssl.SSLObject | ssl.SSLSocket, error: ssl.SSLError) -> ssl.SSLError:
        """What the TLS stack raised, or more about the same; its cause is what was wrong, where that is known."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return self._refused(connection, error)
        cause = self._cause(error.reason or "")
        if cause is not None and error.__cause__ is None:
            error.__cause__ = cause
            self._note(cause)
        return error

    def _refused(
        self, connection: ssl.SSLObject | ssl.SSLSocket, error: ssl.SSLCertVerificationError
    ) -> ssl.SSLError:
        try:
            # The stack looks at chains alone.  Our own steps tell more, and which trust domain it is about.
            self._verified(shown_chain(connection))
        except VestibuleError as found:
            return self._refusal(found)
        why = error.verify_message or "for no reason that it names"
        return self._refusal(UNTRUSTED_CHAIN.error(f"the TLS stack refuses the peer's certificate: {why}"))

    def _refusal(self, error: VestibuleError) -> ssl.SSLCertVerificationError:
        refusal = ssl.SSLCertVerificationError(1, _text(error))
        refusal.verify_message = _text(error)
        refusal.__cause__ = error
        self._note(error)
        return refusal

    def _note(self, error: VestibuleError) -> None:
        # Clients have the error raised; of a server's handshake most libraries tell nobody.
        if self.protocol is ssl.PROTOCOL_TLS_SERVER:
            _log.info("a handshake failed: %s (%s)", error, error.advice)

    def _cause(self, reason: str) -> VestibuleError | None:
        own = f"which showed it {self.svid.spiffe_id}" if self.svid else "which has no SVID"
        if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            return NO_PEER_CERTIFICATE.error("the peer showed no certificate")
        if reason in _NO_TLS:
            return NOT_TLS.error(f"what answers speaks no TLS 1.3 ({_words(reason)})")
        if "_ALERT_" in reason:
            return REFUSED_BY_PEER.error(f"the peer refused this side, {own}: {_words(reason)}")
        return None

    def _settled(self, peer: SpiffeId, chain: tuple[bytes, ...]) -> Connection:
        svid = self.svid
        assert svid is not None  # nothing gets through a handshake without one
        return Connection(
            peer=peer,
            own=svid.spiffe_id,
            made=datetime.now(UTC),
            ends=end_of(chain, svid.chain),
            chain=chain,
            own_chain=svid.chain,
        )

    def _verified(self, chain: tuple[bytes, ...]) -> SpiffeId:
        if not chain:  # 1
            raise NO_PEER_CERTIFICATE.error("the peer showed no certificate")
        bundle = self._source.bundle(leaf_facts(chain[0]).spiffe_id.trust_domain)  # 2
        spiffe_id = verify_unrevoked(chain, bundle, datetime.now(UTC), self._source.revocations)  # 3
        if not is_wanted(self._authorize, spiffe_id):  # 4
            raise NOT_AUTHORIZED.error(
                f"the peer is {spiffe_id}, and only these are wanted: {self._authorize}"
            )
        return spiffe_id


class _Object(ssl.SSLObject):
    """A connection over memory, as event loops use it."""

    settled: Connection | None = None

    def do_handshake(self) -> None:
        context = cast(_Verifying, self.context)
        context.prepare()
        try:
            super().do_handshake()
        except _WAITING:
            raise
        except ssl.SSLError as error:
            raise context.explained(self, error)  # noqa: B904 - it has its own cause
        if self.settled is None:
            self.settled = context.settle(self)

    # OpenSSL would complete a handshake inside of these two, and nobody would have looked at the peer.
    def read(self, *arguments: Any) -> Any:
        if self.settled is None:
            self.do_handshake()
        try:
            return super().read(*arguments)
        except ssl.SSLError as error:
            _tell_cause(self, error)
            raise

    def write(self, data: Any) -> int:
        if self.settled is None:
            self.do_handshake()
        return super().write(data)


class _Socket(ssl.SSLSocket):
    """A connection over a socket, for code that blocks."""

    settled: Connection | None = None

    def do_handshake(self, block: bool = False) -> None:
        context = cast(_Verifying, self.context)
        context.prepare()
        try:
            super().do_handshake(block)
        except _WAITING:
            raise
        except ssl.SSLError as error:
            raise context.explained(self, error)  # noqa: B904 - it has its own cause
        if self.settled is None:
            self.settled = context.settle(self)

    # As above; these three are what everything else of a socket goes through.
    def read(self, *arguments: Any) -> Any:
        self._known()
        try:
            return super().read(*arguments)
        except ssl.SSLError as error:
            _tell_cause(self, error)
            raise

    def write(self, data: Any) -> int:
        self._known()
        return super().write(data)

    def send(self, data: Any, flags: int = 0) -> int:
        self._known()
        return super().send(data, flags)

    def _known(self) -> None:
        if self.settled is None and getattr(self, "_sslobj", None) is not None:
            self.do_handshake()


def _tell_cause(connection: ssl.SSLObject | ssl.SSLSocket, error: ssl.SSLError) -> None:
    """With TLS 1.3 a client hears of its refusal at its first read."""
    if "_ALERT_" in (error.reason or ""):
        cast(_Verifying, connection.context).explained(connection, error)


def shown_chain(connection: ssl.SSLObject | ssl.SSLSocket) -> tuple[bytes, ...]:
    """What a peer showed whom the TLS stack refused; empty where it does not tell."""
    chain = peer_chain(cast(ssl.SSLObject, connection))
    if chain:
        return chain
    # A server's stack keeps only the path that it tried to build, which begins with what was shown.
    public: Any = getattr(connection, "get_verified_chain", None)  # Python 3.13 and later
    if public is not None:
        return tuple(public())
    der = cast(Any, ssl)._ssl.ENCODING_DER
    tried = cast(Any, connection)._sslobj.get_verified_chain() or ()
    return tuple(each.public_bytes(der) for each in tried if each is not None)


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # A resumed session would skip the handshake's look at the certificate.
    context.options |= ssl.OP_NO_TICKET
    if context.protocol is ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = (
            0  # with TLS 1.3 the option alone leaves tickets that name what the server keeps
        )
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    # A bundle may hold an authority without the one that signed it.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN


def _words(reason: str) -> str:
    return reason.partition("_ALERT_")[2].lower().replace("_", " ") or reason.lower().replace("_", " ")


def _text(error: VestibuleError) -> str:
    return f"{error.code.code} {error.message}"


def _is_connected(sock: Any) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
