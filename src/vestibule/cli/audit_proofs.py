"""``vestibule audit key``, ``prove`` and ``check-proof``: one record, shown to somebody who sees no other."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from vestibule.audit.codes import PROOF_INVALID
from vestibule.audit.proofs import Proof, prove
from vestibule.cli.audit import KeyOption, PathArgument, find_key, find_log
from vestibule.cli.codes import USAGE
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.errors import VestibuleError

NumberArgument = Annotated[int, typer.Argument(metavar="N", min=1, help="The record's number.")]
ProofArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="What `audit prove` printed; - for standard input.")
]
NeededKeyOption = Annotated[
    str,
    typer.Option(
        "--key", metavar="FILE|KEY", help="The key that signs the log's checkpoints, from `audit key`."
    ),
]


def key(path: PathArgument = None, output: OutputOption = Output.TEXT) -> None:
    """Print the public key that signs the checkpoints of a log: keep it where who can write the log cannot."""

    async def main() -> Exit:
        log = path or find_log()
        verifier = find_key(log, None)
        answer(
            output, "audit-key", {"path": str(log), "key": str(verifier)}, lambda: typer.echo(str(verifier))
        )
        return Exit.FINE

    run(output, "audit-key", main)


def prove_record(
    number: NumberArgument,
    path: PathArgument = None,
    output: OutputOption = Output.TEXT,
    key: KeyOption = None,
) -> None:
    """Print the proof that a record is in the log: the record, its way up the tree, and a signed checkpoint.

    Who gets it needs only the public key, and learns nothing of other records.
    """

    async def main() -> Exit:
        log = path or find_log()
        proof = prove(log, number)
        proof.check(find_key(log, key))
        answer(
            output, "audit-proof", proof.document, lambda: typer.echo(json.dumps(proof.document, indent=2))
        )
        return Exit.FINE

    run(output, "audit-proof", main)


def check_proof(proof: ProofArgument, key: NeededKeyOption, output: OutputOption = Output.TEXT) -> None:
    """Check the proof of a record, without the log and offline.  Exits 1 if it proves nothing."""

    async def main() -> Exit:
        found = Proof.parse(_text(proof))
        try:
            record = found.check(find_key(Path(), key))
        except VestibuleError as error:
            if error.code is not PROOF_INVALID:
                raise
            problem = error.message
            data = {"proven": False, "problem": problem}
            answer(output, "audit-proof-check", data, lambda: _bad(problem))
            return Exit.FINDINGS
        data = {"proven": True, "record": record, "records": found.checkpoint.size}
        answer(output, "audit-proof-check", data, lambda: _good(record, found))
        return Exit.FINE

    run(output, "audit-proof-check", main)


def _text(place: str) -> str:
    try:
        text = sys.stdin.read() if place == "-" else Path(place).read_text("utf-8")
        document = json.loads(text)
    except (OSError, ValueError) as error:
        raise USAGE.error(
            f"{place} holds no proof: {error}", advice="Give what `audit prove` printed."
        ) from error
    inside = document.get("data") if isinstance(document, dict) else None
    return json.dumps(inside) if isinstance(inside, dict) else text


def _bad(problem: str) -> None:
    console.print(f"[bold red]✗[/] {escape(problem)}")


def _good(record: dict[str, Any], proof: Proof) -> None:
    at = "" if proof.checkpoint.at is None else f" of {proof.checkpoint.at:%Y-%m-%d %H:%M:%S}Z"
    console.print(f"[bold green]✓[/] record {record['seq']} is in the log {escape(proof.checkpoint.origin)}")
    console.print(f"  by the checkpoint{at}, which is of {proof.checkpoint.size} records")
    what = f"{record['time']} {record['actor']} {record['action']} {record['subject']} {record['outcome']}"
    console.print(f"  {escape(what)}")
