"""SQL with places for names and passwords.

A statement is read as PostgreSQL reads it (quotes, dollar quotes, comments), so that it is known what stands around
each place, and where a statement ends.  What is put there stays a name or a literal, whatever it consists of:

====================  ==========================================================================
where the place is    what is put there
====================  ==========================================================================
between statements'   a quoted identifier for a name, a quoted literal for anything else
words
in "…"                a name, its double quotes doubled; nothing else
in '…'                anything, its single quotes doubled
in $$…$$              anything that consists of harmless characters only
in a comment          nothing: comments are left out
====================  ==========================================================================

A backslash is never put anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.secrets.dynamic.codes import MALFORMED_STATEMENT

NAME: Final = "name"
PASSWORD: Final = "password"  # noqa: S105 (a place, not a password)
EXPIRATION: Final = "expiration"
LONGEST: Final = 64 * 1024

_ALIASES: Final = {"name": NAME, "username": NAME, "password": PASSWORD, "expiration": EXPIRATION}
_PLACE: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}", re.ASCII)
_DOLLAR: Final = re.compile(r"\$(?:[A-Za-z_\u0080-\uffff][A-Za-z0-9_\u0080-\uffff]*)?\$")
_HARMLESS: Final = re.compile(r"[A-Za-z0-9_.:+/=$ -]*", re.ASCII)
_WORD: Final = re.compile(r"[A-Za-z0-9_$\u0080-\uffff]")
_CONTROL: Final = frozenset(
    ("begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release", "prepare")
)


class Around(Enum):
    """What a piece of a statement stands in."""

    WORDS = "words"
    IDENTIFIER = '"'
    LITERAL = "'"
    DOLLARS = "$"


@dataclass(frozen=True, slots=True)
class Piece:
    """Text as it was written, or (``place``) where something is put.

    ``tag`` begins and ends the dollar quote around it, which is the one that begins at ``block``.
    """

    around: Around
    text: str = ""
    place: str = ""
    tag: str = ""
    block: int = 0


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement, ready to be filled in."""

    pieces: tuple[Piece, ...]

    @property
    def places(self) -> frozenset[str]:
        """What has to be known to fill it in."""
        return frozenset(each.place for each in self.pieces if each.place)

    def filled(self, values: Mapping[str, str]) -> str:
        """The SQL.  Raises: VST5414, whose text holds no value."""
        shown = "".join(each.text if not each.place else _put(each, values) for each in self.pieces)
        _check_dollars(self.pieces, values)
        return shown


def statements(texts: Iterable[str], allowed: frozenset[str]) -> tuple[Statement, ...]:
    """All statements in some texts, in order.  Raises: VST5414."""
    found = [each for text in texts for each in _split(text)]
    for each in found:
        if unknown := each.places - allowed:
            raise _malformed(f"{{{{{min(unknown)}}}}} has no meaning here")
    return tuple(found)


def _put(piece: Piece, values: Mapping[str, str]) -> str:
    value = values[piece.place]
    if "\\" in value or unspeakable(value):
        raise _malformed(f"{{{{{piece.place}}}}} holds a backslash, or what is no text")
    if piece.around is Around.IDENTIFIER:
        return value.replace('"', '""')
    if piece.around is Around.LITERAL:
        return value.replace("'", "''")
    if piece.around is Around.DOLLARS:
        if not _HARMLESS.fullmatch(value):
            raise _malformed(f"{{{{{piece.place}}}}} holds characters that may mean something inside $$")
        return value
    # The spaces keep it apart from whatever stands beside it.
    return f' "{value.replace(chr(34), chr(34) * 2)}" ' if piece.place == NAME else f" '{_doubled(value)}' "


def unspeakable(text: str) -> bool:
    """NUL, or halves of characters, which JSON can hold and UTF-8 cannot."""
    return "\0" in text or any("\ud800" <= each <= "\udfff" for each in text)


def _doubled(value: str) -> str:
    return value.replace("'", "''")


def _check_dollars(pieces: Sequence[Piece], values: Mapping[str, str]) -> None:
    """What is put inside dollar quotes must not end them."""
    for block, tag in {(each.block, each.tag) for each in pieces if each.tag}:
        inside = (each for each in pieces if each.tag and each.block == block)
        filled = "".join(values[each.place] if each.place else each.text for each in inside)
        if filled.find(tag, len(tag)) != len(filled) - len(tag):
            raise _malformed("what is put inside dollar quotes would end them")


def _malformed(why: str) -> VestibuleError:
    return MALFORMED_STATEMENT.error(f"a statement cannot be used: {why}")


def _split(text: str) -> Iterator[Statement]:
    if len(text) > LONGEST or unspeakable(text):
        raise _malformed("it is too long, or holds what is no text")
    pieces: list[Piece] = []
    for each in _Reader(text).pieces():
        if each is not None:
            pieces.append(each)
            continue
        if (found := _whole(pieces)) is not None:
            yield found
        pieces = []
    if (found := _whole(pieces)) is not None:
        yield found


def _whole(pieces: Sequence[Piece]) -> Statement | None:
    first = pieces[0].text.split() if pieces else []
    if first and first[0].lower() in _CONTROL and pieces[0].around is Around.WORDS:
        raise _malformed(f"{first[0].upper()} would end the transaction that it runs in")
    if all(each.around is Around.WORDS and not each.place and not each.text.strip() for each in pieces):
        return None
    return Statement(tuple(pieces))


class _Reader:
    """Reads one text from its beginning to its end.  None among its pieces ends a statement."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._words = ""

    def pieces(self) -> Iterator[Piece | None]:
        while self._at < len(self._text):
            yield from self._next()
        yield from self._said()

    def _next(self) -> Iterator[Piece | None]:
        text, at = self._text, self._at
        if text.startswith("--", at):
            line = text.find("\n", at)
            self._skip(line if line >= 0 else len(text))
        elif text.startswith("/*", at):
            self._skip(self._end_of_comment())
        elif text.startswith("{{", at):
            yield from self._said()
            yield self._place(Around.WORDS)
        elif text[at] == ";":
            yield from self._said()
            yield None
            self._at += 1
        elif text[at] in "'\"":
            yield from self._quoted(text[at])
        elif (found := _DOLLAR.match(text, at)) and not self._in_word():
            yield from self._dollars(found[0])
        else:
            self._words += text[at]
            self._at += 1

    def _said(self) -> Iterator[Piece]:
        if self._words:
            yield Piece(Around.WORDS, self._words)
            self._words = ""

    def _skip(self, to: int) -> None:
        self._words += " "
        self._at = to

    def _in_word(self) -> bool:
        return bool(self._words and _WORD.match(self._words[-1]))

    def _end_of_comment(self) -> int:
        depth, at = 0, self._at
        while at < len(self._text):
            two = self._text[at : at + 2]
            if two == "/*":
                depth += 1
            elif two == "*/":
                depth -= 1
            at += 2 if two in ("/*", "*/") else 1
            if depth == 0:
                return at
        raise _malformed("a comment does not end")

    def _place(self, around: Around, tag: str = "", block: int = 0) -> Piece:
        found = _PLACE.match(self._text, self._at)
        place = _ALIASES.get(found[1]) if found else None
        if found is None or place is None:
            raise _malformed("{{ begins no name that is known: name, password and expiration are")
        if around is Around.IDENTIFIER and place != NAME:
            raise _malformed(f"{{{{{place}}}}} stands in double quotes, which are for names")
        self._at = found.end()
        return Piece(around, place=place, tag=tag, block=block)

    def _quoted(self, quote: str) -> Iterator[Piece]:
        escapes = quote == "'" and self._escapes()
        yield from self._said()
        around, said = Around(quote), quote
        self._at += 1
        while True:
            rest = self._text[self._at : self._at + 2]
            if not rest:
                raise _malformed("a quote does not end")
            if rest == quote * 2 or (escapes and rest[0] == "\\" and len(rest) == 2):
                said += rest
                self._at += 2
            elif rest[0] == quote:
                self._at += 1
                yield Piece(around, said + quote)
                return
            elif rest == "{{":
                yield Piece(around, said)
                yield self._place(around)
                said = ""
            else:
                said += rest[0]
                self._at += 1

    def _escapes(self) -> bool:
        """Whether backslashes mean something in the literal that begins here: E'…'."""
        before = self._words[-2:]
        return before[-1:] in ("e", "E") and not _WORD.match(before[:-1])

    def _dollars(self, tag: str) -> Iterator[Piece]:
        yield from self._said()
        block = self._at
        end = self._text.find(tag, block + len(tag))
        if end < 0:
            raise _malformed("a dollar quote does not end")
        said = ""
        while self._at < end + len(tag):
            if self._text.startswith("{{", self._at):
                if said:
                    yield Piece(Around.DOLLARS, said, tag=tag, block=block)
                yield self._place(Around.DOLLARS, tag, block)
                said = ""
            else:
                said += self._text[self._at]
                self._at += 1
        yield Piece(Around.DOLLARS, said, tag=tag, block=block)
