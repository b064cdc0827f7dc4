"""Rules for tokens, from ``tokens/NAME.yaml`` to the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import MappingProxyType
from typing import Any, Final

from vestibule.intent import codes, service_keys, token_keys
from vestibule.intent.documents import Declared
from vestibule.intent.granting import refuse_repeats
from vestibule.intent.group_rules import KNOWN, Kind, Meant, build_rules
from vestibule.intent.nodes import START, Position
from vestibule.intent.problems import Findings
from vestibule.intent.resolving import Names, advice, matches_of, resolve_callers
from vestibule.intent.shapes import At, Fields, Key
from vestibule.intent.token_groups import (
    ADMIT,
    DEFAULT_DEPTH,
    DEFAULT_LASTS,
    EXCHANGE,
    MINT,
    TokenGroup,
    TokenTerms,
)
from vestibule.intent.token_targets import pattern_of
from vestibule.intent.words import RoleCaller
from vestibule.policy import Effect, IdentityMatch, PathPattern
from vestibule.policy.vocabulary import TOKEN
from vestibule.spiffe import SpiffeId

_OF_NEW_TOKENS: Final = (token_keys.LASTS, token_keys.BINDING, token_keys.MAY_ACT)


def build_tokens(name: str, fields: Fields, names: Names, findings: Findings) -> TokenGroup:
    """The group; rules in error are left out."""
    allow, deny = fields.get(token_keys.TOKENS_ALLOW), fields.get(token_keys.TOKENS_DENY)
    refuse_repeats((allow, deny), findings)
    read = _Reading(fields, names)
    permissions = Kind(
        record=token_keys.TOKENS_RULE,
        effect=Effect.ALLOW,
        read=read.permission,
        alike=lambda one, other: _terms(one, names) == _terms(other, names),
    )
    denials = Kind(record=token_keys.TOKENS_DENIAL, effect=Effect.DENY, read=read.denial)
    allowed = build_rules(name, allow, permissions, names, findings)
    denied = build_rules(name, deny, denials, names, findings)
    terms = {rule.name: _terms(item.value, names) for item, rule in allowed}
    return TokenGroup(
        name=name,
        audiences=tuple(read.audiences),
        scopes=tuple(read.scopes),
        made_for=_made_for(name, fields, names, findings),
        depth=fields.value(token_keys.DEPTH, DEFAULT_DEPTH),
        allow=tuple(rule for _, rule in allowed),
        deny=tuple(rule for _, rule in denied),
        terms=MappingProxyType(terms),
        owner=fields.value(service_keys.OWNER, None),
        where=findings.where(START),
    )


def refuse_shared_audiences(declared: Iterable[Declared]) -> None:
    """An audience is of one group: whoever owns the file says all that there is to say of it."""
    first: dict[str, str] = {}
    for each in declared:
        audiences = each.fields.get(token_keys.AUDIENCES) if each.fields else None
        for audience in audiences.value if audiences else ():
            if first.setdefault(audience.value, each.name) != each.name:
                message = f"the audience {audience.value!r} is in the group {first[audience.value]!r} already"
                fix = "Keep it in one of the two: all rules for an audience stand in one file."
                each.findings.add(codes.DUPLICATE_ITEM, message, audience.at, advice=fix)


def _made_for(name: str, fields: Fields, names: Names, findings: Findings) -> tuple[IdentityMatch, ...]:
    said = fields.get(token_keys.FOR)
    if said is not None:
        return resolve_callers(said.value, names, findings)
    own = names.services.get(name)
    return () if own is None or fields.place(token_keys.FOR) else (IdentityMatch(id=own),)


def _terms(fields: Fields, names: Names) -> TokenTerms:
    return TokenTerms(
        lasts=fields.value(token_keys.LASTS, DEFAULT_LASTS),
        may_act=_may_act(fields, names, Findings("")),
        certificate=fields.value(token_keys.BINDING, False),
    )


def _may_act(fields: Fields, names: Names, findings: Findings) -> SpiffeId | None:
    """One identity, always the same: it is written into tokens."""
    said = fields.get(token_keys.MAY_ACT)
    if said is None:
        return None
    found = () if isinstance(said.value, RoleCaller) else matches_of(said, names, findings)
    if isinstance(said.value, RoleCaller) or any(each.below for each in found):
        message = "may_act names one identity, and this stands for several"
        findings.add(
            codes.MALFORMED_VALUE, message, said.at, advice="Name a service, or write its SPIFFE ID."
        )
        return None
    return found[0].id if found else None


class _Reading:
    """Reads what the rules of one group are about."""

    def __init__(self, fields: Fields, names: Names) -> None:
        self._names = names
        audiences, scopes = fields.get(token_keys.AUDIENCES), fields.get(token_keys.GROUP_SCOPES)
        self.audiences = [each.value for each in audiences.value] if audiences else []
        self.scopes = [each.value for each in scopes.value] if scopes else []
        # What is wrong with them has been noted; nothing that refers to them is called unknown then.
        self._known = (scopes is None and not fields.place(token_keys.GROUP_SCOPES)) or bool(
            scopes and scopes.whole
        )

    def permission(self, fields: Fields, findings: Findings) -> Meant | None:
        """What a rule under ``allow`` gives."""
        may, scopes = fields.get(token_keys.MAY), self._scopes(fields, token_keys.RULE_SCOPES, findings)
        if may is None:
            return None
        verbs = [each.value for each in may.value]
        if set(verbs) == {EXCHANGE}:
            self._refuse(fields, _OF_NEW_TOKENS, "a rule that only lets tokens be given", findings)
        elif not fields.place(token_keys.RULE_SCOPES) and self.scopes:
            message = "the rule does not say which scopes"
            fix = (
                f"Add scopes: [{', '.join(self.scopes[:5])}], those that are needed; or scopes: [] for none."
            )
            findings.add(codes.MISSING_KEY, message, may.at, advice=fix)
        if ADMIT in verbs and not fields.place(token_keys.FROM_ISSUERS):
            message = "the rule does not say whose tokens are admitted"
            findings.add(
                codes.MISSING_KEY, message, may.at, advice="Add issuers: a name of mesh.yaml's issuers."
            )
        _may_act(fields, self._names, findings)
        listed = bool(fields.place(token_keys.RULE_SCOPES)) or not self.scopes
        return self._meant(fields, verbs, self._paths(scopes) if listed else self._paths(None), findings)

    def denial(self, fields: Fields, findings: Findings) -> Meant | None:
        """What a rule under ``deny`` takes."""
        may, scopes = fields.get(token_keys.NOT), self._scopes(fields, token_keys.DENIED_SCOPES, findings)
        verbs = [each.value for each in may.value] if may else []
        paths = self._paths(None)
        if fields.place(token_keys.DENIED_SCOPES):
            paths = tuple(pattern_of(one, scope) for one in self.audiences for scope in scopes)
        return self._meant(fields, verbs, paths, findings)

    def _meant(
        self, fields: Fields, verbs: list[str], paths: tuple[PathPattern, ...], findings: Findings
    ) -> Meant | None:
        methods = {each for each in verbs if each != ADMIT}
        if ADMIT in verbs:
            methods.update(f"{ADMIT}:{name}" for name in self._issuers(fields, findings))
        elif fields.place(token_keys.FROM_ISSUERS):
            self._refuse(
                fields, (token_keys.FROM_ISSUERS,), "a rule that does not say may: [admit]", findings
            )
        if verbs and not methods:
            return None
        # Whoever mints has given no token.
        known = KNOWN if MINT in verbs or not verbs else KNOWN | TOKEN
        return Meant(methods=frozenset(methods), paths=paths, known=known)

    def _paths(self, scopes: list[str] | None) -> tuple[PathPattern, ...]:
        """Of tokens with no scope or some of these; with None, of all."""
        if scopes is None:
            return tuple(pattern_of(each, below=True) for each in self.audiences)
        return tuple(pattern_of(each, scope) for each in self.audiences for scope in ("", *scopes))

    def _scopes(self, fields: Fields, key: Key[tuple[At[str], ...]], findings: Findings) -> list[str]:
        said = fields.get(key)
        for each in said.value if said and self._known else ():
            if each.value not in self.scopes:
                message = f"the group has no scope {each.value!r}"
                fix = advice(each.value, self.scopes, "scopes")
                findings.add(codes.UNKNOWN_NAME, message, each.at, advice=fix)
        return [each.value for each in said.value] if said else []

    def _issuers(self, fields: Fields, findings: Findings) -> list[str]:
        said, known = fields.get(token_keys.FROM_ISSUERS), self._names.issuers
        if known is None:
            return []
        outside = [name for name, kind in known.items() if kind.is_outside]
        if said is None:
            return [] if fields.place(token_keys.FROM_ISSUERS) else outside or [""]
        for each in said.value:
            if each.value not in outside:
                own = each.value in known
                message = (
                    f"the tokens of {each.value!r} are the mesh's own, and are exchanged"
                    if own
                    else f"there is no issuer {each.value!r} in mesh.yaml"
                )
                fix = "Write may: [receive]." if own else advice(each.value, outside, "issuers")
                findings.add(codes.UNKNOWN_NAME, message, each.at, advice=fix)
        return [each.value for each in said.value]

    def _refuse(self, fields: Fields, keys: Iterable[Key[Any]], what: str, findings: Findings) -> None:
        for place, name in self._written(fields, keys):
            findings.add(codes.NO_EFFECT, f"{name} means nothing in {what}", place)

    @staticmethod
    def _written(fields: Fields, keys: Iterable[Key[Any]]) -> Iterator[tuple[Position, str]]:
        for key in keys:
            if (place := fields.place(key)) is not None:
                yield place, key.name
