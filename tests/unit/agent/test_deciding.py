"""Who decides for the Envoys of a node."""

from __future__ import annotations

import logging

import pytest

from vestibule.agent.deciding import Deciding
from vestibule.errors import VestibuleError
from vestibule.policy import PortPolicy
from vestibule.policy.documents import to_bytes
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.xds.resources import DECISIONS, ProxyKey, Resource, Snapshot

DOMAIN = TrustDomain.parse("example.org")
PROXY = ProxyKey(SpiffeId.parse("spiffe://example.org/payments"), "p-1")
OTHER = ProxyKey(SpiffeId.parse("spiffe://example.org/orders"), "o-1")
RESOURCE = Resource.of(DECISIONS, "http", to_bytes(PortPolicy(service="payments", port="http")))
HAS = {PROXY: Snapshot.of("v1", [RESOURCE])}


def test_each_proxy_is_decided_for_by_its_own_policy() -> None:
    deciding = Deciding(HAS.get, DOMAIN)
    found = deciding.of(PROXY, "http")
    assert found is not None
    assert found.engine.policy.service == "payments"
    assert deciding.of(PROXY, "http") is found
    assert deciding.of(PROXY, "other") is None
    assert deciding.of(OTHER, "http") is None


def test_a_proxy_of_which_nothing_is_known_yet_is_told_to_wait() -> None:
    deciding = Deciding(HAS.get, DOMAIN)
    deciding.check(PROXY)
    with pytest.raises(VestibuleError, match="VST4131"):
        deciding.check(OTHER)


def test_a_proxy_whose_calls_come_before_it_is_expected() -> None:
    expected: list[ProxyKey] = []
    deciding = Deciding(HAS.get, DOMAIN, expected.append)
    deciding.check(PROXY)
    with pytest.raises(VestibuleError, match="VST4131"):
        deciding.check(OTHER)
    assert expected == [OTHER]


def test_a_policy_that_cannot_be_read_is_told_when_it_comes(caplog: pytest.LogCaptureFixture) -> None:
    deciding = Deciding(HAS.get, DOMAIN)
    with caplog.at_level(logging.ERROR):
        deciding.prepare([Resource.of(DECISIONS, "http", b"{}"), RESOURCE])
    assert "VST4130" in caplog.text
