"""``vestibule policy test``: cases in YAML beside the policy, decided as proxies would."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from vestibule.cli.codes import MISSING_EXTRA, NO_CASES
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run

if TYPE_CHECKING:
    from vestibule.intent.policy_cases import Case, Cases
    from vestibule.policy import Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A case, what was decided, and what is wrong with it, in words; empty if it is as expected.

    ``envoy`` says what Envoy made of it, if it was asked: ``allow``, ``deny``, or why it could not be.
    """

    case: Case
    decision: Decision
    wrong: str
    envoy: str | None = None

    @property
    def data(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "name": self.case.name,
            "where": str(self.case.where) if self.case.where else None,
            "holds": not self.wrong,
            "allowed": self.decision.allowed,
            "rule": self.decision.rule,
            "wrong": self.wrong or None,
            "envoy": self.envoy,
        }


def run_cases(
    place: Annotated[
        str,
        typer.Argument(metavar="DIR|COMMIT", help="The intent, with its cases in policy-tests/*.yaml."),
    ] = ".",
    environment: Annotated[
        str | None, typer.Option("--environment", metavar="NAME", help="Which one of environments/ is meant.")
    ] = None,
    envoy: Annotated[
        bool,
        typer.Option(
            "--envoy",
            help="Also on a real Envoy, with what the policy is compiled into. Takes a few seconds.",
        ),
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Decide the cases beside a policy, and say which are not as expected.

    A case is a call (from, to, method, path, headers, at, tokens, mcp) and what is expected (allow or deny, and perhaps
    the rule).  Exits 1 if any case fails.
    """

    async def main() -> Exit:
        try:
            from vestibule.cli.intent_places import place_of
            from vestibule.intent.policy_cases import load_cases
        except ModuleNotFoundError as error:
            raise MISSING_EXTRA.error(f"policy test needs {error.name}, which is not installed") from error

        found = place_of(place)
        loaded = found.load(environment)
        if loaded.intent is None:
            errors = [found.placed(each).error for each in loaded.problems]
            answer(output, "policy-test", {"cases": []}, lambda: None, errors=errors)
            return Exit.FINDINGS
        with found.tree() as tree:
            cases = load_cases(tree, loaded.intent, datetime.now(UTC))
        if not cases.cases and not cases.problems:
            raise NO_CASES.error(f"there are no cases in {found.prefix}policy-tests/")
        outcomes = [outcome(loaded.intent, each) for each in cases.cases]
        if envoy:
            from vestibule.cli.policy_trial import tried

            outcomes = await tried(loaded.intent, outcomes)
        data = {"cases": [each.data for each in outcomes]}
        errors = [found.placed(each).error for each in cases.problems]
        answer(output, "policy-test", data, lambda: _show(outcomes, found.prefix), errors=errors)
        return _exit(outcomes, cases)

    run(output, "policy-test", main)


def _exit(outcomes: list[Outcome], cases: Cases) -> Exit:
    return Exit.FINDINGS if cases.problems or any(each.wrong for each in outcomes) else Exit.FINE


def outcome(intent: Any, case: Case) -> Outcome:
    """What becomes of a case by an intent."""
    from vestibule.intent.port_policies import port_policy
    from vestibule.policy import decide

    decision = decide(port_policy(intent, case.service, case.port), case.call)
    return Outcome(case=case, decision=decision, wrong=_wrong(case, decision))


def _wrong(case: Case, decision: Decision) -> str:
    if decision.allowed is not case.allowed:
        by = f" by {decision.rule}" if decision.rule else ", since no rule allows it"
        return f"expected {word(case.allowed)}, got {word(decision.allowed)}{by}"
    if case.rule is not None and (decision.rule or "") != case.rule:
        return f"decided by {decision.rule or 'no rule'}, not by {case.rule or 'no rule'}"
    if case.shadow is not None:
        shadow = decision.allowed if decision.shadow is None else decision.shadow.allowed
        if shadow is not case.shadow:
            return f"expected {word(case.shadow)} in shadow, got {word(shadow)}"
    return ""


def word(allowed: bool) -> str:
    """As cases say it."""
    return "allow" if allowed else "deny"


def _show(outcomes: list[Outcome], prefix: str) -> None:
    for each in outcomes:
        if each.wrong:
            where = f"{prefix}{each.case.where}" if each.case.where else ""
            console.print(
                f"[bold red]✗[/] {escape(each.case.name)}: {escape(each.wrong)}  [dim]{escape(where)}[/]"
            )
        else:
            rule = each.decision.rule or "no rule"
            by = f", on Envoy: {each.envoy}" if each.envoy else ""
            console.print(f"[bold green]✓[/] {escape(each.case.name)}  [dim]{escape(rule + by)}[/]")
    failed = sum(bool(each.wrong) for each in outcomes)
    total = f"{len(outcomes)} case{'' if len(outcomes) == 1 else 's'}"
    console.print(f"{total}: {'all as expected' if not failed else f'{failed} not as expected'}")
