"""Whatever is done to secrets, in whatever order: they are what a plain dictionary would be."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vestibule.errors import VestibuleError
from vestibule.secrets.versions import Actor, SettingChange, Versions
from vestibule.secrets.versions.codes import CAS_MISMATCH, CAS_REQUIRED, NO_SUCH_VERSION
from vestibule.secrets.versions.service import SPACE, TEXTS
from vestibule.testing.barrier import MemoryBarrier
from vestibule.testing.clock import FakeClock

ANN = Actor(name="ann")
PATHS = st.sampled_from(["a", "a/b", "a/b/c", "a@1", "d"])
NUMBERS = st.integers(1, 8)
DATA = st.dictionaries(st.sampled_from("xyz"), st.integers() | st.none(), max_size=3)
AFTER = st.sampled_from([0, 10, 60])


@dataclass
class Kept:
    """One version in the model."""

    data: dict[str, Any]
    end: datetime | None = None
    destroyed: bool = False


@dataclass
class Modelled:
    """One secret in the model."""

    current: int = 0
    oldest: int = 0
    most: int = 0
    after: int = 0
    cas: bool = False
    versions: dict[int, Kept] = field(default_factory=dict)


class KeyValues(RuleBasedStateMachine):
    """Versions on the one side, a dictionary on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = FakeClock()
        self.barrier = MemoryBarrier()
        self.versions = Versions(self.barrier, self.clock)
        self.model: dict[str, Modelled] = {}

    def teardown(self) -> None:
        self.runner.close()

    def readable(self, kept: Kept | None) -> bool:
        return kept is not None and not kept.destroyed and (kept.end is None or self.clock.now() < kept.end)

    def ending(self, secret: Modelled) -> datetime | None:
        return self.clock.now() + timedelta(seconds=secret.after) if secret.after else None

    def added(self, path: str, data: dict[str, Any]) -> None:
        secret = self.model.setdefault(path, Modelled())
        secret.current += 1
        secret.versions[secret.current] = Kept(dict(data), self.ending(secret))
        most = secret.most or 10
        if secret.current - secret.oldest >= most:
            secret.oldest = secret.current - most + 1
            secret.versions = {n: each for n, each in secret.versions.items() if n >= secret.oldest}

    def refused(self, path: str, cas: int | None) -> object:
        """What a write that names ``cas`` is refused with."""
        secret = self.model.get(path, Modelled())
        if cas is not None:
            return None if cas == secret.current else CAS_MISMATCH
        return CAS_REQUIRED if secret.cas else None

    def write(self, call: Any) -> object:
        """Run a write; what it is refused with, if it is."""
        try:
            self.runner.run(call)
        except VestibuleError as error:
            return error.code
        return None

    @rule(path=PATHS, data=DATA, cas=st.none() | st.integers(0, 3))
    def put(self, path: str, data: dict[str, Any], cas: int | None) -> None:
        expected = self.refused(path, cas)
        assert self.write(self.versions.put(path, data, ANN, cas=cas)) is expected
        if expected is None:
            self.added(path, data)

    @rule(path=PATHS, patch=DATA, cas=st.none() | st.integers(0, 3))
    def patch(self, path: str, patch: dict[str, Any], cas: int | None) -> None:
        secret = self.model.get(path)
        there = secret.versions[secret.current] if secret and secret.current else None
        expected = self.refused(path, cas) if there else None
        assert self.write(self.versions.patch(path, patch, ANN, cas=cas)) is expected
        if there and expected is None and self.readable(there):
            merged = {**there.data, **patch}
            self.added(
                path, {name: value for name, value in merged.items() if patch.get(name, 0) is not None}
            )

    @rule(path=PATHS, number=NUMBERS)
    def rollback(self, path: str, number: int) -> None:
        there = self.model.get(path, Modelled()).versions.get(number)
        expected = self.refused(path, None) if self.readable(there) else NO_SUCH_VERSION
        assert self.write(self.versions.rollback(path, number, ANN)) is expected
        if expected is None and there:
            self.added(path, there.data)

    @rule(path=PATHS)
    def delete_newest(self, path: str) -> None:
        self.runner.run(self.versions.delete(path, ANN))
        secret = self.model.get(path, Modelled())
        self.ended(secret, [secret.current])

    @rule(path=PATHS, numbers=st.lists(NUMBERS, min_size=1, max_size=3))
    def delete(self, path: str, numbers: list[int]) -> None:
        self.runner.run(self.versions.delete(path, ANN, numbers))
        self.ended(self.model.get(path, Modelled()), numbers)

    def ended(self, secret: Modelled, numbers: list[int]) -> None:
        for number in numbers:
            kept = secret.versions.get(number)
            if kept and self.readable(kept):
                kept.end = self.clock.now()

    @rule(path=PATHS, numbers=st.lists(NUMBERS, min_size=1, max_size=3))
    def undelete(self, path: str, numbers: list[int]) -> None:
        self.runner.run(self.versions.undelete(path, ANN, numbers))
        secret = self.model.get(path, Modelled())
        for number in numbers:
            if number in secret.versions:
                secret.versions[number].end = self.ending(secret)

    @rule(path=PATHS, numbers=st.lists(NUMBERS, min_size=1, max_size=3))
    def destroy(self, path: str, numbers: list[int]) -> None:
        self.runner.run(self.versions.destroy(path, ANN, numbers))
        for number in numbers:
            if kept := self.model.get(path, Modelled()).versions.get(number):
                kept.destroyed = True

    @rule(path=PATHS)
    def forget(self, path: str) -> None:
        self.runner.run(self.versions.forget(path))
        self.model.pop(path, None)

    @rule(path=PATHS, most=st.integers(0, 4), after=AFTER, cas=st.booleans())
    def configure(self, path: str, most: int, after: int, *, cas: bool) -> None:
        change = SettingChange(max_versions=most, delete_after=timedelta(seconds=after), cas_required=cas)
        self.runner.run(self.versions.configure(path, change, ANN))
        secret = self.model.setdefault(path, Modelled())
        secret.most, secret.after, secret.cas = most, after, cas

    @precondition(lambda self: self.model)
    @rule(seconds=st.integers(1, 61))
    def time_goes_by(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @invariant()
    def each_version_reads_as_in_the_model(self) -> None:
        for path, secret in self.model.items():
            for number in range(secret.current + 2):
                reading = self.runner.run(self.versions.read(path, number))
                kept = secret.versions.get(number or secret.current)
                assert (reading is None) == (kept is None)
                if reading and kept:
                    assert reading.data == (kept.data if self.readable(kept) else None)
                    assert reading.version.destroyed == kept.destroyed

    @invariant()
    def each_secret_is_known_as_in_the_model(self) -> None:
        for path in ("a", "a/b", "a/b/c", "a@1", "d"):
            secret = self.runner.run(self.versions.metadata(path))
            model = self.model.get(path)
            assert (secret is None) == (model is None)
            if secret and model:
                assert (secret.current, secret.oldest) == (model.current, model.oldest)
                assert list(secret.versions) == sorted(model.versions)

    @invariant()
    def the_lists_are_those_of_the_model(self) -> None:
        for folder in ("", "a", "a/b"):
            prefix = f"{folder}/" if folder else ""
            below = (path.removeprefix(prefix) for path in self.model if path.startswith(prefix))
            names = {name + slash for name, slash, _ in (each.partition("/") for each in below)}
            assert self.runner.run(self.versions.list(folder)) == sorted(names)

    @invariant()
    def nothing_is_kept_that_nobody_can_read(self) -> None:
        texts = {
            f"{path}@{number}"
            for path, secret in self.model.items()
            for number, kept in secret.versions.items()
            if number != secret.current and not kept.destroyed
        }
        assert set(self.runner.run(self.barrier.keys(TEXTS))) == texts
        assert set(self.runner.run(self.barrier.keys(SPACE))) == set(self.model)


TestKeyValues = KeyValues.TestCase
TestKeyValues.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
