"""SQL with places: what is put there stays a name or a literal."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vestibule.errors import VestibuleError
from vestibule.secrets.dynamic.statements import EXPIRATION, NAME, PASSWORD, statements

ALL = frozenset((NAME, PASSWORD, EXPIRATION))
VALUES = {NAME: "v-app", PASSWORD: "pa55", EXPIRATION: "2026-01-01 00:00:00+00"}


def filled(text: str, values: dict[str, str] | None = None) -> list[str]:
    return [each.filled(VALUES | (values or {})).strip() for each in statements([text], ALL)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("DROP ROLE {{name}}", ['DROP ROLE  "v-app"']),
        ('DROP ROLE "{{name}}"', ['DROP ROLE "v-app"']),
        ('DROP ROLE "{{username}}";', ['DROP ROLE "v-app"']),
        ("PASSWORD '{{ password }}'", ["PASSWORD 'pa55'"]),
        ("PASSWORD {{password}}", ["PASSWORD  'pa55'"]),
        ("VALID UNTIL '{{expiration}}'", ["VALID UNTIL '2026-01-01 00:00:00+00'"]),
        ("SELECT 1; SELECT ';' ; ; SELECT $$;$$", ["SELECT 1", "SELECT ';'", "SELECT $$;$$"]),
        ("SELECT 1 -- ; {{nothing}}\n;SELECT 2 /* ; /* nested */ {{no}} */", ["SELECT 1", "SELECT 2"]),
        ("SELECT E'\\';' ; SELECT 1", ["SELECT E'\\';'", "SELECT 1"]),
        ("SELECT 'a'';b'", ["SELECT 'a'';b'"]),
        ("DO $x$ BEGIN; PERFORM '{{name}}'; END $x$", ["DO $x$ BEGIN; PERFORM 'v-app'; END $x$"]),
        ("SELECT a$b$c; SELECT $1", ["SELECT a$b$c", "SELECT $1"]),
        ("", []),
        (" ;; -- nothing", []),
    ],
)
def test_statements_are_read_as_postgresql_reads_them(text: str, expected: list[str]) -> None:
    assert filled(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "SELECT '", 'SELECT "', "SELECT $$", "SELECT $a$ $b$", "/* no end", "SELECT E'\\'",
        "SELECT {{", "SELECT {{nothing}}", "SELECT {{name}", "SELECT '{{nothing}}'", 'SELECT "{{password}}"',
        "SELECT $${{nothing}}$$", "COMMIT", " rollback ; SELECT 1", "SELECT 1; BEGIN", "end", "SELECT \0",
        "SELECT \ud800",
        "SELECT " + "x" * 70_000,
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(VestibuleError) as raised:
        statements([text], ALL)
    assert raised.value.code.code == "VST5414"


def test_places_that_have_no_meaning_in_a_statement_are_refused() -> None:
    with pytest.raises(VestibuleError):
        statements(["DROP ROLE {{name}} -- \n {{password}}"], frozenset((NAME,)))


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("DROP ROLE {{name}}", 'a"; DROP TABLE t --', ['DROP ROLE  "a""; DROP TABLE t --"']),
        ('DROP ROLE "{{name}}"', 'a"; DROP TABLE t --', ['DROP ROLE "a""; DROP TABLE t --"']),
        ("SELECT '{{name}}'", "a'; DROP TABLE t --", ["SELECT 'a''; DROP TABLE t --'"]),
        ("SELECT E'{{name}}'", "a'", ["SELECT E'a'''"]),
    ],
)
def test_no_value_leaves_its_quotes(text: str, name: str, expected: list[str]) -> None:
    assert filled(text, {NAME: name}) == expected


@pytest.mark.parametrize("name", ["a'", 'a"', "a;", "a$$", "$x$", "a\\", "a\0", "a$"])
def test_what_may_mean_something_inside_dollars_is_refused_there(name: str) -> None:
    for text in ("DO $$ {{name}}$$", "DO $x$ {{name}}$x$"):
        try:
            (done,) = filled(text, {NAME: name})
        except VestibuleError:
            continue
        assert done.count(text[3:5]) == 2
        assert structure(done) == structure(filled(text, {NAME: "plain"})[0])


def test_a_value_and_its_neighbours_do_not_make_a_dollar_quote_together() -> None:
    with pytest.raises(VestibuleError):
        filled("DO $$ a ${{name}} $$", {NAME: "$ b"})
    with pytest.raises(VestibuleError):
        filled("DO $$ a {{name}}$$", {NAME: "b$"})


# ------------------------------------------------------------------------------------ read by somebody else


def structure(sql: str, *, spaces: bool = False) -> list[str]:
    """The kinds of tokens of some SQL, by a reader that has nothing in common with ours: one character at a time."""
    kinds, at = list[str](), 0
    while at < len(sql):
        char = sql[at]
        if char in "'\"":
            escaping = char == "'" and at > 0 and sql[at - 1] in "eE" and (at < 2 or not _wordy(sql[at - 2]))
            at += 1
            while True:
                assert at < len(sql), "a quote does not end"
                if (escaping and sql[at] == "\\") or (sql[at] == char and sql[at + 1 : at + 2] == char):
                    at += 2
                elif sql[at] == char:
                    break
                else:
                    at += 1
            at += 1
            kinds.append(char)
            continue
        if char == "$" and (at == 0 or not _wordy(sql[at - 1])):
            close = sql.find("$", at + 1)
            tag = sql[at : close + 1] if close > 0 else ""
            inner = tag[1:-1]
            if tag and (
                not inner or (all(map(_wordy, inner)) and "$" not in inner and not inner[0].isdigit())
            ):
                end = sql.find(tag, close + 1)
                assert end > 0, "a dollar quote does not end"
                at = end + len(tag)
                kinds.append(tag)
                continue
        if spaces or not char.isspace():
            kinds.append(char)
        at += 1
    return kinds


def _wordy(char: str) -> bool:
    return char in string.ascii_letters + string.digits + "_$" or ord(char) >= 128


TEXTS = st.text(alphabet="aE ;'\"$x\\-/*\n{}", max_size=40)
WITH_PLACES = st.lists(
    st.one_of(
        TEXTS, st.sampled_from(["{{name}}", "{{password}}", "'{{name}}'", '"{{name}}"', "$$", "$x$", "E'"])
    ),
    max_size=8,
).map("".join)
NASTY = st.text(alphabet="a'\"$x;-\\ /*{}\n", min_size=1, max_size=10)


@given(WITH_PLACES, NASTY, NASTY)
@example("E'\\{{name}}'", "';", "x")
@example("''{{password}}''", "x", "';")
@example("- -", ";", ";")
@example("$x{{name}}$x$", "$", "x")
def test_whatever_the_template_and_the_value_the_value_changes_nothing_around_it(
    text: str, name: str, password: str
) -> None:
    """Filled in with anything, a statement has the same tokens as when it is filled in with a plain word."""
    try:
        found = statements([text], ALL)
        plain = [each.filled(VALUES | {NAME: "plain", PASSWORD: "plain"}) for each in found]
    except VestibuleError as error:
        ours(error)
        return
    for each, simple in zip(found, plain, strict=True):
        try:
            nasty = each.filled(VALUES | {NAME: name, PASSWORD: password})
        except VestibuleError as error:
            ours(error)
            continue
        assert structure(nasty) == structure(simple)
        assert "--" not in outside_quotes(simple)


def ours(error: VestibuleError) -> None:
    assert error.code.code == "VST5414"


def outside_quotes(sql: str) -> str:
    return "".join(each for each in structure(sql, spaces=True) if len(each) == 1)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = statements([text], ALL)
    except VestibuleError as error:
        ours(error)
        return
    for each in found:
        assert each.places <= ALL
