"""Whom to talk to.  An authorizer is asked after the peer has proved its SPIFFE ID, never instead of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeAlias

from vestibule.sdk.codes import MALFORMED_PATTERN
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.spiffe.ids import SCHEME

Authorizer: TypeAlias = Callable[[SpiffeId], bool]
"""Says whether a peer with this ID is welcome: by ``True``, and nothing else.

Its ``str`` is shown to whoever looks into a refusal.
"""


def is_wanted(authorize: Authorizer, spiffe_id: SpiffeId) -> bool:
    """What an authorizer says.  What is not exactly yes is no: what an ``async def`` returns would be "true"."""
    said: object = authorize(spiffe_id)
    if inspect.iscoroutine(said):
        said.close()
    return said is True


class _Wanted:
    """An authorizer, and how it is shown."""

    __slots__ = ("_wants", "_whom")

    def __init__(self, wants: Authorizer, whom: str) -> None:
        self._wants = wants
        self._whom = whom

    def __call__(self, spiffe_id: SpiffeId) -> bool:
        return is_wanted(self._wants, spiffe_id)

    def __str__(self) -> str:
        return self._whom


def authorize_ids(*ids: SpiffeId | str) -> Authorizer:
    """Exactly these IDs, at least one.  Raises: VST1400 for a text that is none; ValueError for none at all."""
    if not ids:
        raise ValueError("an authorizer without any ID would refuse everybody")
    wanted = frozenset(SpiffeId.parse(each) if isinstance(each, str) else each for each in ids)
    return _Wanted(wanted.__contains__, ", ".join(sorted(map(str, wanted))))


def authorize_member_of(trust_domain: TrustDomain | str) -> Authorizer:
    """Every workload of one trust domain.  Raises: VST1400."""
    wanted = TrustDomain.parse(str(trust_domain))
    return _Wanted(lambda each: each.trust_domain == wanted, f"members of {wanted}")


def authorize_paths(*patterns: str) -> Authorizer:
    """IDs that look like one of these, segment by segment: ``spiffe://example.org/ns/*/sa/payments``.

    ``*`` stands for one whole segment; ``/**`` at the end for what stands before it and everything below, as in the
    rules of the intent.  Raises: VST2416, VST1400; ValueError for none at all.
    """
    if not patterns:
        raise ValueError("an authorizer without any pattern would refuse everybody")
    return authorize_any_of(*map(_path, patterns))


def authorize_any_of(*authorizers: Authorizer) -> Authorizer:
    """Whom any of these wants.  Raises: ValueError for none at all."""
    if not authorizers:
        raise ValueError("an authorizer of none would refuse everybody")
    if len(authorizers) == 1:
        return authorizers[0]
    whom = ", ".join(map(str, authorizers))
    return _Wanted(lambda spiffe_id: any(is_wanted(each, spiffe_id) for each in authorizers), whom)


def authorize_if(function: Authorizer, whom: str) -> Authorizer:
    """Whom ``function`` returns True for; ``whom`` tells it to whoever looks into a refusal."""
    return _Wanted(function, whom)


def _path(text: str) -> Authorizer:
    """One pattern.  Raises: VST2416, VST1400."""
    trust_domain, segments, below = _read(text)

    def wants(spiffe_id: SpiffeId) -> bool:
        found = spiffe_id.path.split("/")[1:]
        if spiffe_id.trust_domain != trust_domain or len(found) < len(segments):
            return False
        if len(found) > len(segments) and not below:
            return False
        return all(want in ("*", have) for want, have in zip(segments, found, strict=False))

    return _Wanted(wants, "/".join([str(trust_domain.id), *segments, *(["**"] if below else [])]))


def _read(text: str) -> tuple[TrustDomain, list[str], bool]:
    """The segments of a pattern, and whether what is below is meant, too."""
    if text[: len(SCHEME)].lower() != SCHEME:
        raise MALFORMED_PATTERN.error(f"{text[:120]!r} does not start with {SCHEME}")
    domain, _, path = text[len(SCHEME) :].partition("/")
    segments = path.split("/") if path else []
    if not segments:
        raise MALFORMED_PATTERN.error(f"{text[:120]!r} has no path, so it is not the pattern of a workload")
    if below := segments[-1] == "**":
        segments.pop()
    # What is left has to be an ID once something stands for each star.
    trust_domain = TrustDomain.parse(domain)
    SpiffeId.of(trust_domain, "".join(f"/{'x' if each == '*' else each}" for each in segments))
    return trust_domain, segments, below
