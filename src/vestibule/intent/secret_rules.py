"""Rules for secrets, from ``secrets/NAME.yaml`` to the model."""

from __future__ import annotations

from typing import Final

from vestibule.intent import codes, secret_keys, service_keys
from vestibule.intent.granting import refuse_repeats
from vestibule.intent.group_rules import Kind, Meant, build_rules
from vestibule.intent.nodes import START
from vestibule.intent.problems import Findings, Severity, nearest
from vestibule.intent.redundancy import refuse_redundant_paths
from vestibule.intent.resolving import Names
from vestibule.intent.secret_groups import USED_IN, SecretGroup
from vestibule.intent.secret_paths import MOUNTS, SecretPath, unknown_below
from vestibule.intent.shapes import At, Fields
from vestibule.policy import Effect


def build_secrets(name: str, fields: Fields, names: Names, findings: Findings) -> SecretGroup:
    """The group; rules in error are left out."""
    allow, deny = fields.get(secret_keys.SECRET_ALLOW), fields.get(secret_keys.SECRET_DENY)
    refuse_repeats((allow, deny), findings)
    return SecretGroup(
        name=name,
        allow=tuple(rule for _, rule in build_rules(name, allow, _ALLOW, names, findings)),
        deny=tuple(rule for _, rule in build_rules(name, deny, _DENY, names, findings)),
        owner=fields.value(service_keys.OWNER, None),
        where=findings.where(START),
    )


def _meant(fields: Fields, findings: Findings) -> Meant | None:
    may, paths = fields.get(secret_keys.MAY), fields.get(secret_keys.SECRET_PATHS)
    if paths is None:
        return None
    refuse_redundant_paths(paths.value, findings)
    if may:
        _check_use(may.value, paths.value, findings)
    _warn_of_unasked(paths.value, findings)
    return Meant(
        methods=frozenset(each.value for each in may.value) if may else frozenset(),
        paths=tuple(each.value for each in paths.value),
    )


_ALLOW: Final = Kind(record=secret_keys.SECRET_RULE, effect=Effect.ALLOW, read=_meant)
_DENY: Final = Kind(record=secret_keys.SECRET_DENIAL, effect=Effect.DENY, read=_meant)


def _check_use(may: tuple[At[str], ...], paths: tuple[At[SecretPath], ...], findings: Findings) -> None:
    """Only keys are used; what is said of others means nothing."""
    use = next((each for each in may if each.value == "use"), None)
    if use is not None and not any(each.value.mount == USED_IN for each in paths):
        message = f"only keys in {USED_IN}/ are used, and none of the paths is there"
        findings.add(codes.NO_EFFECT, message, use.at, advice="Remove `use`, or write `read`.")


def _warn_of_unasked(paths: tuple[At[SecretPath], ...], findings: Findings) -> None:
    for each in paths:
        if (unknown := unknown_below(each.value)) is not None:
            close = nearest(unknown, MOUNTS[each.value.mount])
            advice = f"Did you mean {each.value.mount}/{close}?" if close else None
            message = f"{each.value.mount}/ has nothing that is called {unknown!r}"
            findings.add(
                codes.SECRET_PATH_UNASKED, message, each.at, advice=advice, severity=Severity.WARNING
            )
