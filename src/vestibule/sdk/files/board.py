"""What is to stand in the files right now, part by part, and how each part stands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from datetime import datetime
from itertools import chain
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.sdk.files.contents import File

X509: Final = "x509"
JWT_BUNDLE: Final = "jwt-bundle"
RELOAD: Final = "reload"
FILES: Final = "files"
NOT_YET: Final = "not written yet"
_log = logging.getLogger(__name__)


class Board:
    """Those who follow the Workload API write on it; one writer reads it.  For one event loop.

    ``problems`` has what is wrong with each part, an empty text where all is well; ``expires`` is when the first of
    the certificates ends.  ``regained`` is replaced after it was set: an identity that was gone is back.
    """

    def __init__(self, wanted: Iterable[str], *, keep_withdrawn: bool) -> None:
        self.wanted = frozenset(wanted)
        self.problems = dict.fromkeys(self.wanted, NOT_YET)
        self.expires: datetime | None = None
        self.changed = asyncio.Event()
        self.regained = asyncio.Event()
        self._keep_withdrawn = keep_withdrawn
        self._files: dict[str, tuple[File, ...]] = {}
        self._news = False

    @property
    def files(self) -> list[File]:
        """All of them."""
        return list(chain.from_iterable(self._files.values()))

    @property
    def is_complete(self) -> bool:
        """Whether every part has been had."""
        return self.wanted <= self._files.keys()

    def put(self, part: str, files: tuple[File, ...]) -> None:
        """This is what stands in a part from now on."""
        self.problems[part] = ""
        if files != self._files.get(part):
            self._files[part] = files
            self._news = self._news or part == X509
            self.changed.set()

    def fine(self, part: str) -> None:
        """What there is still holds."""
        self.problems[part] = ""

    def note(self, part: str, error: VestibuleError) -> None:
        """Something is wrong with a part; said aloud when it begins."""
        before, self.problems[part] = self.problems.get(part, ""), str(error)
        level = logging.DEBUG if before.startswith(error.code.code) else logging.WARNING
        _log.log(level, "%s: %s (%s)", part, error, error.advice)

    def withdraw(self, part: str, error: VestibuleError) -> None:
        """It was taken away: what is secret of it goes; with the certificate, the tokens of the same identity."""
        self.note(part, error)
        if self._keep_withdrawn:
            return
        for each in list(self._files) if part == X509 else [part]:
            files = self._files.get(each, ())
            kept = tuple(file for file in files if not file.secret)
            if kept != files:
                _log.warning("%s: private keys and tokens of what was taken away are removed", each)
                self._files[each] = kept
                self.problems[each] = str(error)
                self.changed.set()

    def come_back(self) -> None:
        """The identity is there again: who waits for something else asks now."""
        event, self.regained = self.regained, asyncio.Event()
        event.set()

    def take_news(self) -> bool:
        """Whether there was something that readers have to be told of, since this was asked last."""
        news, self._news = self._news, False
        return news

    def give_back_news(self, news: bool) -> None:
        """It could not be written after all."""
        self._news = self._news or news
