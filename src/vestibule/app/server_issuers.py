"""Outside issuers of tokens whose keys are published at a URL, as a server follows them."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from vestibule.app.codes import INVALID_SETTING
from vestibule.app.server_services import Services
from vestibule.app.server_settings import ServerSettings
from vestibule.calls.http.tls import client_context
from vestibule.calls.key_sets import KeySetEndpoints
from vestibule.clock import Clock
from vestibule.intent import Intent
from vestibule.mesh.intents import Intents
from vestibule.mesh.issuer_keys import IssuerKeys
from vestibule.mesh.kept_issuer_keys import KeyFiles
from vestibule.telemetry.metrics import Metrics

DIRECTORY: Final = "issuer-keys"
"""Of the server's data directory."""


def issuer_keys(settings: ServerSettings, services: Services, clock: Clock, intents: Intents) -> IssuerKeys:
    """What follows the issuers of the intents in force.  Raises: VST9110 for authorities that cannot be read."""
    return IssuerKeys(
        lambda: frozenset(urls(intents.in_force()).values()),
        intents.revision,
        _endpoints(settings),
        KeyFiles(settings.data_dir / DIRECTORY),
        services.audit,
        clock,
        kept=settings.issuers_keys_kept,
    )


def _endpoints(settings: ServerSettings) -> KeySetEndpoints:
    authorities = settings.issuers_web_ca
    try:
        client_context(authorities)
    except (OSError, ssl.SSLError) as error:
        raise INVALID_SETTING.error(f"issuers_web_ca {authorities} cannot be used: {error}") from error
    return KeySetEndpoints(
        web=partial(client_context, authorities), permit_local=settings.issuers_permit_local
    )


def urls(intents: tuple[Intent, ...]) -> Mapping[str, str]:
    """Names of issuers to where they publish their keys; of two intents in force those of most proxies count."""
    return {
        name: each.url
        for intent in reversed(intents)
        for name, each in intent.mesh.issuers.items()
        if each.url
    }


def issuer_metrics(
    metrics: Metrics,
    keys: IssuerKeys | None = None,
    named: Callable[[], Mapping[str, str]] = dict,
) -> None:
    """Register what is known of the keys; ``named`` gives the URLs by the issuers' names in the intent."""
    metrics.gauges(
        "issuer_keys_seen_timestamp_seconds",
        "When the keys of an outside issuer, which it publishes at a URL, were last seen there.",
        "issuer",
        lambda: {} if keys is None else _by_name(keys.seen(), named()),
    )
    metrics.gauges(
        "issuer_keys_fetch_failures",
        "Attempts to fetch the keys of an outside issuer that failed in a row.",
        "issuer",
        lambda: {} if keys is None else _by_name(keys.failures(), named()),
    )


def _by_name(values: Mapping[str, float], named: Mapping[str, str]) -> dict[str, float]:
    return {name: values[url] for name, url in named.items() if url in values}
