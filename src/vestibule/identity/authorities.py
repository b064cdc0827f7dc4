"""The trust domain's signing authorities, and the bundle that they make up.

What states an authority goes through stands in ``identity.lifecycle``, when it does so by itself in
``identity.rotation``.  Here the kinds of authorities are moved on together, one change at a time: every change ends
with a bundle that fits it, and only then does a new authority sign.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

from vestibule.audit import Audit
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.appended import Appended
from vestibule.identity.beacon import Beacon
from vestibule.identity.codes import (
    JWT_SVIDS_DISABLED,
    NO_UPSTREAM,
    UPSTREAM_IN_CHARGE,
    WIT_SVIDS_DISABLED,
)
from vestibule.identity.jwt_authorities import JwtAuthorities
from vestibule.identity.jwt_trust import JwtTrust
from vestibule.identity.lifecycle import ACTOR, ALONE, Lifecycle, Ownership, Step
from vestibule.identity.roots import Roots
from vestibule.identity.rotation import refresh_hint
from vestibule.identity.token_kinds import WIT
from vestibule.identity.trust_bundle import composed
from vestibule.identity.upstream import UpstreamAuthority
from vestibule.identity.upstream_news import UpstreamNews, as_server
from vestibule.identity.x509_authorities import Signer, X509Authorities, activate_at, prepare_at
from vestibule.keys import KeyManager
from vestibule.records import (
    AppendedAuthority,
    AppendedKind,
    Authority,
    AuthorityState,
    JwtKey,
    PublishedJwtKey,
)
from vestibule.spiffe import JwtAuthority, SpiffeId, TrustBundle, TrustDomain
from vestibule.store import Store

DEFAULT_CA_TTL: Final = timedelta(hours=24)
RETRY_SECONDS: Final = 5.0
KNOWN_AFTER: Final = timedelta(seconds=3)
"""A change of the bundle reaches the agents of all servers in less than this."""

_log = logging.getLogger(__name__)


class Authorities:
    """Holds the authorities, replaces them in time or when told to, and keeps the trust bundle."""

    def __init__(
        self,
        store: Store,
        keys: KeyManager,
        audit: Audit,
        clock: Clock,
        trust_domain: TrustDomain,
        ca_ttl: timedelta = DEFAULT_CA_TTL,
        jwt: JwtAuthorities | None = None,
        upstream: UpstreamAuthority | None = None,
        ownership: Ownership = ALONE,
        wit: JwtAuthorities | None = None,
    ) -> None:
        """``jwt`` and ``wit``, where there are such tokens, are moved on and published together with the certificates.

        With an ``upstream`` the authorities are signed by it, and the bundle holds its roots.
        """
        self._store = store
        self._clock = clock
        self._trust_domain = trust_domain
        self._ca_ttl = ca_ttl
        self._jwt = jwt
        self._upstream = upstream
        self._news = None if upstream is None else UpstreamNews(upstream, trust_domain)
        self._roots = Roots(store, audit, clock)
        self._jwt_trust = JwtTrust(store, audit, clock, jwt, as_server(upstream))
        self._wit = wit
        # Who has no such tokens itself does not pass on those of others, either.
        above = None if wit is None else as_server(upstream)
        self._wit_trust = JwtTrust(store, audit, clock, wit, above, WIT)
        self._appended = Appended(store, audit, clock, trust_domain)
        self._x509 = X509Authorities(
            store, keys, audit, clock, trust_domain, ca_ttl, upstream, self._roots, ownership
        )
        self._ownership = ownership
        self._changes = store.changes.subscribe("authorities", "bundle")
        self._bundle = TrustBundle(trust_domain=trust_domain, x509_authorities=())
        self._beacon = Beacon()
        self._one_change = asyncio.Lock()
        self.problem: str | None = None

    async def start(self) -> None:
        """Read what is kept; afterwards there is an active authority.

        Raises: errors of store, keys, audit; of the upstream, if there is nothing to sign with without it.
        """
        await self._x509.life.start()
        await self._roots.start()
        await self._jwt_trust.start()
        await self._wit_trust.start()
        await self._appended.start()
        self._bundle = await self._store.bundles.get(self._trust_domain) or self._bundle
        for each in self._tokens:
            await each.start()
        if self._x509.life.others_sign() and not self._can_sign():
            await self._join()
        try:
            await self.advance()
        except VestibuleError as error:
            if not self._can_sign():
                raise
            self.problem = str(error)
            _log.error("the authorities cannot advance: %s", error)

    async def _join(self) -> None:
        """Beside servers that sign already: everybody is to have the first key of this one before it signs."""
        async with self._change():
            for each in self._all:
                if each.life.prepared is None:
                    await each.prepare()
        await self._clock.sleep_until(self._clock.now() + KNOWN_AFTER)

    async def run(self) -> None:
        """Advance whenever something is due, and follow the upstream.

        A failure is logged, shown by ``problem`` or ``upstream_problem``, and tried again.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._rotate(), name="authorities-rotate")
            if self._ownership.owner:
                tasks.create_task(self._follow_others(), name="authorities-others")
            if self._news is not None:
                tasks.create_task(self._news.run(self._take), name="authorities-upstream")

    @property
    def revision(self) -> int:
        """Counts changes of bundle and signer within this process."""
        return self._beacon.value

    async def changed(self, since: int) -> int:
        """Wait until ``revision`` differs from ``since``; returns it."""
        return await self._beacon.changed(since)

    def bundle(self) -> TrustBundle:
        """The trust domain's current bundle."""
        return self._bundle

    @property
    def life(self) -> Lifecycle[Authority]:
        """The X.509 authorities by state, to look at."""
        return self._x509.life

    def all(self) -> list[Authority]:
        """All X.509 authorities, oldest first."""
        return self._x509.life.all()

    @property
    def jwt(self) -> JwtAuthorities:
        """The JWT authorities.  Raises: VST1303."""
        if self._jwt is None:
            raise JWT_SVIDS_DISABLED.error("JWT functionality is disabled")
        return self._jwt

    def jwt_active(self) -> JwtKey | None:
        """The JWT key that signs now; none where there are no JWT-SVIDs."""
        return None if self._jwt is None else self._jwt.life.active

    @property
    def wit(self) -> JwtAuthorities:
        """The WIT authorities.  Raises: VST1312."""
        if self._wit is None:
            raise WIT_SVIDS_DISABLED.error("WIT functionality is disabled")
        return self._wit

    @property
    def _all(self) -> tuple[JwtAuthorities | X509Authorities, ...]:
        return (*self._tokens, self._x509)

    @property
    def _tokens(self) -> tuple[JwtAuthorities, ...]:
        return tuple(each for each in (self._jwt, self._wit) if each is not None)

    @property
    def has_upstream(self) -> bool:
        """Whether an upstream signs the authorities."""
        return self._upstream is not None

    @property
    def upstream_problem(self) -> str | None:
        """Why the upstream is not followed at the moment."""
        return None if self._news is None else self._news.problem

    @property
    def active(self) -> Authority:
        """The authority that signs.  Raises: VST1300."""
        return self.signer.authority

    @property
    def signer(self) -> Signer:
        """The active authority, ready to sign.  Raises: VST1300."""
        return self._x509.signer

    # ------------------------------------------------------------------------------- when it is time

    async def advance(self, *, read_again: bool = False) -> None:
        """Do everything that is due now; ``read_again``, after another server's change of what is kept.

        What fails of it does not keep the rest from being done, as long as there is something to sign with.
        Raises: errors of store, keys, audit and upstream, the last one of several.
        """
        async with self._change():
            if read_again:
                await self._reload()
            await self._do_what_is_due()

    async def _do_what_is_due(self) -> None:
        await self._roots.forget_expired()
        await self._jwt_trust.forget_expired()
        await self._wit_trust.forget_expired()
        await self._appended.forget_expired()
        problem: VestibuleError | None = None
        # Tokens' keys first, so that what is due for all is one change of the bundle.
        for each in self._all:
            try:
                await each.advance()
            except VestibuleError as error:
                if not each.life.can_sign():
                    raise
                problem = error
        if problem is not None:
            raise problem

    async def _rotate(self) -> None:
        while True:
            try:
                await self.advance()
            except (VestibuleError, OSError) as error:
                if self.problem != str(error):  # once: a ceremony, say, may take days
                    _log.error("the authorities cannot advance: %s", error)
                self.problem = str(error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.problem = None
                await self._until_due()

    async def _until_due(self) -> None:
        """Until the next step; anew after every change, which may have moved it."""
        while True:
            seen, due = self._beacon.value, self._next_step()
            if due <= self._clock.now():
                return
            waits = {
                asyncio.create_task(self._clock.sleep_until(due)),
                asyncio.create_task(self._beacon.changed(seen)),
            }
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()

    def _next_step(self) -> datetime:
        return min([*(each.next_step() for each in self._all), *self._appended.ends()])

    def _can_sign(self) -> bool:
        return all(each.life.can_sign() for each in self._all)

    # ----------------------------------------------------------------------------- when it is told to

    async def prepare(self, actor: str = ACTOR) -> Authority:
        """Make the next X.509 authority now.  Raises: as ``advance``."""
        async with self._change():
            return await self._x509.prepare(actor)

    async def activate(self, authority_id: str, actor: str = ACTOR) -> Authority:
        """Let the prepared one sign from now on.  Raises: VST1202, VST1304, VST1305, VST1307."""
        async with self._change():
            return await self._x509.life.activate(authority_id, actor)

    async def taint(self, authority_id: str, actor: str = ACTOR) -> Authority:
        """Have everything that an old one signed replaced.  Raises: VST1202, VST1304, VST1305, VST1306, VST1309."""
        self._check_local("tainted")
        async with self._change():
            return await self._x509.life.taint(authority_id, actor)

    async def revoke(self, authority_id: str, actor: str = ACTOR) -> Authority:
        """Take a tainted one out of the bundle.  Raises: VST1202, VST1304, VST1305, VST1308, VST1309."""
        self._check_local("revoked")
        async with self._change():
            return await self._x509.life.revoke(authority_id, actor)

    async def taint_upstream(self, root_id: str, actor: str = ACTOR) -> str:
        """Have everything below an upstream's root replaced; returns its ID as it is kept.

        Raises: VST1202, VST1305, VST1306, VST1311.
        """
        root_id = self._check_upstream(root_id)
        async with self._change():
            await self._roots.taint(root_id, self.all(), actor)
        return root_id

    async def revoke_upstream(self, root_id: str, actor: str = ACTOR) -> str:
        """Take a tainted root out of the bundle, whatever the upstream says.

        Raises: VST1202, VST1305, VST1306, VST1308, VST1311.
        """
        root_id = self._check_upstream(root_id)
        async with self._change():
            await self._roots.revoke(root_id, self.all(), actor)
        return root_id

    async def prepare_jwt(self, actor: str = ACTOR) -> JwtKey:
        """Make the next JWT key now.  Raises: VST1303, and as ``advance``."""
        async with self._change():
            return await self.jwt.prepare(actor)

    async def activate_jwt(self, key_id: str, actor: str = ACTOR) -> JwtKey:
        """Let the prepared key sign from now on.  Raises: VST1303, VST1202, VST1304, VST1305, VST1307."""
        async with self._change():
            return await self.jwt.life.activate(key_id, actor)

    async def taint_jwt(self, key_id: str, actor: str = ACTOR) -> JwtKey | PublishedJwtKey:
        """Have the tokens of an old key dropped, or of one that a server below published.

        Raises: VST1303, VST1202, VST1304, VST1305, VST1306.
        """
        return await self._step_token(self._jwt_trust, lambda: self.jwt, Step.TAINT, key_id, actor)

    async def revoke_jwt(self, key_id: str, actor: str = ACTOR) -> JwtKey | PublishedJwtKey:
        """Take a tainted key out of the bundle, ours or one that a server below published.

        Raises: VST1303, VST1202, VST1304, VST1305, VST1308.
        """
        return await self._step_token(self._jwt_trust, lambda: self.jwt, Step.REVOKE, key_id, actor)

    async def _step_token(
        self, trust: JwtTrust, own: Callable[[], JwtAuthorities], step: Step, key_id: str, actor: str
    ) -> JwtKey | PublishedJwtKey:
        async with self._change():
            if trust.knows(key_id):
                moved: JwtKey | PublishedJwtKey = await trust.step(step, key_id, actor)
            elif step is Step.TAINT:
                moved = await own().life.taint(key_id, actor)
            else:
                moved = await own().life.revoke(key_id, actor)
            try:
                await trust.reconcile()
            except VestibuleError as error:
                # It is done here; the server above is told again with its next news.
                _log.warning(
                    "the server above was not told of the %s of key %s: %s", step.value, key_id, error
                )
        return moved

    async def publish_jwt(self, key: JwtAuthority, publisher: SpiffeId) -> tuple[JwtAuthority, ...]:
        """Take the key of a server below into the bundle; returns all of its keys.

        Raises: VST1313, VST1314, VST1315, errors of audit, store and upstream.
        """
        async with self._change():
            others = (*self._bundle.wit_authorities, *self._appended.namesakes(key))
            await self._jwt_trust.publish(key, publisher, others)
        return self._bundle.jwt_authorities

    async def prepare_wit(self, actor: str = ACTOR) -> JwtKey:
        """Make the next WIT key now.  Raises: VST1312, and as ``advance``."""
        async with self._change():
            return await self.wit.prepare(actor)

    async def activate_wit(self, key_id: str, actor: str = ACTOR) -> JwtKey:
        """Let the prepared key sign from now on.  Raises: VST1312, VST1202, VST1304, VST1305, VST1307."""
        async with self._change():
            return await self.wit.life.activate(key_id, actor)

    async def taint_wit(self, key_id: str, actor: str = ACTOR) -> JwtKey | PublishedJwtKey:
        """Have the tokens of an old key replaced.  Raises: VST1312, VST1202, VST1304, VST1305, VST1306."""
        own = self.wit
        return await self._step_token(self._wit_trust, lambda: own, Step.TAINT, key_id, actor)

    async def revoke_wit(self, key_id: str, actor: str = ACTOR) -> JwtKey | PublishedJwtKey:
        """Take a tainted key out of the bundle.  Raises: VST1312, VST1202, VST1304, VST1305, VST1308."""
        own = self.wit
        return await self._step_token(self._wit_trust, lambda: own, Step.REVOKE, key_id, actor)

    async def publish_wit(self, key: JwtAuthority, publisher: SpiffeId) -> tuple[JwtAuthority, ...]:
        """Take the WIT key of a server below into the bundle; returns all of its WIT keys.

        Raises: VST1312, VST1313, VST1314, VST1315, errors of audit, store and upstream.
        """
        self.wit  # noqa: B018 - only where there are WIT-SVIDs
        async with self._change():
            others = (*self._bundle.jwt_authorities, *self._appended.namesakes(key))
            await self._wit_trust.publish(key, publisher, others)
        return self._bundle.wit_authorities

    async def append(
        self,
        x509: Sequence[bytes],
        jwt: Sequence[JwtAuthority],
        wit: Sequence[JwtAuthority] = (),
        actor: str = ACTOR,
    ) -> TrustBundle:
        """Put authorities of elsewhere into the bundle, until they end; returns the bundle.

        Raises: VST1202, VST1005, VST1316; VST1312 for a WIT key where there are none; errors of audit and store.
        """
        if wit:
            self.wit  # noqa: B018 - only where there are WIT-SVIDs
        async with self._change():
            await self._appended.append(x509, jwt, wit, self._bundle, self._was_revoked, actor)
        return self._bundle

    def appended(self) -> list[AppendedAuthority]:
        """What was appended, and is not over."""
        return self._appended.all()

    async def withdraw(self, appended_id: str, actor: str = ACTOR) -> None:
        """Take what was appended out of the bundle again, if it is there.  Raises: errors of audit and store."""
        async with self._change():
            await self._appended.withdraw(appended_id, actor)

    def _was_revoked(self, key_id: str) -> bool:
        """Whether the one of this ID must not come back; X.509 authorities are known by their subject key ID."""
        trusts = (self._jwt_trust, self._wit_trust)
        own = any(each.id == key_id and each.state is AuthorityState.REVOKED for each in self.all())
        return own or self._roots.is_marked(key_id) or any(each.is_revoked(key_id) for each in trusts)

    def _check_local(self, what: str) -> None:
        if self._upstream is not None:
            raise UPSTREAM_IN_CHARGE.error(
                f"local authority can't be {what} if there is an upstream authority"
            )

    def _check_upstream(self, root_id: str) -> str:
        if self._upstream is None:
            raise NO_UPSTREAM.error("upstream authority is not configured")
        return root_id.lower()

    # ---------------------------------------------------------------------------- what the upstream says

    async def _take(self, bundle: TrustBundle, tells_all: bool) -> None:
        """New roots go into the bundle; if the active authority's own is among them no more, it is replaced.

        In this order: whoever learns that a root is tainted, and asks for another SVID, must not get one below it.
        """
        async with self._change():
            self._roots.take(bundle.x509_authorities, bundle.tainted_x509 if tells_all else None)
            if tells_all:
                self._jwt_trust.take(bundle.jwt_authorities)
                self._wit_trust.take(bundle.wit_authorities)
                await self._jwt_trust.reconcile()
                await self._wit_trust.reconcile()
            await self._do_what_is_due()

    # ------------------------------------------------------------------ what other servers of the database do

    async def _follow_others(self) -> None:
        async for _ in self._changes:
            try:
                await self.advance(read_again=True)
            except (VestibuleError, OSError) as error:
                # The feed tells of everything again when the database is back.
                _log.error("cannot follow the other servers: %s", error)

    async def _reload(self) -> None:
        # The bundle first: whoever changed an authority after this has yet to change the bundle, and we would see it.
        kept = await self._store.bundles.get(self._trust_domain)
        await self._x509.life.reload()
        await self._roots.start()
        await self._jwt_trust.start()
        await self._wit_trust.start()
        await self._appended.start()
        for each in self._tokens:
            await each.life.reload()
        if kept is not None and kept != self._bundle:
            self._bundle = kept
            self._beacon.advance()

    # ------------------------------------------------------------------------------------- the bundle

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[None]:
        """One change, with the bundle and the signers that it leads to: also those of a change that failed halfway."""
        async with self._one_change:
            try:
                yield
            finally:
                while not await self._publish_bundle():
                    await self._reload()
                if await self._x509.settle():
                    self._beacon.advance()
                for each in self._tokens:
                    await each.settle()

    async def _publish_bundle(self) -> bool:
        """Keep and tell the bundle that follows from the authorities, if it is another one than before.

        Not if another server was first: then what it has changed has to be read before.
        """
        own, before = self.all(), self._bundle
        rest, appended = self._appended.without(before), self._appended
        roots, tainted = self._roots.published(rest.x509_authorities, own, self.has_upstream)
        jwt, wit = self._jwt_trust, self._wit_trust
        bundle = composed(
            before,
            own,
            ([*roots, *appended.certificates()], tainted),
            appended.beside(jwt.published(rest), AppendedKind.JWT, jwt.is_revoked),
            appended.beside(wit.published(rest), AppendedKind.WIT, wit.is_revoked),
            refresh_hint=int(refresh_hint(self._ca_ttl).total_seconds()),
        )
        if bundle == before:
            return True

        def succeed(kept: TrustBundle | None) -> TrustBundle | None:
            return bundle if (kept.sequence if kept else 0) == before.sequence else None

        if await self._store.bundles.revise(self._trust_domain, succeed) is None:
            return False
        self._bundle = bundle
        self._beacon.advance()
        return True


__all__ = ["DEFAULT_CA_TTL", "Authorities", "Signer", "activate_at", "prepare_at"]
