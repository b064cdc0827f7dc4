"""What ``validate`` finds in an intent, for each of its environments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vestibule.cli.intent_places import Place, directory_place, place_of
from vestibule.cli.output import error_line
from vestibule.clock import SystemClock
from vestibule.errors import Kind, VestibuleError, Where
from vestibule.intent import Intent, Problem, Severity, environments_of, expired, load_up
from vestibule.intent.files import read_tree
from vestibule.intent.lints import weaknesses
from vestibule.intent.port_policies import port_policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One environment, or the only one: the intent, if it and its ``up.yaml`` hold."""

    environment: str | None
    intent: Intent | None
    problems: tuple[Problem, ...]


def check(text: str, environment: str | None) -> list[Checked]:
    """The environment, or every one that there is.  Raises: VST3220, VST3226."""
    try:
        place = place_of(text)
    except VestibuleError as error:
        if error.code.kind is not Kind.NOT_FOUND:
            raise
        place = directory_place(Path(text))  # which says that it is not there
    if environment is None:
        with place.tree() as tree:
            files, problems = read_tree(tree)
        several = environments_of({*files, *(found.where.file for found in problems)})
        if len(several) > 1:
            return [_check_one(place, each) for each in several]
    return [_check_one(place, environment)]


def _check_one(place: Place, environment: str | None) -> Checked:
    loaded = place.load(environment)
    problems = list(loaded.problems)
    if place.directory is not None:
        problems += _up_problems(place.directory, loaded.intent, environment)
    if loaded.intent is not None:
        now = SystemClock().now()
        problems += (
            *expired(loaded.intent, now),
            *weaknesses(loaded.intent, now),
            *_too_large(loaded.intent),
        )
    placed = tuple(map(place.placed, problems))
    failed = any(found.severity is Severity.ERROR for found in placed)
    return Checked(environment=environment, intent=None if failed else loaded.intent, problems=placed)


def _too_large(intent: Intent) -> Iterator[Problem]:
    """Ports whose rules no proxy would be sent.  Only labels of callers make few rules large."""
    for service in intent.services.values():
        for port in service.ports.values():
            policy = port_policy(intent, service, port)
            if not (policy.is_http and policy.callers):
                continue
            # Heavy, and needed for few intents.
            from vestibule.envoy.central import decided_where, without_unjudged
            from vestibule.envoy.rbac import http_rbac

            asked = decided_where(policy, intent.mesh.decide)
            try:
                http_rbac(without_unjudged(policy) if asked is None else asked.local)
            except VestibuleError as error:
                where = next((rule.where for rule in service.allow if rule.where), None)
                place = where or Where(file=f"services/{service.name}.yaml")
                yield Problem(code=error.code, message=error.message, advice=error.advice, where=place)


def _up_problems(directory: Path, intent: Intent | None, environment: str | None) -> tuple[Problem, ...]:
    names = ["up.yaml", *([f"environments/{environment}/up.yaml"] if environment else [])]
    if any((directory / name).is_symlink() or (directory / name).exists() for name in names):
        return load_up(directory, intent, environment).problems
    return ()


def told_once(checked: list[Checked]) -> tuple[list[Problem], list[Problem]]:
    """Errors and warnings; what is wrong with a file that several environments share, once."""
    problems = dict.fromkeys(problem for each in checked for problem in each.problems)
    errors = [found for found in problems if found.severity is Severity.ERROR]
    return errors, [found for found in problems if found.severity is Severity.WARNING]


def data_of(
    place: str, checked: list[Checked], errors: list[Problem], warnings: list[Problem]
) -> dict[str, object]:
    """The same for programs."""
    intents = [each.intent for each in checked if each.intent is not None]
    return {
        "directory": place,
        "valid": not errors,
        "version": intents[0].version if len(checked) == 1 and intents else None,
        "services": sorted({name for intent in intents for name in intent.services}),
        "externals": sorted({name for intent in intents for name in intent.externals}),
        "gateways": sorted({name for intent in intents for name in intent.gateways}),
        "secrets": sorted({name for intent in intents for name in intent.secrets}),
        "tokens": sorted({name for intent in intents for name in intent.tokens}),
        "rules": list(dict.fromkeys(rule.name for intent in intents for rule in intent.rules)),
        "environments": {
            each.environment: each.intent.version if each.intent else None
            for each in checked
            if each.environment is not None
        },
        "warnings": [error_line(warning.error) for warning in warnings],
    }


def summary(intent: Intent, environment: str | None) -> str:
    """One line about an intent that holds."""
    parts = [count(len(intent.services), "service")]
    parts += [count(len(intent.externals), "external")] if intent.externals else []
    parts += [count(len(intent.gateways), "gateway")] if intent.gateways else []
    parts += [count(len(intent.secrets), "group") + " of secrets"] if intent.secrets else []
    parts += [count(len(intent.tokens), "group") + " of tokens"] if intent.tokens else []
    where = f" in {environment}" if environment else ""
    rules = count(len(intent.rules), "rule")
    return f"{intent.mesh.name}{where}: {', '.join(parts)}, {rules}, version {intent.version}"


def count(number: int, noun: str) -> str:
    """Such as 1 rule, 2 rules."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
