"""Intents and the state of their rollout, in the form in which the store keeps them."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from vestibule.intent import Intent, Loaded, load_files
from vestibule.mesh.codes import UNREADABLE_INTENT
from vestibule.mesh.error_rates import Count, Side
from vestibule.mesh.rollout import Event, Happening, Move, Phase, State, Step
from vestibule.mesh.source import CommitInfo, Reading, Source
from vestibule.records import IntentOutcome, KeptIntent, RolloutRecord

FORMAT: Final = 1
MOST_BYTES: Final = 256 << 20
"""Of an intent's files, unpacked."""

Before: TypeAlias = dict[tuple[str, Side], Count]
Load: TypeAlias = Callable[[Mapping[str, bytes]], Loaded]


def pack(files: Mapping[str, bytes]) -> bytes:
    """Files as one value; equal files are equal bytes."""
    document = {name: base64.b64encode(files[name]).decode("ascii") for name in sorted(files)}
    return zlib.compress(json.dumps(document, separators=(",", ":")).encode("utf-8", "surrogateescape"))


def unpack(packed: bytes) -> dict[str, bytes]:
    """Raises: ValueError."""
    inflating = zlib.decompressobj()
    try:
        data = inflating.decompress(packed, MOST_BYTES)
    except zlib.error as error:
        raise ValueError("the files are damaged") from error
    if not inflating.eof:
        raise ValueError("the files are cut off, or too large")
    document = json.loads(data.decode("utf-8", "surrogateescape"))
    return {str(name): base64.b64decode(content, validate=True) for name, content in document.items()}


def kept(reading: Reading, place: str, now: datetime) -> KeptIntent:
    """What is remembered of an intent that is taken up now."""
    assert reading.intent is not None
    about = KeptIntent(
        version=reading.intent.version, place=place, taken_up_at=now, files=pack(reading.files)
    )
    return about if reading.commit is None else _of_commit(about, reading.commit)


def changed_rows(
    rows: Sequence[KeptIntent], before: State, result: Step, event: Event, source: Source
) -> Iterator[KeptIntent]:
    """What a step adds to the history (``rows``, the newest first), and whose outcome it changes."""
    newest: dict[str | None, KeptIntent] = {each.version: each for each in reversed(rows)}
    after = result.state

    def ended(version: str | None, outcome: IntentOutcome, reason: str) -> Iterator[KeptIntent]:
        if version is not None and version in newest:
            yield replace(newest[version], outcome=outcome, reason=reason, ended_at=event.now)

    if result.move in (Move.TRY, Move.ACCEPT) and before.trial not in (None, after.trial, after.good):
        yield from ended(before.trial, IntentOutcome.SUPERSEDED, f"version {after.head} came")
    match result.move:
        case Move.TRY:
            yield _begun(after.trial, newest, event, source)
        case Move.ACCEPT:
            good = _begun(after.good, newest, event, source)
            yield replace(good, outcome=IntentOutcome.GOOD, ended_at=event.now, reason=event.reason)
        case Move.GO_BACK:
            yield from ended(before.trial, IntentOutcome.REFUSED, event.reason)
        case Move.DROP:
            yield from ended(before.trial, IntentOutcome.SUPERSEDED, f"version {after.head} came back")
        case Move.PIN:
            reason = f"{event.actor}: {event.reason}"
            yield from ended(before.trial or before.good, IntentOutcome.ROLLED_BACK, reason)


def _begun(
    version: str | None, newest: Mapping[str | None, KeptIntent], event: Event, source: Source
) -> KeptIntent:
    """What the source offers is a new chapter of the history, what is tried again is the old one."""
    if event.what is not Happening.OFFERED and version in newest:
        return replace(newest[version], outcome=IntentOutcome.TRYING, reason="", ended_at=None)
    return kept(source.reading, source.place, event.now)


def _of_commit(about: KeptIntent, commit: CommitInfo) -> KeptIntent:
    return replace(
        about,
        commit=commit.id,
        author=commit.author,
        subject=commit.subject,
        signed_by=commit.signed_by or "",
        committed_at=commit.committed_at,
    )


def read(kept: KeptIntent, load: Load = load_files) -> Intent:
    """The intent again, under its old name.  Raises: VST3242."""
    try:
        loaded = load(unpack(kept.files))
    except ValueError as error:
        raise UNREADABLE_INTENT.error(f"version {kept.version} of the history: {error}") from error
    if loaded.intent is None:
        first = loaded.problems[0]
        raise UNREADABLE_INTENT.error(f"version {kept.version} of the history: {first.where}: {first.error}")
    return replace(loaded.intent, version=kept.version)


def write_state(state: State, before: Before, revision: int) -> RolloutRecord:
    """The state as a record; ``before`` is what failed before the trial."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "good": state.good,
        "head": state.head,
        "phase": state.phase.value,
        "trial": state.trial,
        "wave": sorted(state.wave),
        "since": None if state.since is None else state.since.timestamp(),
        "paused": state.paused,
        "reason": state.reason,
        "actor": state.actor,
        "failed": state.failed,
        "before": [
            [service, side.value, count.requests, count.denied, count.failed]
            for (service, side), count in sorted(before.items(), key=lambda each: each[0][0])
        ],
    }
    return RolloutRecord(revision=revision, document=json.dumps(document, separators=(",", ":")))


def read_state(record: RolloutRecord) -> tuple[State, Before]:
    """Raises: ValueError for what a newer version wrote."""
    try:
        document = json.loads(record.document)
        if document["format"] != FORMAT:
            raise ValueError("it was written by a newer version")
        since = document["since"]
        state = State(
            good=document["good"],
            head=document["head"],
            phase=Phase(document["phase"]),
            trial=document["trial"],
            wave=frozenset(document["wave"]),
            since=None if since is None else datetime.fromtimestamp(since, UTC),
            paused=document["paused"],
            reason=document["reason"],
            actor=document["actor"],
            failed=document["failed"],
        )
        before = {
            (service, Side(side)): Count(requests, denied, failed)
            for service, side, requests, denied, failed in document["before"]
        }
    except (KeyError, TypeError) as error:
        raise ValueError(f"{error} is missing or malformed") from error
    return state, before
