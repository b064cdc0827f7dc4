"""Our own validator has the last word: what it refuses is left out and named, until nothing is refused."""

from __future__ import annotations

from collections.abc import Sequence

from vestibule.errors import VestibuleError
from vestibule.intent import codes as intent_codes
from vestibule.intent.importing import codes
from vestibule.intent.importing.documents import Report
from vestibule.intent.importing.result import File, Item
from vestibule.intent.loading import load_files
from vestibule.intent.problems import Problem, Severity

_NEEDED = frozenset(
    {"service", "ports", "external", "hosts", "mesh", "trust_domain", "environment", "identity"}
)


def mend(files: Sequence[File], report: Report) -> dict[str, str]:
    """The files' texts, of which the validator says no error.

    Leaving out what it refuses takes a rule or a route away, never a condition of one; and where it is a rule that
    denies, all that is allowed beside it.  So nothing gets wider.
    """
    made = {each.name: each for each in files}
    while True:
        texts = {name: each.text() for name, each in made.items()}
        problems = load_files({name: text.encode() for name, (text, _) in texts.items()}).problems
        refused = [each for each in problems if each.severity is Severity.ERROR]
        if not refused:
            return {name: text for name, (text, _) in texts.items()}
        if not _leave_out(made, {name: holds for name, (_, holds) in texts.items()}, refused, report):
            # Without a service there is no intent.
            return {}


def _leave_out(
    made: dict[str, File],
    holds: dict[str, list[tuple[str, int | None]]],
    refused: Sequence[Problem],
    report: Report,
) -> bool:
    """Whether anything was left out; of one list the later items first, so that numbers stay true."""
    wanted: dict[tuple[str, str, int], Problem] = {}
    for problem in refused:
        name, line = problem.where.file, problem.where.line or 1
        if name in made:
            key, number = holds[name][line - 1]
            wanted.setdefault((name, key, -1 if number is None else number), problem)
    gone = False
    for (name, key, number), problem in sorted(wanted.items(), reverse=True):
        file = made.get(name)
        if file is None or key not in file.keys:
            continue
        gone = True
        code = codes.RULE_DROPPED if key == "allow" else codes.NOT_CARRIED
        if key == "deny" and problem.code is not intent_codes.REDUNDANT:
            file.put("allow", [], file.where)
            message = f"{name}: all of allow is left out, as something that denies cannot be expressed"
            report.add(codes.RULE_DROPPED, message, file.where)
        said = f"{problem.code.code} {problem.message}"
        if number >= 0:
            item: Item = file.items(key).pop(number)
            report.add(code, f"{name}: {key} {item.value.get('id')} is left out: {said}", item.where)
        elif key in _NEEDED or key == "allow":
            if name == "mesh.yaml":
                raise VestibuleError(problem.code, problem.message, advice=problem.advice)
            del made[name]
            report.add(code, f"{name} is left out: {said}", file.where)
        else:
            del file.keys[key]
            report.add(code, f"{name}: {key} is left out: {said}", file.places.get(key, file.where))
        if key in file.keys and file.keys[key] == [] and key != "allow":
            del file.keys[key]
    return gone
