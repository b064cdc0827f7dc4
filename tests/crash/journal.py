"""What was acknowledged, kept outside of the programs that are killed, and what must be true of them because of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class EntryFate:
    """What may be the case of one entry.  ``hints`` are those that it may have."""

    there: bool = False
    gone: bool = True
    hints: set[str] = field(default_factory=set)


class Journal:
    """Begun before each operation, completed when its answer came.  An operation without an answer may have happened
    or not; which of the two is looked up when the server is back, and has to stay true from then on.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self.entries: dict[str, EntryFate] = {}
        self.tokens_used: Counter[str] = Counter()
        self.serials: set[str] = set()
        self.acknowledged = 0
        self.unanswered = 0
        self.violations: list[str] = []

    def close(self) -> None:
        self._file.close()

    def note(self, what: str, **details: object) -> None:
        """One line on disk."""
        self._file.write(json.dumps({"what": what, **details}) + "\n")
        self._file.flush()

    def violated(self, rule: str) -> None:
        """A rule does not hold."""
        self.violations.append(rule)
        self.note("violation", rule=rule)

    # ------------------------------------------------------------------------------------ entries

    def creating(self, entry_id: str, hint: str) -> None:
        self.note("create", id=entry_id, hint=hint)
        self.entries[entry_id] = EntryFate(there=True, gone=True, hints={hint})

    def updating(self, entry_id: str, hint: str) -> None:
        self.note("update", id=entry_id, hint=hint)
        self.entries[entry_id].hints.add(hint)

    def deleting(self, entry_id: str) -> None:
        self.note("delete", id=entry_id)
        self.entries[entry_id].gone = True

    def written(self, entry_id: str, hint: str) -> None:
        """Created or updated, and told so."""
        self._acknowledge("written", entry_id)
        self.entries[entry_id] = EntryFate(there=True, gone=False, hints={hint})

    def deleted(self, entry_id: str) -> None:
        self._acknowledge("deleted", entry_id)
        self.entries[entry_id] = EntryFate(there=False, gone=True)

    def compare(self, found: Mapping[str, str]) -> None:
        """Hold what was acknowledged against the server's entries (hint by ID), while nothing is under way."""
        for entry_id, fate in self.entries.items():
            hint = found.get(entry_id)
            if hint is None and not fate.gone:
                self.violated(f"entry {entry_id} was acknowledged and is lost")
            elif hint is not None and not fate.there:
                self.violated(f"entry {entry_id} was deleted and is back")
            elif hint is not None and hint not in fate.hints:
                self.violated(f"entry {entry_id} has {hint!r}, acknowledged was one of {sorted(fate.hints)}")
            there = hint is not None
            self.entries[entry_id] = EntryFate(
                there=there, gone=not there, hints=set() if hint is None else {hint}
            )
        for entry_id in found.keys() - self.entries.keys():
            self.violated(f"entry {entry_id} is there and was never asked for")

    # ------------------------------------------------------------------------- tokens and certificates

    def joined(self, token: str) -> None:
        """An agent was let in with this token, and told so."""
        self._acknowledge("joined", token)
        self.tokens_used[token] += 1
        if self.tokens_used[token] > 1:
            self.violated(f"token {token} let in {self.tokens_used[token]} agents")

    def issued(self, serials: Iterable[int]) -> None:
        """Somebody has certificates with these serial numbers in hand."""
        for serial in serials:
            if str(serial) not in self.serials:
                self.serials.add(str(serial))
                self._acknowledge("issued", str(serial))

    def lost(self, operation: str) -> None:
        """No answer came."""
        self.unanswered += 1
        self.note("unanswered", operation=operation)

    def _acknowledge(self, what: str, subject: str) -> None:
        self.acknowledged += 1
        self.note(what, subject=subject)

    # ---------------------------------------------------------------------------------- the audit log

    def audit(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Nothing was done that is not on record, and nothing is on record twice that happens once.

        After ``compare``, for it has to be known what was done.
        """
        issued: set[str] = set()
        created: set[str] = set()
        joins: Counter[str] = Counter()
        for record in records:
            if record["outcome"] != "ok":
                continue
            if record["action"] == "svid.issue":
                issued.add(str(record["details"]["serial"]))
            elif record["action"] == "entry.create":
                created.add(str(record["details"]["entry_id"]))
            elif record["action"] == "agent.attest":
                joins[str(record["subject"])] += 1
        for serial in self.serials - issued:
            self.violated(f"the SVID with serial {serial} is not in the audit log")
        for entry_id in (each for each, fate in self.entries.items() if fate.there and fate.gone):
            self.violated(f"nobody looked whether entry {entry_id} is there")
        there = {each for each, fate in self.entries.items() if fate.there and not fate.gone}
        for entry_id in there - created:
            self.violated(f"entry {entry_id} is there and its creation is not in the audit log")
        for agent, count in joins.items():
            if count > 1:
                self.violated(
                    f"{agent} was let in {count} times, each on record, with a token that counts once"
                )
