"""Mutual TLS for requests that are made with requests, which is not in the base installation.

::

    with X509Source() as source, requests.Session() as session:
        session.mount(
            "https://", MtlsAdapter(source, authorize_ids("spiffe://example.org/ns/prod/sa/payments"))
        )
        session.get("https://payments.internal:8443/v1/charges")

Mounted at ``http://``, too, it refuses plain text, to which a redirect could lead.

Connections leave the pool in time (``vestibule.sdk.connections``).  A request that a connection lost before anything
was answered is sent again, if twice means the same as once.
"""

from __future__ import annotations

import socket
import ssl
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import ProtocolError

from vestibule.errors import VestibuleError
from vestibule.sdk.authorizers import Authorizer
from vestibule.sdk.clients import Source, client_lifetimes, may_repeat, not_answered, plaintext_refused
from vestibule.sdk.connections import Connection, Lifetimes, Watch
from vestibule.sdk.outside import Outside, logged
from vestibule.sdk.reasons import reason
from vestibule.sdk.tls import client_context

_TRIES: Final = 12


class MtlsAdapter(HTTPAdapter):
    """For ``Session.mount``: shows our SVID, and talks to peers that ``authorize`` wants.

    Names of hosts in URLs say where to connect, the SPIFFE ID says who is there; the session's ``verify``, ``cert`` and
    proxies play no part.  ``outside`` names hosts that are called as everybody calls them, without our certificate and
    with the session's ``verify`` and proxies (``vestibule.sdk.outside``).  ``lifetimes`` is how long connections are
    used; ``options`` are those of requests' own adapter.

    Requests raise ``requests.exceptions.SSLError`` when the peer is refused, with a ``VestibuleError`` as its cause.
    """

    def __init__(
        self,
        source: Source,
        authorize: Authorizer,
        *,
        outside: Iterable[str] = (),
        lifetimes: Lifetimes | None = None,
        **options: Any,
    ) -> None:
        """Raises: VST2432."""
        self._source = source
        self._context = client_context(source, authorize)
        self._lifetimes = client_lifetimes(source, lifetimes)
        self._outside = Outside.of(outside)
        self._public = HTTPAdapter(**options)
        super().__init__(**options)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        """Called by requests."""
        self.poolmanager = PoolManager(
            num_pools=connections,
            maxsize=maxsize,
            block=block,
            **{**options, "ssl_context": self._context, "assert_hostname": False},
        )
        make = partial(_Pool, self._source, self._lifetimes)
        self.poolmanager.pool_classes_by_scheme = {"https": make}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing of the session's is loaded: the context knows whom to believe."""
        conn.cert_reqs = "CERT_REQUIRED"

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> Any:
        """As above."""
        return super().build_connection_pool_key_attributes(request, True, None)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Raises: what requests raises."""
        url = urlsplit(request.url or "")
        if url.scheme != "https":
            refusal = plaintext_refused(f"{url.scheme}://{url.hostname}")
            raise requests.exceptions.InvalidSchema(str(refusal), request=request) from refusal
        if self._outside.has(url.hostname or "", url.port):
            with logged(self._source, url.hostname or "", request.method or "", request.path_url) as call:
                response = self._public.send(request, stream, timeout, verify, None, proxies)
                call.status = response.status_code
            return response
        try:
            return super().send(request, stream, timeout)
        except requests.exceptions.ConnectionError as error:
            raise error from (reason(error) or error.__cause__)

    def close(self) -> None:
        super().close()
        self._public.close()


class _Pool(HTTPSConnectionPool):
    """Connections to one host and port."""

    def __init__(self, source: Source, lifetimes: Lifetimes, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ConnectionCls = partial(_Connection, source, lifetimes, weakref.ref(self))  # type: ignore[assignment]

    def urlopen(  # type: ignore[override]
        self,
        method: str,
        url: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Any:
        tries = (
            _TRIES
            if isinstance(body, str | bytes | None) and may_repeat(method, headers or {}, sent=1)
            else 1
        )
        while True:
            tries -= 1
            try:
                return super().urlopen(method, url, body, headers, **options)
            except ProtocolError as error:
                if not tries or not any(isinstance(each, _StaleError) for each in error.args):
                    raise

    def _put_conn(self, conn: Any) -> None:
        if conn is not None and conn.is_left:
            conn.close()
        super()._put_conn(conn)

    def give_up(self, connection: _Connection) -> bool:
        """Close a connection if it is idle; whether it was.  From any thread."""
        idle = self.pool
        if idle is None:
            return False
        with idle.mutex:
            if connection not in idle.queue:
                return False
            idle.queue[idle.queue.index(connection)] = None
        connection.close()
        return True


class _StaleError(ConnectionResetError):
    """A connection that had served before ended without a word on this request."""


class _Connection(HTTPSConnection):
    """A connection that knows when to be left, and why it ended."""

    def __init__(
        self,
        source: Source,
        lifetimes: Lifetimes,
        pool: weakref.ref[_Pool],
        *arguments: Any,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._source = source
        self._lifetimes = lifetimes
        self._of = pool
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._watch: Watch | None = None
        self._reason: VestibuleError | None = None
        self._requests = 0
        self._heard = False

    def connect(self) -> None:
        super().connect()
        self._begin_anew()
        secured = self.sock
        assert isinstance(secured, ssl.SSLSocket)
        self._watch = self._source.connections.watch(
            secured, retire=self._retire, cut=self._end, lifetimes=self._lifetimes
        )
        # Everything that is read of a response comes by here.
        secured.recv_into = partial(self._receive, secured.recv_into)  # type: ignore[method-assign]

    @property
    def is_left(self) -> bool:
        """Whether no more request is to be put on it."""
        return self._watch is not None and self._watch.retired

    @property
    def is_connected(self) -> bool:
        """Whether a request may be put on it."""
        return super().is_connected and not self.is_left

    def putrequest(self, *arguments: Any, **options: Any) -> None:
        self._requests += 1
        self._heard = False
        super().putrequest(*arguments, **options)

    def close(self) -> None:
        if self._watch is not None:
            self._watch.forget()
        super().close()

    def _retire(self, connection: Connection) -> None:
        """Where it is in use, the pool finds it retired afterwards."""
        pool = self._of()
        if pool is not None:
            pool.give_up(self)

    def _end(self, connection: Connection, why: VestibuleError) -> None:
        self._reason = why
        pool, sock = self._of(), self.sock
        if pool is not None and pool.give_up(self):
            return
        if sock is not None:
            # Another thread waits on it, and is woken by this; the descriptor stays its own to close.
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _receive(self, receive: Callable[..., int], *arguments: Any) -> int:
        try:
            count = receive(*arguments)
        except TimeoutError:
            raise
        except OSError as error:
            raise self._lost(error) from error.__cause__
        if self._reason is not None or (not count and not self._heard):
            raise self._lost(None)
        self._heard = True
        return count

    def _lost(self, error: OSError | None) -> OSError:
        cause = self._reason
        if cause is None and not self._heard:
            if self._requests > 1:
                return _StaleError(str(error or "the connection was closed"))
            cause = not_answered(self._watch.connection if self._watch else None)
        if cause is None:
            return error or ConnectionResetError("the connection was closed")
        lost = ConnectionResetError(str(cause))
        lost.__cause__ = cause
        return lost
