"""The table of who may call what, held against what is served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from grpclib.const import Cardinality, Handler

from vestibule.calls.ads import SERVICE as ADS
from vestibule.doors import (
    admin_api,
    administrators_api,
    break_glass_api,
    ceremony_api,
    debug_api,
    entries_api,
    federation_admin,
    grpc_health,
    intent_api,
    logger_api,
    node_api,
    presence,
    revocation_admin,
    revocation_feed,
    rollout_api,
    secrets_admin,
    secrets_peers,
    server_why,
    templates_api,
    tokens_admin,
    traffic_reports,
)
from vestibule.doors.access import BOUNDED, OPERATOR, TABLE, Access, Who, denied_details
from vestibule.doors.identity_api import agent, bundle, entry, local_authority, svid, trust_domain
from vestibule.doors.limits import Limits, PerSource
from vestibule.doors.xds_services import XDS_METHODS
from vestibule.errors import VestibuleError
from vestibule.identity.administration import NOTHING, POWERS
from vestibule.identity.beacon import Beacon
from vestibule.identity.codes import AGENT_BANNED, ENTRY_NOT_FOUND
from vestibule.net.caller import Caller, CallerKind
from vestibule.net.grpc import Servable, serve
from vestibule.spiffe import Revocation, Revocations, RevokedIdentity
from vestibule.testing import FakeClock, TestAuthority
from vestibule.wire.gen.spire.types_pb2 import PermissionDeniedDetails

DOORS = {
    agent.SERVICE: agent.AgentDoor,
    entry.SERVICE: entry.EntryDoor,
    svid.SERVICE: svid.SvidDoor,
    bundle.SERVICE: bundle.BundleDoor,
    local_authority.SERVICE: local_authority.LocalAuthorityDoor,
    trust_domain.SERVICE: trust_domain.TrustDomainDoor,
    federation_admin.SERVICE: federation_admin.FederationAdminDoor,
    node_api.SERVICE: node_api.NodeDoor,
    presence.SERVICE: presence.PresenceDoor,
    admin_api.SERVICE: admin_api.ServerAdminDoor,
    revocation_admin.SERVICE: revocation_admin.RevocationAdminDoor,
    revocation_feed.SERVICE: revocation_feed.RevocationFeedDoor,
    entries_api.SERVICE: entries_api.EntriesDoor,
    administrators_api.SERVICE: administrators_api.AdministratorsDoor,
    server_why.SERVICE: server_why.ServerWhyDoor,
    templates_api.SERVICE: templates_api.TemplatesDoor,
    ceremony_api.SERVICE: ceremony_api.CeremonyDoor,
    intent_api.SERVICE: intent_api.IntentDoor,
    debug_api.SERVER: debug_api.ServerDebugDoor,
    logger_api.SERVER: logger_api.LoggerDoor,
    grpc_health.SERVICE: grpc_health.HealthDoor,
    rollout_api.SERVICE: rollout_api.RolloutDoor,
    traffic_reports.SERVICE: traffic_reports.TrafficReportsDoor,
    secrets_peers.SERVICE: secrets_peers.SecretsPeersDoor,
    secrets_admin.SERVICE: secrets_admin.SecretsAdminDoor,
    tokens_admin.SERVICE: tokens_admin.TokensAdminDoor,
    break_glass_api.ADMIN: break_glass_api.BreakGlassDoor,
    break_glass_api.REPORTS: break_glass_api.BreakGlassReportsDoor,
}


def test_every_method_of_every_service_is_served_and_has_its_row() -> None:
    declared = {
        f"/{service.full_name}/{method.name}" for service in (*DOORS, ADS) for method in service.methods
    }
    served = {
        path
        for service, door in DOORS.items()
        for path in serve(service, door).__mapping__()  # a class has the methods, too
    }
    assert {path for path in declared if "discovery.v3" not in path} == served
    assert set(TABLE) == declared | set(XDS_METHODS)


def test_workloads_may_follow_their_configuration_and_nothing_else() -> None:
    workloads = {path: who for path, who in TABLE.items() if Who.WORKLOAD in who}
    assert workloads.keys() - set(XDS_METHODS) == {f"/{ADS.full_name}/{each.name}" for each in ADS.methods}
    assert {workloads[path] for path in XDS_METHODS} == {Who.WORKLOAD}
    assert len(XDS_METHODS) == 15


def test_only_joining_returning_the_bundle_and_the_time_are_open_to_anybody() -> None:
    anyone = {path.rpartition("/")[2] for path, who in TABLE.items() if Who.ANYONE in who}
    assert anyone == {"AttestAgent", "GetBundle", "Return", "GetTime"}


def test_only_others_bundles_are_open_to_agents_and_the_operator_alike() -> None:
    both = {path.rpartition("/")[2] for path, who in TABLE.items() if Who.AGENT in who and Who.LOCAL in who}
    assert both == {"GetFederatedBundle"}


def test_federation_is_the_operators_and_administrators_business() -> None:
    rows = {path: who for path, who in TABLE.items() if "Federat" in path or "trustdomain" in path}
    assert len(rows) == 13
    agents = {path.rpartition("/")[2] for path, who in rows.items() if who not in (Who.LOCAL, OPERATOR)}
    assert agents == {"GetFederatedBundle"}


def test_only_servers_below_get_signing_certificates_and_publish_keys_and_they_hear_of_revocations() -> None:
    downstream = {path.rpartition("/")[2]: who for path, who in TABLE.items() if Who.DOWNSTREAM in who}
    assert downstream == {
        "NewDownstreamX509CA": Who.DOWNSTREAM,
        "PublishJWTAuthority": Who.DOWNSTREAM,
        "PublishWITAuthority": Who.DOWNSTREAM,
        "Watch": Who.AGENT | Who.DOWNSTREAM,
    }


def test_administrators_may_call_all_of_spires_but_logger_debug_and_health() -> None:
    only_local = {path for path, who in TABLE.items() if Who.LOCAL in who and Who.ADMIN not in who}
    assert {path.rpartition("/")[0] for path in only_local if "vestibule" not in path} == {
        "/spire.api.server.debug.v1.Debug",
        "/spire.api.server.logger.v1.Logger",
        "/grpc.health.v1.Health",
    }
    assert not [path for path, who in TABLE.items() if Who.ADMIN in who and Who.LOCAL not in who]


def test_within_bounds_nothing_can_be_done_to_authorities_administrators_or_agents_own_calls() -> None:
    served = {path: who for path, who in TABLE.items() if path in BOUNDED}
    assert all(Who.ADMIN in who for who in served.values())
    assert not [path for path in BOUNDED if "LocalAuthority" in path or "Administrators" in path]
    assert all(powers and set(powers) <= set(POWERS) for powers in BOUNDED.values())


class Door:
    """One call of an agent, as the check before it sees it; the agent is thrown out while it is answered."""

    PATH = "/spire.api.server.svid.v1.SVID/BatchNewX509SVID"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = FakeClock()
        svid = TestAuthority("example.org", now=clock.now()).svid("/spire/agent/a", now=clock.now())
        self.departures = Beacon()
        self.banned = False
        self.revocations = Revocations()
        self.sent: list[object] = []
        self.revoked = Revocation(target=RevokedIdentity(spiffe_id=svid.spiffe_id), at=clock.now(), version=1)
        self.caller = Caller(
            kind=CallerKind.AGENT,
            address="127.0.0.1:1",
            spiffe_id=svid.spiffe_id,
            serial=str(svid.serial),
            not_after=svid.not_after,
            chain=svid.chain,
        )
        monkeypatch.setattr("vestibule.doors.access.identify", lambda *_: self.caller)
        nothing: Any = lambda *_: ()  # noqa: E731
        self.access = Access(
            cast(Any, self),
            lambda _: None,
            clock,
            cast(Any, self),
            nothing,
            nothing,
            lambda: self.revocations,
        )

    async def check(self, *_: object) -> None:
        if self.banned:
            raise AGENT_BANNED.error("banned")

    def rpc(self, *_: object) -> None:
        """Nobody counts."""

    async def recv_message(self) -> str:
        return "request"

    async def send_message(self, message: object) -> None:
        self.sent.append(message)

    async def call(self, meanwhile: Callable[[], None]) -> None:
        async def answer(stream: Any) -> None:
            await stream.recv_message()
            meanwhile()
            await stream.send_message("SVIDs")

        handler = Handler(answer, Cardinality.UNARY_UNARY, object, object)
        guarded = self.access.guard(Servable({self.PATH: handler})).__mapping__()[self.PATH]
        await guarded.func(cast(Any, self))


PEERS = "/vestibule.node.v1.SecretsPeers/Unseal"


@pytest.mark.parametrize(
    ("trust_domain", "path", "here", "let_in"),
    [
        ("example.org", "/spire/server", True, True),
        ("example.org", "/spire/server", False, False),
        ("elsewhere.org", "/spire/server", True, False),
        ("example.org", "/vestibule/secrets", True, False),
        ("example.org", "/spire/agent/a", True, False),
    ],
)
async def test_only_servers_of_ours_unseal_each_other(
    monkeypatch: pytest.MonkeyPatch, trust_domain: str, path: str, here: bool, let_in: bool
) -> None:
    door = Door(monkeypatch)
    svid = TestAuthority(trust_domain).svid(path)
    kind = CallerKind.AGENT if "agent" in path else CallerKind.WORKLOAD
    door.caller = replace(door.caller, kind=kind, spiffe_id=svid.spiffe_id, chain=svid.chain)
    nothing: Any = lambda *_: ()  # noqa: E731
    access = Access(
        cast(Any, door),
        lambda _: None,
        FakeClock(),
        cast(Any, door),
        nothing,
        lambda _: NOTHING,
        lambda: door.revocations,
        issued_here=lambda _leaf: here,
        server=TestAuthority("example.org").svid("/spire/server").spiffe_id,
    )
    if not let_in:
        with pytest.raises(VestibuleError, match="VST2323"):
            await access.admit(PEERS, cast(Any, door))
        return
    assert (await access.admit(PEERS, cast(Any, door))).spiffe_id == svid.spiffe_id
    revoked = Revocation(target=RevokedIdentity(spiffe_id=svid.spiffe_id), at=FakeClock().now(), version=1)
    door.revocations = Revocations(1, (revoked,))
    with pytest.raises(VestibuleError, match="VST2322"):
        await access.admit(PEERS, cast(Any, door))


async def test_what_waited_while_its_agent_was_thrown_out_does_not_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    door = Door(monkeypatch)
    await door.call(lambda: None)
    assert door.sent == ["SVIDs"]

    def ban() -> None:
        door.banned = True
        door.departures.advance()

    with pytest.raises(VestibuleError, match="VST1211"):
        await Door.call(door, ban)
    door = Door(monkeypatch)

    def revoke() -> None:
        door.revocations = Revocations(1, (door.revoked,))

    with pytest.raises(VestibuleError, match="VST2322"):
        await door.call(revoke)
    assert door.sent == []


def test_the_reason_of_a_refusal_is_told_where_there_is_one() -> None:
    [details] = denied_details(AGENT_BANNED.error("x"))
    assert details == PermissionDeniedDetails(reason=PermissionDeniedDetails.AGENT_BANNED)
    assert denied_details(ENTRY_NOT_FOUND.error("x")) == ()


def test_a_source_waits_after_its_burst_and_is_refused_when_that_takes_too_long() -> None:
    limit = PerSource(rate=10, burst=5, patience=1.0)
    waits = [limit.turn("a", 100.0) for _ in range(15)]
    assert max(waits[:5]) <= 0
    assert waits[5] == pytest.approx(0.1)
    assert waits[14] == pytest.approx(1.0)
    with pytest.raises(VestibuleError, match="VST2325"):
        limit.turn("a", 100.0)
    assert limit.turn("b", 100.0) <= 0
    assert limit.turn("a", 110.0) <= 0


def test_a_batch_takes_as_many_turns_as_it_holds() -> None:
    limit = PerSource(rate=10, burst=5, patience=1.0)
    assert limit.turn("a", 100.0, 5) <= 0
    assert limit.turn("a", 100.0, 10) == pytest.approx(1.0)
    with pytest.raises(VestibuleError, match="VST2325"):
        limit.turn("a", 100.0)


def test_a_limit_that_is_turned_off_lets_everybody_through() -> None:
    limits = Limits(attestation=0, signing=0)
    for limit in (limits.attestation, limits.signing):
        assert max(limit.turn("a", 100.0, 500) for _ in range(1000)) <= 0


def test_an_agent_may_have_a_whole_batch_signed_however_low_the_limit() -> None:
    signing = Limits(signing=1).signing
    assert signing.turn("a", 100.0, 500) <= 0
    assert signing.turn("a", 100.0) == pytest.approx(1.0)


def test_many_sources_are_forgotten_oldest_first() -> None:
    limit = PerSource(rate=1, burst=1, patience=0.0)
    for number in range(5000):
        limit.turn(str(number), 0.0)
    assert limit.turn("0", 0.0) <= 0
    with pytest.raises(VestibuleError):
        limit.turn("4999", 0.0)
