"""Status shows per proxy what it has; a proxy that lacks something is told by what it lacks."""

from __future__ import annotations

import pytest

from vestibule.cli.status import countdown, document, is_synced, short_name, sync_words
from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2

LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
EXTENSION = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
NOW = 1_000_000.0


def proxy(*statuses: str, connected: bool = True, expires: int = 0) -> admin_pb2.ProxyStatus:
    return admin_pb2.ProxyStatus(
        service="orders",
        spiffe_id="spiffe://example.org/ns/prod/sa/orders",
        instance_id="orders-1",
        connected=connected,
        boundary="trust",
        version="v1",
        svid_expires_at=expires,
        types=[
            admin_pb2.TypeSync(type_url=url, status=status)
            for url, status in zip((LISTENER, EXTENSION), statuses, strict=False)
        ],
    )


def test_a_proxy_is_synced_when_it_is_connected_and_confirmed_everything() -> None:
    assert is_synced(proxy("SYNCED", "SYNCED"))
    assert not is_synced(proxy("SYNCED", "STALE"))
    assert not is_synced(proxy("SYNCED", connected=False))
    assert not is_synced(proxy())


def test_types_have_the_names_that_operators_use() -> None:
    assert short_name(LISTENER) == "LDS"
    assert short_name(EXTENSION) == "ECDS"
    assert short_name("type.googleapis.com/some.New") == "New"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "?"),
        (-5, "expired"),
        (0, "expired"),
        (59, "59 s"),
        (61, "1 m 1 s"),
        (45 * 60, "45 m"),
        (3 * 3600 + 300, "3 h 5 m"),
        (2 * 86400 + 4 * 3600, "2 d 4 h"),
    ],
)
def test_remaining_time_is_shown_as_people_say_it(seconds: float | None, words: str) -> None:
    assert countdown(seconds) == words


def test_what_is_behind_is_named() -> None:
    data = document(admin_pb2.ServerStatus(proxies=[proxy("SYNCED", "NOT_SENT")]), NOW)["proxies"][0]
    assert sync_words(data["sync"], True) == "ECDS not sent"
    assert sync_words(data["sync"], False) == "disconnected"
    assert sync_words({}, True) == "nothing sent"
    synced = document(admin_pb2.ServerStatus(proxies=[proxy("SYNCED")]), NOW)["proxies"][0]
    assert sync_words(synced["sync"], True) == "synced"


def test_the_document_counts_down_certificates() -> None:
    known, unknown = document(
        admin_pb2.ServerStatus(proxies=[proxy("SYNCED", expires=int(NOW) + 90), proxy("SYNCED")]), NOW
    )["proxies"]
    assert known["svid_seconds_left"] == 90
    assert unknown["svid_seconds_left"] is None


def test_what_the_server_warns_of_is_told() -> None:
    data = document(admin_pb2.ServerStatus(warnings=["the intermediate ends"]), NOW)
    assert data["server"]["warnings"] == ["the intermediate ends"]


def test_an_answer_without_a_mesh_is_an_answer() -> None:
    data = document(admin_pb2.ServerStatus(trust_domain="example.org"), NOW)
    assert data["server"]["trust_domain"] == "example.org"
    assert data["proxies"] == data["agents"] == []
