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
from functools import partial
from typing import Any, Final, Protocol, cast

from google.protobuf.message import Message
from grpclib.const import Handler

from vestibule.clock import Clock
from vestibule.doors.limits import Limits
from vestibule.doors.recheck import Verified
from vestibule.doors.scope import set_scope
from vestibule.doors.shared_checks import SharedChecks
from vestibule.doors.xds_services import XDS_METHODS
from vestibule.errors import VestibuleError
from vestibule.identity.administration import (
    AGENTS,
    ENTRIES,
    FEDERATION,
    FULL,
    MINT,
    NOTHING,
    READ,
    TOKENS,
    Scope,
)
from vestibule.identity.codes import (
    AGENT_BANNED,
    AGENT_EXPIRED,
    AGENT_MUST_REATTEST,
    AGENT_NOT_ACTIVE,
    AGENT_NOT_ATTESTED,
)
from vestibule.identity.nodes import STANDING_SECONDS, Nodes
from vestibule.net.caller import BundleOf, Caller, CallerKind, identify, set_caller
from vestibule.net.codes import CALL_NOT_ALLOWED, CONNECTION_OUTLIVED, PEER_REFUSED
from vestibule.net.grpc import Servable, Stream, refuse
from vestibule.pki.revocation import revoked
from vestibule.records import Entry
from vestibule.spiffe import Revocations, SpiffeId
from vestibule.wire.gen.spire.types_pb2 import PermissionDeniedDetails

RECHECK_SECONDS: Final = 10.0
"""A stream's caller is checked again at least this often, besides at every ban and eviction."""

PAUSE_SECONDS: Final = RECHECK_SECONDS - STANDING_SECONDS
"""Between two checks; what the second one is told may be so much older than it."""

FAREWELL_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class Who(Flag):
    """Kinds of callers that a method is open to."""

    ANYONE = auto()
    AGENT = auto()
    LOCAL = auto()
    DOWNSTREAM = auto()
    WORKLOAD = auto()
    """Workloads with an SVID that was signed here; what they get, the method itself holds against their identity."""
    ADMIN = auto()
    """Workloads that administer: all of it, or within bounds where the method stands in ``BOUNDED``."""
    SERVER = auto()
    """Other servers of the trust domain, by the SVID that each makes for itself."""


OPERATOR: Final = Who.LOCAL | Who.ADMIN


_SPIRE: Final = "/spire.api.server"
_NODE: Final = "/vestibule.node.v1.Node"
_ADMIN: Final = "/vestibule.admin.v1"
_PRESENCE: Final = "/vestibule.node.v1.Presence"
_CEREMONY: Final = "/vestibule.admin.v1.Ceremony"
_ADS: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService"

_SECRETS: Final = (
    *("Call", "GetSeal", "Init", "Unseal", "Seal", "RotateKeys", "Rekey", "GiveShare", "CancelRekey"),
    *("Backup", "Restore"),
)
_TOKENS: Final = ("ListKeys", "RotateKeys", "RevokeKey", "Revoke", "ListRevoked", "ListClients")
TABLE: Final[Mapping[str, Who]] = {
    f"{_SPIRE}.agent.v1.Agent/CountAgents": OPERATOR,
    f"{_SPIRE}.agent.v1.Agent/ListAgents": OPERATOR,
    f"{_SPIRE}.agent.v1.Agent/GetAgent": OPERATOR,
    f"{_SPIRE}.agent.v1.Agent/DeleteAgent": OPERATOR,
    f"{_SPIRE}.agent.v1.Agent/BanAgent": OPERATOR,
    f"{_SPIRE}.agent.v1.Agent/CreateJoinToken": OPERATOR,
    f"{_SPIRE}.agent.v1.Agent/AttestAgent": Who.ANYONE,
    f"{_SPIRE}.agent.v1.Agent/RenewAgent": Who.AGENT,
    f"{_SPIRE}.agent.v1.Agent/PostStatus": Who.AGENT,
    f"{_SPIRE}.entry.v1.Entry/CountEntries": OPERATOR,
    f"{_SPIRE}.entry.v1.Entry/ListEntries": OPERATOR,
    f"{_SPIRE}.entry.v1.Entry/GetEntry": OPERATOR,
    f"{_SPIRE}.entry.v1.Entry/BatchCreateEntry": OPERATOR,
    f"{_SPIRE}.entry.v1.Entry/BatchUpdateEntry": OPERATOR,
    f"{_SPIRE}.entry.v1.Entry/BatchDeleteEntry": OPERATOR,
    f"{_SPIRE}.entry.v1.Entry/GetAuthorizedEntries": Who.AGENT,
    f"{_SPIRE}.entry.v1.Entry/SyncAuthorizedEntries": Who.AGENT,
    f"{_SPIRE}.svid.v1.SVID/MintX509SVID": OPERATOR,
    f"{_SPIRE}.svid.v1.SVID/MintJWTSVID": OPERATOR,
    f"{_SPIRE}.svid.v1.SVID/MintWITSVID": OPERATOR,
    f"{_SPIRE}.svid.v1.SVID/BatchNewWITSVID": Who.AGENT,
    f"{_SPIRE}.svid.v1.SVID/BatchNewX509SVID": Who.AGENT,
    f"{_SPIRE}.svid.v1.SVID/NewJWTSVID": Who.AGENT,
    f"{_SPIRE}.svid.v1.SVID/NewDownstreamX509CA": Who.DOWNSTREAM,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/GetJWTAuthorityState": OPERATOR,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/PrepareJWTAuthority": OPERATOR,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/ActivateJWTAuthority": OPERATOR,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/TaintJWTAuthority": OPERATOR,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/RevokeJWTAuthority": OPERATOR,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/GetX509AuthorityState": OPERATOR,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/PrepareX509Authority": OPERATOR,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/ActivateX509Authority": OPERATOR,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/TaintX509Authority": OPERATOR,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/RevokeX509Authority": OPERATOR,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/GetWITAuthorityState": OPERATOR,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/PrepareWITAuthority": OPERATOR,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/ActivateWITAuthority": OPERATOR,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/TaintWITAuthority": OPERATOR,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/RevokeWITAuthority": OPERATOR,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/TaintX509UpstreamAuthority": OPERATOR,
    f"{_SPIRE}.localauthority.v1.LocalAuthority/RevokeX509UpstreamAuthority": OPERATOR,
    f"{_SPIRE}.bundle.v1.Bundle/PublishJWTAuthority": Who.DOWNSTREAM,
    f"{_SPIRE}.bundle.v1.Bundle/PublishWITAuthority": Who.DOWNSTREAM,
    f"{_SPIRE}.bundle.v1.Bundle/GetBundle": Who.ANYONE,
    f"{_SPIRE}.bundle.v1.Bundle/AppendBundle": OPERATOR,
    f"{_SPIRE}.bundle.v1.Bundle/ListFederatedBundles": OPERATOR,
    f"{_SPIRE}.bundle.v1.Bundle/GetFederatedBundle": OPERATOR | Who.AGENT,
    f"{_SPIRE}.bundle.v1.Bundle/BatchCreateFederatedBundle": OPERATOR,
    f"{_SPIRE}.bundle.v1.Bundle/BatchUpdateFederatedBundle": OPERATOR,
    f"{_SPIRE}.bundle.v1.Bundle/BatchSetFederatedBundle": OPERATOR,
    f"{_SPIRE}.bundle.v1.Bundle/BatchDeleteFederatedBundle": OPERATOR,
    f"{_SPIRE}.trustdomain.v1.TrustDomain/ListFederationRelationships": OPERATOR,
    f"{_SPIRE}.trustdomain.v1.TrustDomain/GetFederationRelationship": OPERATOR,
    f"{_SPIRE}.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship": OPERATOR,
    f"{_SPIRE}.trustdomain.v1.TrustDomain/BatchUpdateFederationRelationship": OPERATOR,
    f"{_SPIRE}.trustdomain.v1.TrustDomain/BatchDeleteFederationRelationship": OPERATOR,
    f"{_SPIRE}.trustdomain.v1.TrustDomain/RefreshBundle": OPERATOR,
    f"{_SPIRE}.bundle.v1.Bundle/CountBundles": OPERATOR,
    f"{_NODE}/Watch": Who.AGENT,
    "/vestibule.node.v1.Revocations/Watch": Who.AGENT | Who.DOWNSTREAM,
    f"{_NODE}/DescribeService": Who.AGENT,
    f"{_NODE}/RegisterInstance": Who.AGENT,
    f"{_NODE}/RenewInstances": Who.AGENT,
    f"{_NODE}/DeregisterInstance": Who.AGENT,
    f"{_NODE}/DrainInstance": Who.AGENT,
    "/vestibule.node.v1.TrafficReports/Report": Who.AGENT,
    "/vestibule.node.v1.BreakGlassReports/Report": Who.AGENT,
    **dict.fromkeys((f"{_ADMIN}.SecretsAdmin/{name}" for name in _SECRETS), Who.LOCAL),
    **dict.fromkeys((f"{_ADMIN}.TokensAdmin/{name}" for name in _TOKENS), Who.LOCAL),
    f"{_ADMIN}.BreakGlassAdmin/Open": OPERATOR,
    f"{_ADMIN}.BreakGlassAdmin/Close": OPERATOR,
    f"{_ADMIN}.BreakGlassAdmin/List": OPERATOR,
    f"{_PRESENCE}/Return": Who.ANYONE,
    f"{_PRESENCE}/GetTime": Who.ANYONE,
    "/vestibule.node.v1.SecretsPeers/Unseal": Who.SERVER,
    f"{_ADS}/StreamAggregatedResources": Who.AGENT | Who.WORKLOAD,
    f"{_ADS}/DeltaAggregatedResources": Who.AGENT | Who.WORKLOAD,
    **dict.fromkeys(XDS_METHODS, Who.WORKLOAD),
    "/vestibule.admin.v1.RevocationAdmin/Revoke": Who.LOCAL,
    "/vestibule.admin.v1.RevocationAdmin/List": Who.LOCAL,
    "/vestibule.admin.v1.RevocationAdmin/Lift": Who.LOCAL,
    "/vestibule.admin.v1.RevocationAdmin/GetCrl": Who.LOCAL,
    "/vestibule.admin.v1.ServerAdmin/GetStatus": Who.LOCAL,
    f"{_ADMIN}.RolloutAdmin/Get": Who.LOCAL,
    f"{_ADMIN}.RolloutAdmin/GetHistory": Who.LOCAL,
    f"{_ADMIN}.RolloutAdmin/RollBack": Who.LOCAL,
    f"{_ADMIN}.RolloutAdmin/Pause": Who.LOCAL,
    f"{_ADMIN}.RolloutAdmin/Resume": Who.LOCAL,
    f"{_ADMIN}.RolloutAdmin/Promote": Who.LOCAL,
    f"{_ADMIN}.IntentAdmin/GetFiles": Who.LOCAL,
    f"{_CEREMONY}/GetCeremony": Who.LOCAL,
    f"{_CEREMONY}/MakeRequest": Who.LOCAL,
    f"{_CEREMONY}/Deliver": Who.LOCAL,
    f"{_SPIRE}.debug.v1.Debug/GetInfo": Who.LOCAL,
    f"{_SPIRE}.logger.v1.Logger/GetLogger": Who.LOCAL,
    f"{_SPIRE}.logger.v1.Logger/SetLogLevel": Who.LOCAL,
    f"{_SPIRE}.logger.v1.Logger/ResetLogLevel": Who.LOCAL,
    "/grpc.health.v1.Health/Check": Who.LOCAL,
    "/grpc.health.v1.Health/List": Who.LOCAL,
    "/grpc.health.v1.Health/Watch": Who.LOCAL,
    "/vestibule.admin.v1.FederationAdmin/GetFederationStatus": Who.LOCAL,
    f"{_ADMIN}.Entries/Get": OPERATOR,
    f"{_ADMIN}.Entries/List": OPERATOR,
    f"{_ADMIN}.Entries/Count": OPERATOR,
    f"{_ADMIN}.Entries/Create": OPERATOR,
    f"{_ADMIN}.Entries/Plan": OPERATOR,
    f"{_ADMIN}.Entries/Update": OPERATOR,
    f"{_ADMIN}.Entries/Review": OPERATOR,
    f"{_ADMIN}.ServerWhy/ExplainIdentity": OPERATOR,
    f"{_ADMIN}.Administrators/Grant": OPERATOR,
    f"{_ADMIN}.Administrators/List": OPERATOR,
    f"{_ADMIN}.Administrators/Revoke": OPERATOR,
    "/vestibule.node.v1.Templates/List": Who.AGENT,
    "/vestibule.node.v1.Templates/Derive": Who.AGENT,
}

BOUNDED: Final[Mapping[str, tuple[str, ...]]] = {
    f"{_SPIRE}.agent.v1.Agent/CountAgents": (AGENTS,),
    f"{_SPIRE}.agent.v1.Agent/ListAgents": (AGENTS,),
    f"{_SPIRE}.agent.v1.Agent/GetAgent": (AGENTS,),
    f"{_SPIRE}.agent.v1.Agent/DeleteAgent": (AGENTS,),
    f"{_SPIRE}.agent.v1.Agent/BanAgent": (AGENTS,),
    f"{_SPIRE}.agent.v1.Agent/CreateJoinToken": (TOKENS,),
    f"{_SPIRE}.entry.v1.Entry/CountEntries": (ENTRIES, READ),
    f"{_SPIRE}.entry.v1.Entry/ListEntries": (ENTRIES, READ),
    f"{_SPIRE}.entry.v1.Entry/GetEntry": (ENTRIES, READ),
    f"{_SPIRE}.entry.v1.Entry/BatchCreateEntry": (ENTRIES,),
    f"{_SPIRE}.entry.v1.Entry/BatchUpdateEntry": (ENTRIES,),
    f"{_SPIRE}.entry.v1.Entry/BatchDeleteEntry": (ENTRIES,),
    f"{_SPIRE}.svid.v1.SVID/MintX509SVID": (MINT,),
    f"{_SPIRE}.svid.v1.SVID/MintJWTSVID": (MINT,),
    f"{_SPIRE}.svid.v1.SVID/MintWITSVID": (MINT,),
    f"{_SPIRE}.bundle.v1.Bundle/CountBundles": (FEDERATION,),
    f"{_SPIRE}.bundle.v1.Bundle/ListFederatedBundles": (FEDERATION,),
    f"{_SPIRE}.bundle.v1.Bundle/GetFederatedBundle": (FEDERATION,),
    f"{_SPIRE}.bundle.v1.Bundle/BatchCreateFederatedBundle": (FEDERATION,),
    f"{_SPIRE}.bundle.v1.Bundle/BatchUpdateFederatedBundle": (FEDERATION,),
    f"{_SPIRE}.bundle.v1.Bundle/BatchSetFederatedBundle": (FEDERATION,),
    f"{_SPIRE}.bundle.v1.Bundle/BatchDeleteFederatedBundle": (FEDERATION,),
    f"{_SPIRE}.trustdomain.v1.TrustDomain/ListFederationRelationships": (FEDERATION,),
    f"{_SPIRE}.trustdomain.v1.TrustDomain/GetFederationRelationship": (FEDERATION,),
    f"{_SPIRE}.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship": (FEDERATION,),
    f"{_SPIRE}.trustdomain.v1.TrustDomain/BatchUpdateFederationRelationship": (FEDERATION,),
    f"{_SPIRE}.trustdomain.v1.TrustDomain/BatchDeleteFederationRelationship": (FEDERATION,),
    f"{_SPIRE}.trustdomain.v1.TrustDomain/RefreshBundle": (FEDERATION,),
    f"{_ADMIN}.Entries/Get": (ENTRIES, READ),
    f"{_ADMIN}.Entries/List": (ENTRIES, READ),
    f"{_ADMIN}.Entries/Count": (ENTRIES, READ),
    f"{_ADMIN}.Entries/Create": (ENTRIES,),
    f"{_ADMIN}.Entries/Plan": (ENTRIES,),
    f"{_ADMIN}.Entries/Update": (ENTRIES,),
    f"{_ADMIN}.Entries/Review": (ENTRIES, READ),
    f"{_ADMIN}.ServerWhy/ExplainIdentity": (ENTRIES, READ),
}
"""The methods that administrators with bounds may call, and the powers of which each needs one.

What they ask for is held against the bounds by the services themselves, with the ``Scope`` that is noted here:
``identity.administration`` decides that, too.  Everything else is for full administrators.
"""

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
        scope_of: Callable[[SpiffeId], Scope],
        revocations: Callable[[], Revocations] = Revocations,
        limits: Limits | None = None,
        issued_here: Callable[[bytes], bool] = lambda _leaf: True,
        server: SpiffeId | None = None,
    ) -> None:
        """``powers`` are an identity's ``admin`` and ``downstream`` entries, ``scope_of`` what it administers, now.

        ``bundle_of`` leaves out authorities that ``revocations`` names.  ``issued_here`` says whether a leaf (DER) was
        signed by this server, one of the same database, or one above.  ``server`` is what servers call themselves.
        """
        self._server = server
        self._issued_here = issued_here
        self._scope_of = scope_of
        self._administrating = (limits or Limits()).administration
        self._revocations = revocations
        self._nodes = nodes
        self._powers = powers
        self._bundle_of = bundle_of
        self._clock = clock
        self._observer = observer
        self._checks = SharedChecks()

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
                    await self._wait_for_turn(caller)
                except VestibuleError as error:
                    outcome = "refused"
                    _log.warning("refused %s: %s", path, error)
                    await refuse(stream, error, denied_details(error))
                    return
                set_caller(caller)
                if caller.kind in (CallerKind.ANONYMOUS, CallerKind.LOCAL):
                    await handler.func(stream)
                elif lasting:
                    await self._accompany(path, stream, caller, handler.func)
                else:
                    self._admit_message(path, stream, caller)
                    await handler.func(stream)
                outcome = "ok"
            finally:
                self._observer.rpc(path, outcome, time.perf_counter() - began)

        return answer

    async def admit(self, path: str, stream: Stream) -> Caller:
        """The caller of an RPC, if it may call.

        1. Its certificate, if it shows one, holds now; a bad one is refused even where none is needed.
        2. The table lets its kind in.
        3. A workload has, now, the power that the table asks for: it administers, or has an entry that says so.  Its
           SVID was signed here, or above: servers below can sign any ID of the trust domain, but operate nothing here.
        4. An agent is attested, not banned, and shows its current certificate, which was signed here as well.
        5. What it shows is not revoked: asked last, since a banned agent has to be told that it is banned.

        Raises: VST2322, VST2323, VST1210, VST1211, VST1212, VST1213.
        """
        caller = identify(stream, self._bundle_of, self._clock.now())  # 1
        who = TABLE.get(path, Who(0))
        set_scope(FULL if caller.kind is CallerKind.LOCAL else NOTHING)
        if Who.ANYONE in who or (caller.kind is CallerKind.LOCAL and Who.LOCAL in who):  # 2
            return self._unrevoked(caller)
        if caller.kind is CallerKind.WORKLOAD and Who.ADMIN in who and self._administers(path, caller):
            return self._unrevoked(caller)
        if caller.kind is CallerKind.WORKLOAD and Who.WORKLOAD in who and self._signed_here(caller):
            return self._unrevoked(caller)
        if Who.SERVER in who and self._is_server(caller) and self._signed_here(caller):
            return self._unrevoked(caller)
        if caller.kind is CallerKind.WORKLOAD and Who.DOWNSTREAM in who:  # 3
            assert caller.spiffe_id is not None
            caller = replace(caller, powers=self._powers(caller.spiffe_id))
            if caller.is_downstream and self._signed_here(caller):
                return self._unrevoked(caller)
        if caller.kind is not CallerKind.AGENT or Who.AGENT not in who:
            raise CALL_NOT_ALLOWED.error(f"authorization denied for method {path}")
        assert caller.spiffe_id is not None
        assert caller.not_after is not None
        if not self._signed_here(caller):
            raise CALL_NOT_ALLOWED.error(
                f"authorization denied for method {path}: the agent is of a server below"
            )
        await self._nodes.check(caller.spiffe_id, caller.serial, caller.not_after)  # 4
        return self._unrevoked(caller)

    def _unrevoked(self, caller: Caller) -> Caller:
        """The caller, if no certificate that it shows is revoked (step 5).  Raises: VST2322."""
        if (why := revoked(self._revocations(), caller.chain, self._clock.now())) is not None:
            raise PEER_REFUSED.error(f"the caller's certificate is refused: {why}")
        return caller

    async def _wait_for_turn(self, caller: Caller) -> None:
        """Administrators over the port get their turns: what they do is a write each, and they may not starve agents.

        Raises: VST2325.
        """
        if caller.kind is CallerKind.WORKLOAD:
            await self._administrating.pass_through(str(caller.spiffe_id))

    def _administers(self, path: str, caller: Caller) -> bool:
        """Whether a workload may call a method as an administrator; notes what it may do there."""
        assert caller.spiffe_id is not None
        scope = self._scope_of(caller.spiffe_id)
        if not (scope.full or scope.may(*BOUNDED.get(path, ()))) or not self._signed_here(caller):
            return False
        set_scope(scope)
        return True

    def _is_server(self, caller: Caller) -> bool:
        """Whether it has the identity that only servers give themselves: no entry can name it."""
        return (
            caller.kind is CallerKind.WORKLOAD
            and caller.spiffe_id is not None
            and caller.spiffe_id == self._server
        )

    def _signed_here(self, caller: Caller) -> bool:
        if self._issued_here(caller.chain[0]):
            return True
        _log.warning(
            "%s (%s) has an SVID of a server below: its rights here do not count", caller, caller.address
        )
        return False

    def _admit_message(self, path: str, stream: Stream, caller: Caller) -> None:
        """Check the caller again if its message took its time, or somebody was thrown out meanwhile.

        A call begins with its headers.  Without this, a banned agent could go on sending the messages of calls
        that it opened before.  And again before the answer leaves: what waited for its turn, or for the disk, while
        its caller was thrown out or revoked, is not handed out.
        """
        receive, send, departures = stream.recv_message, stream.send_message, self._nodes.departures
        seen, began = departures.value, time.monotonic()

        async def admitted() -> Any:
            message = await receive()
            if departures.value != seen or time.monotonic() - began > RECHECK_SECONDS:
                await self.admit(path, stream)
            return message

        async def sent(message: Any, **options: Any) -> None:
            self._unrevoked(caller)
            if departures.value != seen:
                await self.admit(path, stream)
            await send(message, **options)

        stream.recv_message = admitted
        stream.send_message = sent

    async def _accompany(
        self, path: str, stream: Stream, caller: Caller, answer: Callable[[Stream], Awaitable[None]]
    ) -> None:
        """Run a stream while its caller keeps the right to it."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        farewell: asyncio.Task[None] | None = None

        def end(why: BaseException) -> None:
            nonlocal farewell
            farewell = asyncio.create_task(_say_farewell(stream, caller, why), name="farewell")
            farewell.add_done_callback(lambda done: None if done.cancelled() else task.cancel())

        # An agent's streams on one connection stand and fall together.
        key = stream.peer._transport if caller.kind is CallerKind.AGENT else stream
        with self._checks.accompanying(key, partial(self._until_unfit, path, stream, caller), end):
            try:
                await answer(stream)
            except asyncio.CancelledError:
                if farewell is None or not farewell.done() or farewell.cancelled():
                    raise
                # The stream was ended by us, with its reason; the task itself goes on to its orderly end.
                task.uncancel()
            finally:
                if farewell is not None:
                    farewell.cancel()

    async def _until_unfit(self, path: str, stream: Stream, caller: Caller) -> VestibuleError:
        """Return why the stream has to end, as soon as it has to."""
        departures = self._nodes.departures
        verified: Verified | None = None
        while True:
            seen = departures.value
            try:
                verified = await self._still_fit(path, stream, caller, verified)
            except VestibuleError as error:
                return error
            # Streams that began together are not checked together.
            pause = PAUSE_SECONDS * random.uniform(0.7, 1.0)  # noqa: S311 - spreads load only
            try:
                async with asyncio.timeout(pause):
                    await departures.changed(seen)
            except TimeoutError:
                continue

    async def _still_fit(
        self, path: str, stream: Stream, caller: Caller, verified: Verified | None
    ) -> Verified | None:
        """What is verified of the caller, perhaps still from the last time.  Raises: why it may not go on."""
        assert caller.spiffe_id is not None
        assert caller.not_after is not None
        if caller.kind is CallerKind.WORKLOAD:
            await self.admit(path, stream)
        else:
            await self._nodes.check_still_standing(caller.spiffe_id)
        if self._clock.now() > caller.not_after:
            raise CONNECTION_OUTLIVED.error("the certificate of this connection has expired: connect again")
        if caller.kind is CallerKind.WORKLOAD:
            return None
        bundle, revocations = self._bundle_of(caller.spiffe_id.trust_domain), self._revocations()
        now = self._clock.now()
        if verified is not None and verified.holds(bundle, revocations, now):
            return verified
        try:
            chain = self._unrevoked(identify(stream, self._bundle_of, now)).chain
            return None if bundle is None else Verified.now(chain, bundle, revocations, now)
        except VestibuleError:
            # Who is revoked may have been banned since we looked, which tells an agent more.
            await self._nodes.check_standing(caller.spiffe_id)
            raise


async def _say_farewell(stream: Stream, caller: Caller, why: BaseException) -> None:
    if not isinstance(why, VestibuleError):
        raise why
    _log.warning("ended a stream of %s: %s", caller, why)
    await _say(stream, why)


async def _say(stream: Stream, error: VestibuleError) -> None:
    """Tell why, but wait for nobody who does not listen: such a connection is cut."""
    try:
        async with asyncio.timeout(FAREWELL_SECONDS):
            await refuse(stream, error, denied_details(error))
    except TimeoutError:
        stream._stream._transport.abort()
