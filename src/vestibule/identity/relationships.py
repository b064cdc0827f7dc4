"""Federation relationships: with whom, and where their bundles are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias
from urllib.parse import SplitResult, urlsplit

from vestibule.audit import Audit, AuditEvent, Detail
from vestibule.errors import VestibuleError
from vestibule.identity.beacon import Beacon
from vestibule.identity.codes import INVALID_RELATIONSHIP
from vestibule.identity.federated_bundles import FederatedBundles, bundle_event
from vestibule.identity.foreign_bundles import check_foreign_bundle, foreign
from vestibule.records import FederationRelationship
from vestibule.spiffe import TrustBundle, TrustDomain
from vestibule.store import Page, Store
from vestibule.store.codes import NO_SUCH_RELATIONSHIP

MAX_URL: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A relationship that somebody wants, and perhaps its trust domain's bundle to begin with."""

    relationship: FederationRelationship
    bundle: TrustBundle | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationshipPatch:
    """Changes of a relationship; a bundle of ``None`` leaves the kept one."""

    trust_domain: TrustDomain
    change: Callable[[FederationRelationship], FederationRelationship]
    bundle: TrustBundle | None = None


Result: TypeAlias = FederationRelationship | VestibuleError


def check_relationship(relationship: FederationRelationship, own: TrustDomain) -> FederationRelationship:
    """The relationship, if it may be kept: with somebody else, at a valid endpoint URL.  Raises: VST1231, VST1234."""
    foreign(relationship.trust_domain, own)
    endpoint_url(relationship.bundle_endpoint_url)
    return relationship


def endpoint_url(text: str) -> SplitResult:
    """An endpoint's URL in parts: https, a host, no user, no password (sections 5.2.1.1, 5.2.2.1).  Raises: VST1234."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise INVALID_RELATIONSHIP.error(f"failed to parse bundle endpoint URL: {error}") from error
    if len(text) > MAX_URL or not text.isascii() or any(each <= " " or each == "\x7f" for each in text):
        raise INVALID_RELATIONSHIP.error(
            "the bundle endpoint URL is too long or has characters that no URL has"
        )
    if url.scheme != "https":
        raise INVALID_RELATIONSHIP.error("bundle endpoint URL must use the https scheme")
    if not url.hostname or port == 0:
        raise INVALID_RELATIONSHIP.error("bundle endpoint URL must specify the host")
    if "@" in url.netloc:
        raise INVALID_RELATIONSHIP.error("bundle endpoint URL must not contain user info")
    return url


class Relationships:
    """Keeps them: checked, then recorded, then done."""

    def __init__(
        self, store: Store, bundles: FederatedBundles, audit: Audit, own: Callable[[], TrustBundle]
    ) -> None:
        """``own`` is the bundle of our own trust domain, now."""
        self._store = store
        self._bundles = bundles
        self._audit = audit
        self._own = own
        self.changing = asyncio.Lock()
        """Held while a relationship is changed; and while a bundle is taken, which relies on its relationship."""
        self.changed = Beacon()

    async def get(self, trust_domain: TrustDomain) -> FederationRelationship:
        """The relationship with a trust domain.  Raises: VST8033."""
        found = await self._store.relationships.get(trust_domain)
        if found is None:
            raise NO_SUCH_RELATIONSHIP.error("federation relationship does not exist")
        return found

    async def page(self, size: int, token: str) -> Page[FederationRelationship]:
        """A part of the relationships; a ``size`` of 0 asks for all."""
        return await self._store.relationships.page(size, token)

    async def create(self, actor: str, wanted: Sequence[Given | VestibuleError]) -> list[Result]:
        """Keep new relationships, with their bundles if given; an error stands in the place of one that is refused."""
        return [await self._create(actor, each) for each in wanted]

    async def update(self, actor: str, patches: Sequence[RelationshipPatch | VestibuleError]) -> list[Result]:
        """Change relationships; an error stands in the place of one that is refused."""
        return [await self._update(actor, each) for each in patches]

    async def delete(
        self, actor: str, trust_domains: Sequence[TrustDomain | VestibuleError]
    ) -> list[VestibuleError | None]:
        """Forget relationships.  Their trust domains' bundles stay, as they are, until they are deleted, too."""
        return [await self._delete(actor, each) for each in trust_domains]

    async def _create(self, actor: str, wanted: Given | VestibuleError) -> Result:
        action = "federation.create"
        try:
            given = self._checked(wanted)
            await self._audit.record([_event(actor, action, given.relationship, given.bundle)])
            async with self.changing:
                await self._store.relationships.create(given.relationship, given.bundle)
        except VestibuleError as error:
            return await self._refused(actor, action, wanted, error)
        await self._told(given.bundle)
        return given.relationship

    async def _update(self, actor: str, patch: RelationshipPatch | VestibuleError) -> Result:
        action = "federation.update"
        try:
            if isinstance(patch, VestibuleError):
                raise patch
            now = await self.get(patch.trust_domain)
            given = self._checked(Given(relationship=patch.change(now), bundle=patch.bundle))
            await self._audit.record([_event(actor, action, given.relationship, given.bundle)])

            def change(kept: FederationRelationship) -> FederationRelationship:
                return check_relationship(patch.change(kept), self._own().trust_domain)

            async with self.changing:
                revised = await self._store.relationships.revise(patch.trust_domain, change, given.bundle)
        except VestibuleError as error:
            return await self._refused(actor, action, patch, error)
        await self._told(given.bundle)
        return revised

    async def _delete(self, actor: str, domain: TrustDomain | VestibuleError) -> VestibuleError | None:
        if isinstance(domain, VestibuleError):
            return domain
        event = AuditEvent(actor=actor, action="federation.delete", subject=str(domain.id))
        await self._audit.record([event])
        async with self.changing:
            known = await self._store.relationships.delete(domain)
        self.changed.advance()
        return None if known else NO_SUCH_RELATIONSHIP.error("federation relationship not found")

    def _checked(self, wanted: Given | VestibuleError) -> Given:
        if isinstance(wanted, VestibuleError):
            raise wanted
        own = self._own()
        check_relationship(wanted.relationship, own.trust_domain)
        bundle = wanted.bundle
        if bundle is None:
            return wanted
        if bundle.trust_domain != wanted.relationship.trust_domain:
            raise INVALID_RELATIONSHIP.error(
                f"trust domain bundle ({bundle.trust_domain}) must match the trust domain of the federation "
                f"relationship ({wanted.relationship.trust_domain})"
            )
        return replace(wanted, bundle=check_foreign_bundle(bundle, own))

    async def _refused(
        self, actor: str, action: str, what: Given | RelationshipPatch | VestibuleError, error: VestibuleError
    ) -> VestibuleError:
        subject = "relationship"
        if isinstance(what, Given):
            subject = str(what.relationship.trust_domain.id)
        elif isinstance(what, RelationshipPatch):
            subject = str(what.trust_domain.id)
        details: dict[str, Detail] = {"error": error.message}
        await self._audit.record(
            [
                AuditEvent(
                    actor=actor, action=action, subject=subject, outcome=error.code.code, details=details
                )
            ]
        )
        return error

    async def _told(self, bundle: TrustBundle | None) -> None:
        if bundle is not None:
            await self._bundles.refresh()
        self.changed.advance()


def _event(
    actor: str, action: str, relationship: FederationRelationship, bundle: TrustBundle | None
) -> AuditEvent:
    endpoint = relationship.endpoint_spiffe_id
    details: dict[str, Detail] = {
        "bundle_endpoint_url": relationship.bundle_endpoint_url,
        "profile": relationship.profile.value,
        **({"endpoint_spiffe_id": str(endpoint)} if endpoint else {}),
    }
    if bundle is not None:
        details |= dict(bundle_event(actor, action, bundle).details)
    return AuditEvent(actor=actor, action=action, subject=str(relationship.trust_domain.id), details=details)
