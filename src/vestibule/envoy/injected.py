"""Tokens that a caller's proxy gets of the mesh's own token service and sends along: the app needs no OAuth for it.

They are for the caller itself (client_credentials, RFC 6749, section 4.4): the sidecar asks for them through its own
Envoy, which shows the service's SVID (``proxy.fetched_tokens``), and Envoy has them from it as secrets.  One does for
all requests to a destination.  What the app says in an Authorization header of its own goes before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from envoy.config.core.v3 import extension_pb2
from envoy.extensions.filters.http.credential_injector.v3 import credential_injector_pb2
from envoy.extensions.http.injected_credentials.generic.v3 import generic_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from vestibule.envoy.host_secrets import FetchedToken, name_of
from vestibule.envoy.places import sidecar_secrets
from vestibule.envoy.protos import packed
from vestibule.policy import Mode, Rule
from vestibule.spiffe import SpiffeId

FETCH_TIMEOUT: Final = 0.1
"""Seconds for which a proxy that starts waits for a token: it can be got only once the proxy has started."""


@dataclass(frozen=True, slots=True)
class Injection:
    """Of which audience, good for what; it is for whoever calls."""

    audience: str
    scopes: tuple[str, ...] = ()

    @classmethod
    def of(cls, caller: SpiffeId, rules: Iterable[Rule]) -> Injection | None:
        """The token by which all of the rules that let this caller in are met; None if none asks for one."""
        wanted = [rule.token for rule in rules if rule.token is not None and rule.calls_from(caller)]
        if not wanted:
            return None
        scopes = {scope for demand in wanted for scope in demand.scopes}
        return cls(wanted[0].audience, tuple(sorted(scopes)))


def injecting(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Those of some rules that let in who shows a token which proxies are to send along."""
    return tuple(filter(is_injecting, rules))


def is_injecting(rule: Rule) -> bool:
    """Whether it is one of them."""
    return rule.token is not None and rule.token.inject and rule.mode is Mode.ENFORCE


def http_filter(injection: Injection) -> credential_injector_pb2.CredentialInjector:
    """The filter, for a cluster's own chain.

    The token is a secret that the sidecar fetches, and not Envoy's own OAuth client: that begins without a token
    whenever its cluster changes, and refuses all requests until it has one.
    """
    wanted = FetchedToken(audience=injection.audience, scopes=injection.scopes)
    secret = secret_pb2.SdsSecretConfig(name=name_of(wanted), sds_config=sidecar_secrets(FETCH_TIMEOUT))
    generic = generic_pb2.Generic(credential=secret, header="authorization")
    return credential_injector_pb2.CredentialInjector(
        overwrite=False,
        allow_request_without_credential=False,
        credential=extension_pb2.TypedExtensionConfig(
            name="envoy.http.injected_credentials.generic", typed_config=packed(generic)
        ),
    )
