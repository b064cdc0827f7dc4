"""Servers of Google's gRPC (``grpcio``) with our SVID and verified callers.

::

    server = grpc.server(executor, interceptors=[Callers(source, authorize)], options=server_options(source))
    server.add_secure_port("0.0.0.0:8443", server_credentials(source))

and ``AioCallers`` for ``grpc.aio.server``.  Who calls: ``vestibule.sdk.grpcio.caller(context)``, in any method.

grpcio's own TLS makes the handshake, and shows the application no more than the leaf that the caller showed.  So a
chain is verified there, against the bundle of *one* trust domain, and the rest with every call: that the ID is of that
trust domain, that the certificate counts still, that nothing revoked it, and that the authorizer wants it.  For callers
of several trust domains, or connections that end with what verified them, there is ``vestibule.sdk.grpclib``.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from vestibule.errors import Kind, VestibuleError
from vestibule.pki.chains import LeafFacts, leaf_facts
from vestibule.pki.codes import REVOKED, UNTRUSTED_CHAIN, WRONG_TRUST_DOMAIN
from vestibule.pki.revocation import revoked, unrevoked
from vestibule.sdk.authorizers import Authorizer, is_wanted
from vestibule.sdk.codes import NO_PEER_CERTIFICATE, NOT_AUTHORIZED
from vestibule.sdk.connections import Connection, Watch
from vestibule.sdk.serving.codes import NO_CALLER
from vestibule.sdk.source import X509Source
from vestibule.spiffe import SpiffeId, TrustDomain, X509Svid

_LEAF: Final = "x509_pem_cert"
"""Of grpc's authentication context."""
_ATTRIBUTE: Final = "vestibule_caller"
_caller: ContextVar[SpiffeId] = ContextVar("vestibule_grpcio_caller")
_METHODS: Final = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def server_credentials(
    source: X509Source, trust_domain: TrustDomain | str | None = None
) -> grpc.ServerCredentials:
    """For ``add_secure_port``: the newest SVID and bundle at each handshake; callers must show a certificate.

    ``trust_domain`` is that of the callers: our own unless given.  Always together with ``Callers`` or ``AioCallers``.
    Raises: VST2402, VST2403.
    """

    def newest() -> Any:
        with suppress(VestibuleError):
            return _configuration(source, trust_domain)
        return None  # the one before; with each call it is looked at who we are

    first = _configuration(source, trust_domain)
    return grpc.dynamic_ssl_server_credentials(first, newest, require_client_authentication=True)


def server_options(source: X509Source) -> list[tuple[str, int]]:
    """For ``grpc.server(options=…)``: how old connections get, in the only way in which grpcio lets one say so.

    Certificates are renewed when half of their life is over, as a rule; a connection that is made just before that is
    asked to end (GOAWAY) after a quarter, and ended after less than the half that is left.  Raises: VST2402.
    """
    svid = source.svid
    quarter = (svid.not_after - svid.not_before) / 4
    grace = quarter - min(timedelta(seconds=10), quarter / 5)
    return [("grpc.max_connection_age_ms", _ms(quarter)), ("grpc.max_connection_age_grace_ms", _ms(grace))]


def caller(context: Any) -> SpiffeId:
    """The verified SPIFFE ID of whoever makes this call.  Raises: VST2440 without ``Callers`` or ``AioCallers``."""
    found: SpiffeId | None = getattr(context, _ATTRIBUTE, None) or _caller.get(None)
    if found is None:
        raise NO_CALLER.error("no interceptor of vestibule.sdk.grpcio looked at who calls")
    return found


class _Judge:
    """Looks at who calls, with every call."""

    def __init__(
        self, source: X509Source, authorize: Authorizer, trust_domain: TrustDomain | str | None = None
    ) -> None:
        """``trust_domain`` as for ``server_credentials``."""
        self._source = source
        self._authorize = authorize
        self._trust_domain = trust_domain

    def _judged(self, context: Any) -> _Caller:
        """Raises: VST2405, VST1006, VST1008, VST1007, VST1020, VST2404; VST2402 when we are nobody ourselves."""
        svid, now = self._source.svid, datetime.now(UTC)
        shown = context.auth_context().get(_LEAF)
        if not shown:
            raise NO_PEER_CERTIFICATE.error("the caller showed no certificate")
        leaf = x509.load_pem_x509_certificate(bytes(shown[0])).public_bytes(Encoding.DER)
        facts = leaf_facts(leaf)
        wanted = _domain(self._source, self._trust_domain)
        if facts.spiffe_id.trust_domain != wanted:
            raise WRONG_TRUST_DOMAIN.error(f"{facts.spiffe_id} is not of the trust domain {wanted}")
        if not facts.not_before <= now < facts.not_after:
            raise UNTRUSTED_CHAIN.error(f"the certificate of {facts.spiffe_id} does not count at this time")
        if (why := revoked(self._source.revocations, (leaf,), now)) is not None:
            raise REVOKED.error(f"the certificate of {facts.spiffe_id} does not count any more: {why}")
        if not is_wanted(self._authorize, facts.spiffe_id):
            raise NOT_AUTHORIZED.error(f"{facts.spiffe_id} is not wanted here")
        return _Caller(facts, leaf, svid)

    def _watch(self, found: _Caller, end: Callable[[VestibuleError], None]) -> Watch:
        """Have a call that lasts ended with the certificates, or what revokes them."""

        def nothing(_connection: Connection) -> None:
            """grpcio asks connections to end by their age (``server_options``)."""

        return self._source.connections.watch(
            found.connection(), retire=nothing, cut=lambda _connection, reason: end(reason)
        )


class Callers(_Judge, grpc.ServerInterceptor):
    """For ``grpc.server(interceptors=[…])``."""

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """As grpc wants it."""
        return _wrapped(continuation(handler_call_details), self._guarded)

    def _guarded(self, behaviour: Callable[..., Any], lasts: bool) -> Callable[..., Any]:
        def called(request: Any, context: Any) -> Any:
            try:
                found = self._judged(context)
            except VestibuleError as error:
                context.abort(_status(error), str(error))
                raise
            setattr(context, _ATTRIBUTE, found.facts.spiffe_id)
            if lasts:
                # Kept with the call; whoever makes it sees CANCELLED.
                context.vestibule_watch = self._watch(found, lambda _reason: context.cancel())
            return behaviour(request, context)

        return called


class AioCallers(_Judge, grpc.aio.ServerInterceptor):
    """For ``grpc.aio.server(interceptors=[…])``; methods are coroutines or asynchronous generators."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """As grpc wants it."""
        return _wrapped(await continuation(handler_call_details), self._guarded)

    def _guarded(self, behaviour: Callable[..., Any], lasts: bool) -> Callable[..., Any]:
        if inspect.isasyncgenfunction(behaviour):

            async def generated(request: Any, context: Any) -> AsyncIterator[Any]:
                found = await self._let_in(context)
                with self._lasting(found, lasts) as ended:
                    try:
                        async for each in behaviour(request, context):
                            yield each
                    except asyncio.CancelledError:
                        await _explain(context, ended)
                        raise

            return generated

        async def called(request: Any, context: Any) -> Any:
            found = await self._let_in(context)
            with self._lasting(found, lasts) as ended:
                try:
                    return await behaviour(request, context)
                except asyncio.CancelledError:
                    await _explain(context, ended)
                    raise

        return called

    async def _let_in(self, context: Any) -> _Caller:
        try:
            found = self._judged(context)
        except VestibuleError as error:
            await context.abort(_status(error), str(error))
            raise
        _caller.set(found.facts.spiffe_id)
        return found

    @contextmanager
    def _lasting(self, found: _Caller, lasts: bool) -> Iterator[list[VestibuleError]]:
        ended: list[VestibuleError] = []
        task = asyncio.current_task()
        assert task is not None

        def end(reason: VestibuleError) -> None:
            ended.append(reason)
            task.cancel()

        watch = self._watch(found, end) if lasts else None
        try:
            yield ended
        finally:
            if watch is not None:
                watch.forget()


@dataclass(frozen=True, slots=True)
class _Caller:
    facts: LeafFacts
    leaf: bytes
    own: X509Svid

    def connection(self) -> Connection:
        """As far as grpcio tells."""
        return Connection(
            peer=self.facts.spiffe_id,
            own=self.own.spiffe_id,
            made=datetime.now(UTC),
            ends=min(self.facts.not_after, self.own.not_after),
            chain=(self.leaf,),
            own_chain=self.own.chain,
        )


async def _explain(context: Any, ended: Sequence[VestibuleError]) -> None:
    """Instead of CANCELLED, after which some clients give up for good."""
    if ended:
        await context.abort(grpc.StatusCode.UNAVAILABLE, str(ended[0]))


def _wrapped(handler: Any, guarded: Callable[[Callable[..., Any], bool], Callable[..., Any]]) -> Any:
    if handler is None:
        return None  # there is no such method, which is said to anybody
    (name,) = (each for each in _METHODS if getattr(handler, each) is not None)
    lasts = handler.request_streaming or handler.response_streaming
    return handler._replace(**{name: guarded(getattr(handler, name), lasts)})


def _status(error: VestibuleError) -> grpc.StatusCode:
    if error.code.kind is Kind.DENIED:
        return grpc.StatusCode.PERMISSION_DENIED
    return (
        grpc.StatusCode.UNAVAILABLE
        if error.code.kind is Kind.UNAVAILABLE
        else grpc.StatusCode.UNAUTHENTICATED
    )


def _configuration(
    source: X509Source, trust_domain: TrustDomain | str | None
) -> grpc.ServerCertificateConfiguration:
    svid, wanted = source.svid, _domain(source, trust_domain)
    bundle = unrevoked(source.bundle(wanted), source.revocations, datetime.now(UTC))
    key = load_der_private_key(svid.key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    return grpc.ssl_server_certificate_configuration([(key, _pem(svid.chain))], _pem(bundle.x509_authorities))


def _domain(source: X509Source, given: TrustDomain | str | None) -> TrustDomain:
    return source.svid.spiffe_id.trust_domain if given is None else TrustDomain.parse(str(given))


def _pem(certificates: Iterable[bytes]) -> bytes:
    loaded = (x509.load_der_x509_certificate(each) for each in certificates)
    return b"".join(each.public_bytes(Encoding.PEM) for each in loaded)


def _ms(time: timedelta) -> int:
    return max(int(time.total_seconds() * 1000), 1)
