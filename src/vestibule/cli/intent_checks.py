"""What ``validate`` finds in an intent directory, for each of its environments."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vestibule.cli.output import error_line
from vestibule.clock import SystemClock
from vestibule.errors import Where
from vestibule.intent import Intent, Problem, Severity, environments_of, expired, load, load_up
from vestibule.intent.files import Directory, read_tree
from vestibule.policy import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One environment, or the only one: the intent, if it and its ``up.yaml`` hold."""

    environment: str | None
    intent: Intent | None
    problems: tuple[Problem, ...]


def check(directory: Path, environment: str | None) -> list[Checked]:
    """The environment, or every one that there is."""
    if environment is None:
        files, problems = read_tree(Directory(directory))
        several = environments_of({*files, *(found.where.file for found in problems)})
        if len(several) > 1:
            return [_check_one(directory, each) for each in several]
    return [_check_one(directory, environment)]


def _check_one(directory: Path, environment: str | None) -> Checked:
    loaded = load(directory, environment)
    problems = list(loaded.problems)
    names = ["up.yaml", *([f"environments/{environment}/up.yaml"] if environment else [])]
    if any((directory / name).is_symlink() or (directory / name).exists() for name in names):
        problems += load_up(directory, loaded.intent, environment).problems
    if loaded.intent is not None:
        problems += expired(loaded.intent, SystemClock().now())
    placed = tuple(replace(found, where=_from_here(directory, found.where)) for found in problems)
    failed = any(found.severity is Severity.ERROR for found in placed)
    return Checked(environment=environment, intent=None if failed else loaded.intent, problems=placed)


def told_once(checked: list[Checked]) -> tuple[list[Problem], list[Problem]]:
    """Errors and warnings; what is wrong with a file that several environments share, once."""
    problems = dict.fromkeys(problem for each in checked for problem in each.problems)
    errors = [found for found in problems if found.severity is Severity.ERROR]
    return errors, [found for found in problems if found.severity is Severity.WARNING]


def data_of(
    directory: Path, checked: list[Checked], errors: list[Problem], warnings: list[Problem]
) -> dict[str, object]:
    """The same for programs."""
    intents = [each.intent for each in checked if each.intent is not None]
    return {
        "directory": str(directory),
        "valid": not errors,
        "version": intents[0].version if len(checked) == 1 and intents else None,
        "services": sorted({name for intent in intents for name in intent.services}),
        "externals": sorted({name for intent in intents for name in intent.externals}),
        "gateways": sorted({name for intent in intents for name in intent.gateways}),
        "rules": list(dict.fromkeys(rule.name for intent in intents for rule in _rules(intent))),
        "environments": {
            each.environment: each.intent.version if each.intent else None
            for each in checked
            if each.environment is not None
        },
        "warnings": [error_line(warning.error) for warning in warnings],
    }


def _rules(intent: Intent) -> list[Rule]:
    said = [each.allow for each in intent.services.values()] + [
        each.allow for each in intent.externals.values()
    ]
    return [rule for allow in said for rule in allow]


def _from_here(directory: Path, where: Where) -> Where:
    """The place as a path that an editor or a terminal can open from the current directory."""
    return replace(where, file=str(directory / where.file))


def summary(intent: Intent, environment: str | None) -> str:
    """One line about an intent that holds."""
    parts = [count(len(intent.services), "service")]
    parts += [count(len(intent.externals), "external")] if intent.externals else []
    parts += [count(len(intent.gateways), "gateway")] if intent.gateways else []
    where = f" in {environment}" if environment else ""
    rules = count(len(_rules(intent)), "rule")
    return f"{intent.mesh.name}{where}: {', '.join(parts)}, {rules}, version {intent.version}"


def count(number: int, noun: str) -> str:
    """Such as 1 rule, 2 rules."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
