"""Proxies that refuse to be told what is revoked."""

from __future__ import annotations

import logging

import pytest

from vestibule.envoy import revoked
from vestibule.mesh.unenforced import Unenforced
from vestibule.spiffe import SpiffeId
from vestibule.xds.messages import Settled
from vestibule.xds.resources import EXTENSION, LISTENER, ProxyKey, Snapshot

PROXY = ProxyKey(SpiffeId.parse("spiffe://example.org/ns/prod/sa/payments"), "payments-1")


def settled(url: str = EXTENSION, **refused: str) -> Settled:
    named = {name.replace("__", "/"): why for name, why in refused.items()}
    return Settled(type_url=url, snapshot=Snapshot("v1", {}), refused=named)


def test_a_proxy_that_refuses_the_list_is_named_loudly_once_until_it_takes_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    unenforced = Unenforced()
    with caplog.at_level(logging.ERROR):
        unenforced.heard(PROXY, settled(revoked__http="no such input"))
        unenforced.heard(PROXY, settled(revoked__http="no such input"))
    assert [each.levelname for each in caplog.records] == ["ERROR"]
    assert "payments-1 does not enforce what was revoked" in caplog.text
    (told,) = unenforced.warnings()
    assert "no such input" in told
    unenforced.heard(PROXY, settled(LISTENER))
    assert len(unenforced) == 1
    unenforced.heard(PROXY, settled())
    assert not list(unenforced.warnings())


def test_another_filter_that_is_refused_is_not_the_list() -> None:
    unenforced = Unenforced()
    unenforced.heard(PROXY, settled(policy__http="bad"))
    assert not len(unenforced)
    assert revoked.HTTP == "revoked/http"
