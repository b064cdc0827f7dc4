"""What a downstream server asks the server above it (SPIRE's APIs: a signing certificate, keys, the bundle)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from vestibule.calls.channel import ServerChannel
from vestibule.calls.codes import BAD_ANSWER, OTHER_TRUST_DOMAIN
from vestibule.calls.identity_api import bundle_from_wire, jwt_authority_from_wire
from vestibule.calls.revocations import RevocationFeed
from vestibule.calls.unix import unix_channel
from vestibule.calls.workload_api import WorkloadApi, X509Context
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.net.codes import UNREACHABLE
from vestibule.net.grpc import Client
from vestibule.records import Address
from vestibule.spiffe import JwtAuthority, Revocation, SpiffeId, TrustBundle, TrustDomain, X509Svid
from vestibule.wire.gen.spire import bundle_pb2, svid_pb2, types_pb2

PAUSE_SECONDS: Final = 1.0
CALL_SECONDS: Final = 20.0

_log = logging.getLogger(__name__)


class OwnIdentity:
    """This process's identity and bundle, as an agent's Workload API gives them: now, and whenever they change."""

    def __init__(self, socket: Path, trust_domain: TrustDomain) -> None:
        self._socket = socket
        self._trust_domain = trust_domain
        self._context: X509Context | None = None
        self._changed = asyncio.Event()
        self.problem: VestibuleError | None = None
        """Why there is nothing newer, while the agent does not answer."""

    @property
    def svid(self) -> X509Svid | None:
        """The default SVID among those of the trust domain."""
        own = self._context.svids if self._context else ()
        return next((each for each in own if each.spiffe_id.trust_domain == self._trust_domain), None)

    @property
    def bundle(self) -> TrustBundle | None:
        """The trust domain's bundle."""
        bundles = self._context.bundles if self._context else ()
        return next((each for each in bundles if each.trust_domain == self._trust_domain), None)

    @property
    def spiffe_id(self) -> SpiffeId | None:
        """Who this process is."""
        return self.svid.spiffe_id if self.svid else None

    async def run(self, renewed: Callable[[], None]) -> None:
        """Follow the Workload API for ever; ``renewed`` hears of every change."""
        while True:
            channel = unix_channel(self._socket)
            try:
                async with aclosing(WorkloadApi(channel).watch()) as contexts:
                    async for context in contexts:
                        self.problem = None
                        if context != self._context:
                            self._context = context
                            renewed()
                            self._wake()
            except (VestibuleError, StreamTerminatedError, OSError) as error:
                repeated, self.problem = self.problem, _foreseen(error)
                level = logging.DEBUG if repeated is not None else logging.WARNING
                _log.log(level, "the Workload API at %s gives no identity: %s", self._socket, self.problem)
                self._wake()
            finally:
                channel.close()
            await asyncio.sleep(PAUSE_SECONDS)

    async def change(self) -> None:
        """Wait for the next change of identity, bundle or problem."""
        await self._changed.wait()

    def _wake(self) -> None:
        woken, self._changed = self._changed, asyncio.Event()
        woken.set()


def _foreseen(error: Exception) -> VestibuleError:
    return error if isinstance(error, VestibuleError) else UNREACHABLE.error(f"the agent went away: {error}")


class UpstreamApi:
    """A client of the server above.

    Every method raises that server's errors, VST2300 when it or the agent cannot be reached, VST2315 when it is not
    the server, VST2332 for an answer that breaks the protocol, VST2333 for one of another trust domain.
    """

    def __init__(self, channel: ServerChannel, identity: OwnIdentity, trust_domain: TrustDomain) -> None:
        self.channel = channel
        self.identity = identity
        self._trust_domain = trust_domain
        self._svids = Client(channel, svid_pb2.DESCRIPTOR.services_by_name["SVID"])
        self._bundles = Client(channel, bundle_pb2.DESCRIPTOR.services_by_name["Bundle"])

    async def new_downstream_ca(
        self, csr: bytes, ttl: timedelta
    ) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """A signing certificate with what is between it and the root, and the roots."""
        await self._ready()
        request = svid_pb2.NewDownstreamX509CARequest(csr=csr, preferred_ttl=int(ttl.total_seconds()))
        answer = await self._svids.unary("NewDownstreamX509CA", request)
        if not answer.ca_cert_chain or not answer.x509_authorities:
            raise BAD_ANSWER.error("the server above returned no certificate, or no roots")
        return tuple(answer.ca_cert_chain), tuple(answer.x509_authorities)

    async def publish_jwt(self, key: JwtAuthority) -> tuple[JwtAuthority, ...]:
        """Put a key into the bundle; all keys of the trust domain."""
        await self._ready()
        message = types_pb2.JWTKey(
            public_key=key.public_key,
            key_id=key.key_id,
            expires_at=int(key.expires_at.timestamp()) if key.expires_at else 0,
            tainted=key.tainted,
        )
        request = bundle_pb2.PublishJWTAuthorityRequest(jwt_authority=message)
        answer = await self._bundles.unary("PublishJWTAuthority", request)
        return tuple(map(jwt_authority_from_wire, answer.jwt_authorities))

    async def publish_wit(self, key: JwtAuthority) -> tuple[JwtAuthority, ...] | None:
        """The same with a key of WIT-SVIDs; ``None`` where the server above knows no such tokens."""
        await self._ready()
        message = types_pb2.WITKey(
            public_key=key.public_key,
            key_id=key.key_id,
            expires_at=int(key.expires_at.timestamp()) if key.expires_at else 0,
            tainted=key.tainted,
        )
        request = bundle_pb2.PublishWITAuthorityRequest(wit_authority=message)
        try:
            answer = await self._bundles.unary("PublishWITAuthority", request)
        except VestibuleError as error:
            if _is_unknown_there(error):
                return None
            raise
        return tuple(map(jwt_authority_from_wire, answer.wit_authorities))

    async def bundle(self) -> TrustBundle:
        """The bundle of the server above."""
        await self._ready()
        bundle = bundle_from_wire(await self._bundles.unary("GetBundle", bundle_pb2.GetBundleRequest()))
        if bundle.trust_domain != self._trust_domain:
            raise OTHER_TRUST_DOMAIN.error(
                f"the server above is of trust domain {bundle.trust_domain}, this one of {self._trust_domain}"
            )
        return bundle

    async def revocations(self) -> AsyncGenerator[tuple[Revocation, ...] | None, None]:
        """What that server has revoked: all of it, then every change; ``None`` where it has no such list (SPIRE's)."""
        await self._ready()
        try:
            async with aclosing(RevocationFeed(self.channel).watch(0)) as updates:
                async for update in updates:
                    yield update.changes
        except VestibuleError as error:
            if not _is_unknown_there(error):
                raise
            yield None

    async def _ready(self) -> None:
        """Wait, a while, for an identity to call with."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                while self.identity.svid is None:
                    await self.identity.change()
        except TimeoutError:
            raise self.identity.problem or UNREACHABLE.error(
                "the agent gave this server no identity in time"
            ) from None


def _is_unknown_there(error: VestibuleError) -> bool:
    """Whether the server has no such method."""
    cause = error.__cause__
    return isinstance(cause, GRPCError) and cause.status is Status.UNIMPLEMENTED


@asynccontextmanager
async def upstream_api(
    address: Address, workload_api: Path, trust_domain: TrustDomain, clock: Clock
) -> AsyncIterator[UpstreamApi]:
    """The server above at ``address``, called as whom the Workload API at ``workload_api`` says we are."""
    identity = OwnIdentity(workload_api, trust_domain)
    channel = ServerChannel(address, bundle=lambda: identity.bundle, svid=lambda: identity.svid, clock=clock)
    following = asyncio.create_task(identity.run(channel.renew), name="own-identity")
    try:
        yield UpstreamApi(channel, identity, trust_domain)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        channel.close()
