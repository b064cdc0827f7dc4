"""The roots of an upstream authority: what it says they are, and which of them are tainted or revoked here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from vestibule.audit import Audit, AuditEvent
from vestibule.clock import Clock
from vestibule.identity.codes import AUTHORITY_IN_USE, AUTHORITY_NOT_OLD, MISSING_PARAMETER
from vestibule.identity.lifecycle import Step, after
from vestibule.pki.certificates import load_certificate, subject_key_id
from vestibule.records import Authority, AuthorityState, UpstreamRoot
from vestibule.store import Store


class Roots:
    """Knows the roots of now.  Until the upstream has answered, they are those of the bundle that was kept."""

    def __init__(self, store: Store, audit: Audit, clock: Clock) -> None:
        self._kept = store.upstream_roots
        self._audit = audit
        self._clock = clock
        self._marks: dict[str, UpstreamRoot] = {}
        self._latest: dict[bytes, str] | None = None
        self._tainted: frozenset[bytes] = frozenset()

    async def start(self) -> None:
        """Read what is kept."""
        self._marks = {mark.id: mark for mark in await self._kept.all()}

    def take(self, roots: Sequence[bytes], tainted: frozenset[bytes] | None = None) -> None:
        """What the upstream says; without ``tainted`` it does not say which are."""
        self._latest = {der: subject_key_id(load_certificate(der)) for der in roots}
        if tainted is not None:
            self._tainted = tainted

    def is_distrusted(self, root_id: str) -> bool:
        """Whether nothing new should lead to this root: it is tainted or revoked here or above, or it is gone."""
        if not root_id:
            return False
        if root_id in self._marks:
            return True
        if self._latest is None:
            return False
        found = [der for der, each in self._latest.items() if each == root_id]
        return not found or any(der in self._tainted for der in found)

    def is_marked(self, root_id: str) -> bool:
        """Whether it was tainted or revoked here."""
        return root_id in self._marks

    def published(
        self, before: Sequence[bytes], own: Sequence[Authority], below_upstream: bool
    ) -> tuple[list[bytes], set[bytes]]:
        """The roots that belong in the bundle, and those of them that are tainted.

        ``before`` is what was in it until now, ``own`` are this server's authorities.
        """
        found = self._latest if below_upstream else None
        if found is None:
            found = dict(self._of_before(before, own, below_upstream))
        states = {der: self._marks[each].state for der, each in found.items() if each in self._marks}
        roots = [der for der in found if states.get(der) is not AuthorityState.REVOKED]
        tainted = {der for der in roots if der in states or (below_upstream and der in self._tainted)}
        return roots, tainted

    def _of_before(
        self, before: Sequence[bytes], own: Sequence[Authority], below_upstream: bool
    ) -> Iterable[tuple[bytes, str]]:
        """Without an upstream's word: what is still needed of what there was."""
        ours = {authority.chain[0] for authority in own if not authority.upstream_authority_id}
        needed = {authority.upstream_authority_id for authority in own}
        for der in before:
            certificate = load_certificate(der)
            root_id = subject_key_id(certificate)
            lasts = certificate.not_valid_after_utc > self._clock.now()
            if der not in ours and lasts and (below_upstream or root_id in needed):
                yield der, root_id

    # ------------------------------------------------------------------------- tainted and revoked here

    async def taint(self, root_id: str, authorities: Sequence[Authority], actor: str) -> None:
        """Taint the root at the end of an old authority.  Raises: VST1202, VST1305, VST1306."""
        await self._mark(Step.TAINT, root_id, authorities, actor)

    async def revoke(self, root_id: str, authorities: Sequence[Authority], actor: str) -> None:
        """Take a tainted root out of the bundle.  Raises: VST1202, VST1305, VST1306, VST1308."""
        await self._mark(Step.REVOKE, root_id, authorities, actor)

    async def _mark(self, step: Step, root_id: str, authorities: Sequence[Authority], actor: str) -> None:
        """1. A root is named.  2. Nothing that signs, or signs next, leads to it.  3. Something old does.

        4. Its own state allows the step.
        """
        if not root_id:  # 1
            raise MISSING_PARAMETER.error("no subject key ID provided")
        below = [each for each in authorities if each.upstream_authority_id == root_id]
        states = {each.state for each in below}
        if AuthorityState.ACTIVE in states:  # 2
            raise AUTHORITY_IN_USE.error("this upstream authority signed the authority that signs now")
        if AuthorityState.PREPARED in states:
            raise AUTHORITY_NOT_OLD.error(
                "only upstream authorities that signed an old authority can be used"
            )
        if not below:  # 3
            raise AUTHORITY_NOT_OLD.error("no old authority was signed by this upstream authority")
        mark = self._marks.get(root_id)
        state = after(root_id, mark.state if mark else AuthorityState.OLD, step)  # 4
        event = AuditEvent(
            actor=actor,
            action=f"upstream-authority.{step.value}",
            subject=root_id,
            details={"authorities": sorted(each.id for each in below)},
        )
        await self._audit.record([event])
        moved = UpstreamRoot(
            id=root_id,
            state=state,
            not_before=min(each.not_before for each in below),
            not_after=self._end_of(root_id, max(each.not_after for each in below)),
        )
        await self._kept.put(moved)
        self._marks[root_id] = moved

    def _end_of(self, root_id: str, otherwise: datetime) -> datetime:
        """The end of the root itself: as long as an upstream might name it again, we know better."""
        for der, each in (self._latest or {}).items():
            if each == root_id:
                return load_certificate(der).not_valid_after_utc
        return otherwise

    async def forget_expired(self) -> None:
        """Forget marks of roots that are over."""
        now = self._clock.now()
        for mark in list(self._marks.values()):
            if mark.not_after <= now:
                await self._kept.delete(mark.id)
                del self._marks[mark.id]
