"""``vestibule ca transcript verify``: what a witness runs, with nothing but the files and the root's certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.errors import VestibuleError
from vestibule.identity.ca.files import read_public
from vestibule.identity.ca.witness import Verdict, verify
from vestibule.pki.pem import CERTIFICATE, pem_blocks
from vestibule.pki.transcripts import MAX_TRANSCRIPT_BYTES


def check(
    transcripts: Annotated[
        list[Path],
        typer.Argument(help="The root's transcript, and those of whoever asked for intermediates."),
    ],
    root: Annotated[
        Path, typer.Option("--root", help="The root's certificate, as the witness has it from elsewhere.")
    ],
    output: OutputOption = Output.TEXT,
) -> None:
    """Check transcripts: every step whole, signed and in its place, and each request what was signed and installed.

    Exits 1 if not.  What was cut off at the end leaves no trace: compare the last hash with the one you wrote down.
    """

    async def main() -> Exit:
        (certificate, *_) = pem_blocks(read_public(root), CERTIFICATE)
        texts = {
            str(path): read_public(path, MAX_TRANSCRIPT_BYTES).decode("utf-8", "replace")
            for path in transcripts
        }
        try:
            verdict = verify(texts, certificate)
        except VestibuleError as error:
            problem = error.message
            found = {"whole": False, "problem": problem}
            answer(output, "ca-transcript", found, lambda: console.print(f"[bold red]✗[/] {escape(problem)}"))
            return Exit.FINDINGS
        data = {
            "whole": True,
            "root_key_id": verdict.root_key_id,
            "files": [
                {
                    "path": each.path,
                    "signed_by": each.signed_by,
                    "steps": each.steps,
                    "last_hash": each.last_hash,
                }
                for each in verdict.files
            ],
            "ceremonies": list(verdict.ceremonies),
        }
        answer(output, "ca-transcript", data, lambda: _show(verdict))
        return Exit.FINE

    run(output, "ca-transcript", main)


def _show(verdict: Verdict) -> None:
    for each in verdict.files:
        console.print(f"[bold green]✓[/] {escape(each.path)}: {each.steps} steps by {each.signed_by}")
        console.print(f"  last hash {each.last_hash}")
    for line in verdict.ceremonies:
        console.print(f"  {escape(line)}")
    console.print(f"  root key {verdict.root_key_id}")
