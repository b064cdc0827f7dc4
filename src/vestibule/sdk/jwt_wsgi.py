"""Middleware for WSGI apps: requests come with a JWT-SVID that was verified."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any, Final, TypeAlias

from vestibule.errors import VestibuleError
from vestibule.sdk.authorizers import Authorizer
from vestibule.sdk.jwt_callers import JwtCallers, refusal_of
from vestibule.sdk.jwt_source import JwtSource
from vestibule.spiffe import JwtSvid

PATIENCE: Final = 5.0
"""Seconds that a first request waits for the trust bundles; then it is answered with 503, and the next tries again."""

KEY: Final = "vestibule.jwt_svid"
"""Of the environ.  What headers say has names that begin with ``HTTP_``, so that none can be taken for it."""

Environ: TypeAlias = MutableMapping[str, Any]
StartResponse: TypeAlias = Callable[..., Any]
WsgiApp: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]


def jwt_svid_of(environ: Mapping[str, Any]) -> JwtSvid:
    """The token of a request (``request.environ``, ``request.META``).  Raises: KeyError where none was wanted."""
    found: JwtSvid = environ[KEY]
    return found


class JwtSvids:
    """Lets only requests through to ``app`` that have a JWT-SVID for ``audience``, of somebody ``authorize`` wants.

    ``app.wsgi_app = JwtSvids(app.wsgi_app, audience="payments")`` for Flask.  Without ``authorize``, whoever the trust
    bundles vouch for is let through.  Paths in ``open_to_all`` need no token (``/healthz``).

    ``source`` is one that is entered elsewhere; without it, the middleware enters one of its own at the first request
    of each process, so after a server's forks, until ``close``.
    """

    def __init__(
        self,
        app: WsgiApp,
        *,
        audience: str | Sequence[str],
        authorize: Authorizer | None = None,
        source: JwtSource | None = None,
        open_to_all: Collection[str] = (),
    ) -> None:
        """Raises: VST2400, VST2401, VST2310 (no ``source``, and no address of the Workload API)."""
        self._app = app
        self._callers = JwtCallers(audience, authorize)
        self._owned = source is None
        self._source = source or JwtSource(patience=PATIENCE)
        self._open = frozenset(open_to_all)
        self._entering = threading.Lock()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """As WSGI wants it."""
        if environ.get("PATH_INFO", "") in self._open:
            return self._app(environ, start_response)
        try:
            self._enter()
            sent = environ.get("HTTP_AUTHORIZATION")
            environ[KEY] = self._callers.of([sent] if sent is not None else [], self._source)
        except VestibuleError as error:
            refusal = refusal_of(error)
            status = f"{refusal.status} {HTTPStatus(refusal.status).phrase}"
            start_response(status, refusal.headers)
            return [refusal.body]
        return self._app(environ, start_response)

    def close(self) -> None:
        """Leave the source that it entered."""
        with self._entering:
            if self._owned and self._source.is_entered:
                self._source.__exit__(None, None, None)

    def _enter(self) -> None:
        if self._owned and not self._source.is_entered:
            with self._entering:
                if not self._source.is_entered:
                    self._source.__enter__()
