"""Who may call what on the server, in one table; and the check that stands before every RPC.

The table is SPIRE's default policy for SPIRE's methods.  A method that is not in it is closed to everybody.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from enum import Flag, auto
from typing import Any, Final, Protocol, cast

from google.protobuf.message import Message
from grpclib.const import Handler

from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.codes import (
    AGENT_BANNED,
    AGENT_EXPIRED,
    AGENT_MUST_REATTEST,
    AGENT_NOT_ACTIVE,
    AGENT_NOT_ATTESTED,
)
from vestibule.identity.nodes import Nodes
from vestibule.net.caller import BundleOf, Caller, CallerKind, identify, set_caller
from vestibule.net.codes import CALL_NOT_ALLOWED, CONNECTION_OUTLIVED, PEER_REFUSED
from vestibule.net.grpc import Servable, Stream, refuse
from vestibule.pki.revocation import revoked
from vestibule.records import Entry
from vestibule.spiffe import Revocations, SpiffeId
from vestibule.wire.gen.spire.types_pb2 import PermissionDeniedDetails

RECHECK_SECONDS: Final = 10.0
"""A stream's caller is checked again at least this often, besides at every ban and eviction."""

FAREWELL_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class Who(Flag):
    """Kinds of callers that a method is open to."""

    ANYONE = auto()
    AGENT = auto()
    LOCAL = auto()
    DOWNSTREAM = auto()


_SPIRE: Final = "/spire.api.server"
_NODE: Final = "/vestibule.node.v1.Node"
_PRESENCE: Final = "/vestibule.node.v1.Presence"
_ADS: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService"

TABLE: Final[Mapping[str, Who]] = {
    f"{_SPIRE}.agent.v1.Agent/CountAgents": Who.LOCAL,
    f"{_SPIRE}.agent.v1.Agent/ListAgents": Who.LOCAL,
    f"{_SPIRE}.agent.v1.Agent/GetAgent": Who.LOCAL,
    f"{_SPIRE}.agent.v1.Agent/DeleteAgent": Who.LOCAL,
    f"{_SPIRE}.agent.v1.Agent/BanAgent": Who.LOCAL,
    f"{_SPIRE}.agent.v1.Agent/CreateJoinToken": Who.LOCAL,
    f"{_SPIRE}.agent.v1.Agent/AttestAgent": Who.ANYONE,
    f"{_SPIRE}.agent.v1.Agent/RenewAgent": Who.AGENT,
    f"{_SPIRE}.agent.v1.Agent/PostStatus": Who.AGENT,
    f"{_SPIRE}.entry.v1.Entry/CountEntries": Who.LOCAL,
    f"{_SPIRE}.entry.v1.Entry/ListEntries": Who.LOCAL,
    f"{_SPIRE}.entry.v1.Entry/GetEntry": Who.LOCAL,
    f"{_SPIRE}.entry.v1.Entry/BatchCreateEntry": Who.LOCAL,
    f"{_SPIRE}.entry.v1.Entry/BatchUpdateEntry": Who.LOCAL,
    f"{_SPIRE}.entry.v1.Entry/BatchDeleteEntry": Who.LOCAL,
    f"{_SPIRE}.entry.v1.Entry/GetAuthorizedEntries": Who.AGENT,
    f"{_SPIRE}.entry.v1.Entry/SyncAuthorizedEntries": Who.AGENT,
    f"{_SPIRE}.svid.v1.SVID/MintX509SVID": Who.LOCAL,
    f"{_SPIRE}.svid.v1.SVID/MintJWTSVID": Who.LOCAL,
    f"{_SPIRE}.svid.v1.SVID/BatchNewX509SVID": Who.AGENT,
    f"{_SPIRE}.svid.v1.SVID/NewJWTSVID": Who.AGENT,
    f"{_SPIRE}.svid.v1.SVID/NewDownstreamX509CA": Who.DOWNSTREAM,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/GetJWTAuthorityState": Who.LOCAL,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/PrepareJWTAuthority": Who.LOCAL,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/ActivateJWTAuthority": Who.LOCAL,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/TaintJWTAuthority": Who.LOCAL,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/RevokeJWTAuthority": Who.LOCAL,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/GetX509AuthorityState": Who.LOCAL,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/PrepareX509Authority": Who.LOCAL,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/ActivateX509Authority": Who.LOCAL,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/TaintX509Authority": Who.LOCAL,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/RevokeX509Authority": Who.LOCAL,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/GetWITAuthorityState": Who.LOCAL,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/PrepareWITAuthority": Who.LOCAL,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/ActivateWITAuthority": Who.LOCAL,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/TaintWITAuthority": Who.LOCAL,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/RevokeWITAuthority": Who.LOCAL,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/TaintX509UpstreamAuthority": Who.LOCAL,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/RevokeX509UpstreamAuthority": Who.LOCAL,
    f"{_SPIRE}.bundle.v1.Bundle/PublishJWTAuthority": Who.DOWNSTREAM,
    f"{_SPIRE}.bundle.v1.Bundle/GetBundle": Who.ANYONE,
    f"{_SPIRE}.bundle.v1.Bundle/CountBundles": Who.LOCAL,
    f"{_SPIRE}.bundle.v1.Bundle/ListFederatedBundles": Who.LOCAL,
    f"{_SPIRE}.bundle.v1.Bundle/GetFederatedBundle": Who.LOCAL | Who.AGENT,
    f"{_SPIRE}.bundle.v1.Bundle/BatchCreateFederatedBundle": Who.LOCAL,
    f"{_SPIRE}.bundle.v1.Bundle/BatchUpdateFederatedBundle": Who.LOCAL,
    f"{_SPIRE}.bundle.v1.Bundle/BatchSetFederatedBundle": Who.LOCAL,
    f"{_SPIRE}.bundle.v1.Bundle/BatchDeleteFederatedBundle": Who.LOCAL,
    f"{_SPIRE}.trustdomain.v1.TrustDomain/ListFederationRelationships": Who.LOCAL,
    f"{_SPIRE}.trustdomain.v1.TrustDomain/GetFederationRelationship": Who.LOCAL,
    f"{_SPIRE}.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship": Who.LOCAL,
    f"{_SPIRE}.trustdomain.v1.TrustDomain/BatchUpdateFederationRelationship": Who.LOCAL,
    f"{_SPIRE}.trustdomain.v1.TrustDomain/BatchDeleteFederationRelationship": Who.LOCAL,
    f"{_SPIRE}.trustdomain.v1.TrustDomain/RefreshBundle": Who.LOCAL,
    f"{_NODE}/Watch": Who.AGENT,
    "/vestibule.node.v1.Revocations/Watch": Who.AGENT,
    f"{_NODE}/DescribeService": Who.AGENT,
    f"{_NODE}/RegisterInstance": Who.AGENT,
    f"{_NODE}/DeregisterInstance": Who.AGENT,
    f"{_PRESENCE}/Return": Who.ANYONE,
    f"{_PRESENCE}/GetTime": Who.ANYONE,
    f"{_ADS}/StreamAggregatedResources": Who.AGENT,
    f"{_ADS}/DeltaAggregatedResources": Who.AGENT,
    "/vestibule.admin.v1.ServerAdmin/GetStatus": Who.LOCAL,
    "/vestibule.admin.v1.RevocationAdmin/Revoke": Who.LOCAL,
    "/vestibule.admin.v1.RevocationAdmin/List": Who.LOCAL,
    "/vestibule.admin.v1.RevocationAdmin/Lift": Who.LOCAL,
    "/vestibule.admin.v1.RevocationAdmin/GetCrl": Who.LOCAL,
    f"{_SPIRE}.debug.v1.Debug/GetInfo": Who.LOCAL,
    f"{_SPIRE}.logger.v1.Logger/GetLogger": Who.LOCAL,
    f"{_SPIRE}.logger.v1.Logger/SetLogLevel": Who.LOCAL,
    f"{_SPIRE}.logger.v1.Logger/ResetLogLevel": Who.LOCAL,
    "/grpc.health.v1.Health/Check": Who.LOCAL,
    "/grpc.health.v1.Health/List": Who.LOCAL,
    "/grpc.health.v1.Health/Watch": Who.LOCAL,
    "/vestibule.admin.v1.FederationAdmin/GetFederationStatus": Who.LOCAL,
}

_REASONS: Final = {
    AGENT_EXPIRED: PermissionDeniedDetails.AGENT_EXPIRED,
    AGENT_NOT_ATTESTED: PermissionDeniedDetails.AGENT_NOT_ATTESTED,
    AGENT_NOT_ACTIVE: PermissionDeniedDetails.AGENT_NOT_ACTIVE,
    AGENT_BANNED: PermissionDeniedDetails.AGENT_BANNED,
    AGENT_MUST_REATTEST: PermissionDeniedDetails.AGENT_MUST_REATTEST,
}


def denied_details(error: VestibuleError) -> Sequence[Message]:
    """What tells SPIRE's agents why they were refused, and so whether to attest again."""
    reason = _REASONS.get(error.code)
    return () if reason is None else (PermissionDeniedDetails(reason=reason),)


class Observer(Protocol):
    """Told about every call that was answered; ``telemetry.Metrics`` fits."""

    def rpc(self, method: str, outcome: str, seconds: float) -> None:
        """``outcome`` is ``ok``, ``refused`` or ``cancelled``."""
        ...


class Access:
    """Authenticates and authorises the caller of every RPC, and again while streams last."""

    def __init__(
        self,
        nodes: Nodes,
        bundle_of: BundleOf,
        clock: Clock,
        observer: Observer,
        powers: Callable[[SpiffeId], tuple[Entry, ...]],
        revocations: Callable[[], Revocations] = Revocations,
    ) -> None:
        """``powers`` are an identity's ``admin`` and ``downstream`` entries, those that count now.

        ``bundle_of`` leaves out authorities that ``revocations`` names.
        """
        self._revocations = revocations
        self._nodes = nodes
        self._powers = powers
        self._bundle_of = bundle_of
        self._clock = clock
        self._observer = observer

    def guard(self, service: Servable) -> Servable:
        """The service with the check before each of its methods."""
        return Servable(
            {
                path: handler._replace(func=self._guarded(path, handler))
                for path, handler in service.__mapping__().items()
            }
        )

    def _guarded(self, path: str, handler: Handler) -> Callable[[Stream], Awaitable[None]]:
        lasting = handler.cardinality.client_streaming or handler.cardinality.server_streaming

        async def answer(stream: Stream) -> None:
            began = time.perf_counter()
            outcome = "cancelled"
            try:
                try:
                    caller = await self.admit(path, stream)
                except VestibuleError as error:
                    outcome = "refused"
                    _log.warning("refused %s: %s", path, error)
                    await refuse(stream, error, denied_details(error))
                    return
                set_caller(caller)
                if caller.kind is not CallerKind.AGENT:
                    await handler.func(stream)
                elif lasting:
                    await self._accompany(stream, caller, handler.func)
                else:
                    self._admit_message(path, stream)
                    await handler.func(stream)
                outcome = "ok"
            finally:
                self._observer.rpc(path, outcome, time.perf_counter() - began)

        return answer

    async def admit(self, path: str, stream: Stream) -> Caller:
        """The caller of an RPC, if it may call.

        1. Its certificate, if it shows one, holds now; a bad one is refused even where none is needed.
        2. The table lets its kind in.
        3. A workload has an entry, now, that gives it the power that the table asks for.
        4. An agent is attested, not banned, and shows its current certificate.
        5. What it shows is not revoked: asked last, since a banned agent has to be told that it is banned.

        Raises: VST2322, VST2323, VST1210, VST1211, VST1212, VST1213.
        """
        caller = identify(stream, self._bundle_of, self._clock.now())  # 1
        who = TABLE.get(path, Who(0))
        if Who.ANYONE in who or (caller.kind is CallerKind.LOCAL and Who.LOCAL in who):  # 2
            return self._unrevoked(caller)
        if caller.kind is CallerKind.WORKLOAD and Who.DOWNSTREAM in who:  # 3
            assert caller.spiffe_id is not None
            caller = replace(caller, powers=self._powers(caller.spiffe_id))
            if caller.is_downstream:
                return self._unrevoked(caller)
        if caller.kind is not CallerKind.AGENT or Who.AGENT not in who:
            raise CALL_NOT_ALLOWED.error(f"authorization denied for method {path}")
        assert caller.spiffe_id is not None
        assert caller.not_after is not None
        await self._nodes.check(caller.spiffe_id, caller.serial, caller.not_after)  # 4
        return self._unrevoked(caller)

    def _unrevoked(self, caller: Caller) -> Caller:
        """The caller, if no certificate that it shows is revoked (step 5).  Raises: VST2322."""
        if (why := revoked(self._revocations(), caller.chain, self._clock.now())) is not None:
            raise PEER_REFUSED.error(f"the caller's certificate is refused: {why}")
        return caller

    def _admit_message(self, path: str, stream: Stream) -> None:
        """Check the caller again if its message took its time, or somebody was thrown out meanwhile.

        A call begins with its headers.  Without this, a banned agent could go on sending the messages of calls
        that it opened before.
        """
        receive, departures = stream.recv_message, self._nodes.departures
        seen, began = departures.value, time.monotonic()

        async def admitted() -> Any:
            message = await receive()
            if departures.value != seen or time.monotonic() - began > RECHECK_SECONDS:
                await self.admit(path, stream)
            return message

        stream.recv_message = admitted

    async def _accompany(
        self, stream: Stream, caller: Caller, answer: Callable[[Stream], Awaitable[None]]
    ) -> None:
        """Run a stream while its caller keeps the right to it."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        watch = asyncio.create_task(self._until_unfit(stream, caller), name="recheck")
        watch.add_done_callback(lambda done: None if done.cancelled() else task.cancel())
        try:
            await answer(stream)
        except asyncio.CancelledError:
            if not watch.done() or watch.cancelled():
                raise
            # The stream was ended by us, with its reason; the task itself goes on to its orderly end.
            task.uncancel()
        finally:
            watch.cancel()

    async def _until_unfit(self, stream: Stream, caller: Caller) -> None:
        """Return once the stream had to be ended, after telling why."""
        departures = self._nodes.departures
        while True:
            seen = departures.value
            try:
                await self._still_fit(stream, caller)
            except VestibuleError as error:
                _log.warning("ended a stream of %s: %s", caller, error)
                await _say(stream, error)
                return
            # Streams that began together are not checked together.
            pause = RECHECK_SECONDS * random.uniform(0.7, 1.0)  # noqa: S311 - spreads load only
            try:
                async with asyncio.timeout(pause):
                    await departures.changed(seen)
            except TimeoutError:
                continue

    async def _still_fit(self, stream: Stream, caller: Caller) -> None:
        assert caller.spiffe_id is not None
        assert caller.not_after is not None
        await self._nodes.check_standing(caller.spiffe_id)
        if self._clock.now() > caller.not_after:
            raise CONNECTION_OUTLIVED.error("the certificate of this connection has expired: connect again")
        self._unrevoked(identify(stream, self._bundle_of, self._clock.now()))


async def _say(stream: Stream, error: VestibuleError) -> None:
    """Tell why, but wait for nobody who does not listen: such a connection is cut."""
    try:
        async with asyncio.timeout(FAREWELL_SECONDS):
            await refuse(stream, error, denied_details(error))
    except TimeoutError:
        stream._stream._transport.abort()
