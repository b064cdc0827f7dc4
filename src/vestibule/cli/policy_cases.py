"""``vestibule policy test``: cases in YAML beside the policy, decided as proxies would."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from vestibule.cli.codes import MISSING_EXTRA, NO_CASES
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run

if TYPE_CHECKING:
    from vestibule.cli.policy_outcomes import Outcome
    from vestibule.intent.policy_cases import Cases


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
            from vestibule.cli.policy_outcomes import outcome
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
