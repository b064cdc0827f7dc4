"""Fill in what ``docs/intent.md`` says of keys and codes, and publish the JSON Schemas of the intent language.

``python scripts/intent_docs.py`` writes them; ``--check`` writes nothing, and exits 1 if anything is not current.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from vestibule.errors import CATALOGUE
from vestibule.intent import codes, language
from vestibule.intent.lone import keys as lone_keys
from vestibule.intent.lone.keys import Kept
from vestibule.intent.not_yet import NOT_YET
from vestibule.intent.rule_keys import Bound, Callers, Expression
from vestibule.intent.scalars import As, Either, OneOf, PerCent, Switch, WordOrNumber
from vestibule.intent.shapes import Choice, Key, Many, Record, Table, Text, Whole
from vestibule.policy.vocabulary import NAMES

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "intent.md"
LONE_PAGE = ROOT / "docs" / "lone-sidecar.md"
TASKS = ROOT / "docs" / "authorization.md"
PACKAGED = ROOT / "src" / "vestibule" / "intent" / "schemas"
SCHEMAS = ROOT / "docs" / "schemas"
WARNINGS: Final = (
    *(codes.NOBODY_ALLOWED, codes.RETRIED_UNSAFELY, codes.NEVER_ALLOWED, codes.EXPIRED, codes.DENIED_WHOLE),
    *(codes.OVER_BROAD, codes.NAMES_NOBODY, codes.ROLE_UNUSED, codes.RULES_OVERLAP, codes.DENIES_NOTHING),
    *(codes.SECRETS_OVER_BROAD, codes.SECRET_PATH_UNASKED),
)
_SECTION = re.compile(r"<!-- (keys: [^>]+|later|codes) -->\n.*?<!-- end -->", re.DOTALL)


_VOCABULARY = re.compile(r"<!-- vocabulary -->\n.*?<!-- end -->", re.DOTALL)


def every_record(*files: Record) -> dict[str, Record]:
    """The records of the language, or of some files, by their titles."""
    found: dict[str, Record] = {}
    waiting: list[Any] = list(reversed(files or tuple(language.FILES.values())))
    while waiting:
        shape = waiting.pop()
        if isinstance(shape, Record) and shape.title not in found:
            found[shape.title] = shape
            waiting += [key.shape for key in reversed(shape.keys)]
        elif not isinstance(shape, Record):
            parts = ("record", "item", "value", "mapping", "scalar", "shape")
            waiting += [part for name in parts if (part := getattr(shape, name, None)) is not None]
    return found


def filled(page: str, *files: Record) -> str:
    """The page with its tables as the code has them now."""
    records = every_record(*files)

    def section(match: re.Match[str]) -> str:
        what = match[1]
        if what == "later":
            body = _later(records)
        elif what == "codes":
            body = _codes()
        else:
            body = _keys(records[what.removeprefix("keys: ")])
        return f"<!-- {what} -->\n{body}\n<!-- end -->"

    return _SECTION.sub(section, page)


def _keys(record: Record) -> str:
    rows = ["| key | value | meaning |", "|---|---|---|"]
    for key in record.keys:
        if f"{record.title}: {key.name}" not in NOT_YET:
            meaning = key.doc + (f" Default: `{key.default}`." if key.default is not None else "")
            name = f"`{key.name}`" + (" (required)" if key.required else "")
            rows.append(f"| {name} | {form(key)} | {_cell(meaning)} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("  ", " ")


def form(key: Key[Any]) -> str:
    """How the value of a key is written, in a few words."""
    return _form(key.shape)


def _form(shape: Any) -> str:
    if isinstance(shape, Kept):
        return _form(shape.shape)
    if shape is lone_keys.LISTEN.shape:
        return "a port, or an IP address and a port"
    if isinstance(shape, Many) and isinstance(shape.item, WordOrNumber):
        return "list of ports and ranges of them"
    if isinstance(shape, Choice):
        return ", ".join(f"`{word}`" for word in shape.open)
    if isinstance(shape, Callers):
        return "list of callers" if shape.closed else "list of callers, or `anyone`"
    if isinstance(shape, Expression):
        return "a condition"
    if isinstance(shape, Whole):
        return f"{shape.least} to {shape.most}"
    if isinstance(shape, OneOf):
        return ", ".join(str(number) for number in shape.numbers)
    if isinstance(shape, PerCent):
        return f"{shape.least:g} to 100"
    if isinstance(shape, Bound):
        return "`true`, `false`, `certificate`"
    if isinstance(shape, Switch):
        return "`true`, `false`"
    if isinstance(shape, Many):
        return f"list of {shape.what}s" if not shape.what.endswith("s") else f"list of {shape.what}"
    if isinstance(shape, Table):
        return f"mapping from {shape.what}"
    if isinstance(shape, (Record, As)):
        return "mapping, below"
    if isinstance(shape, Either):
        return f"{_form(shape.scalar)}, or a mapping, below"
    if isinstance(shape, WordOrNumber):
        return "words and statuses"
    assert isinstance(shape, Text), shape
    if "enum" in shape.extra:
        return ", ".join(f"`{word}`" for word in shape.extra["enum"])
    return shape.what.removeprefix("a text, ")


def _later(records: dict[str, Record]) -> str:
    lines = []
    for record in records.values():
        names = sorted(record.later | {each.partition(": ")[2] for each in NOT_YET if _is_of(each, record)})
        words = [(key.name, word) for key in record.keys for word in getattr(key.shape, "closed", ())]
        told = [f"`{name}`" for name in names] + [f"`{name}: {word}`" for name, word in words]
        if told:
            lines.append(f"- of {record.title}: {', '.join(told)}")
    return "\n".join(lines)


def _is_of(entry: str, record: Record) -> bool:
    """Whether an entry is a key of the record, and no word."""
    return entry.partition(": ")[0] == record.title and entry.count(": ") == 1


def _codes() -> str:
    rows = ["| code | what it means |", "|---|---|"]
    for code, each in sorted(CATALOGUE.items()):
        if code.startswith("VST0"):
            warning = " *(warning)*" if each in WARNINGS else ""
            rows.append(f"| [{code}](errors/{code}.md){warning} | {_cell(each.meaning)} |")
    rows.append("| [VST1400](errors/VST1400.md) | A malformed SPIFFE ID or trust domain. |")
    rows.append("| [VST4010](errors/VST4010.md) | A malformed path. |")
    rows.append("| [VST4011](errors/VST4011.md) | A malformed pattern of SPIFFE IDs. |")
    return "\n".join(rows)


def _vocabulary() -> str:
    rows = ["| name | type | what it is |", "|---|---|---|"]
    rows += [f"| `{name}` | {each.type} | {_cell(each.meaning)} |" for name, each in NAMES.items()]
    return "\n".join(rows)


def expected() -> Iterator[tuple[Path, str]]:
    """What must stand in the page and the schemas."""
    yield PAGE, filled(PAGE.read_text(encoding="utf-8"))
    told = f"<!-- vocabulary -->\n{_vocabulary()}\n<!-- end -->"
    yield TASKS, _VOCABULARY.sub(lambda _: told, TASKS.read_text(encoding="utf-8"))
    yield LONE_PAGE, filled(LONE_PAGE.read_text(encoding="utf-8"), lone_keys.LONE_FILE)
    schemas = {kind: language.schema(kind) for kind in language.FILES} | {"lone": lone_keys.schema()}
    for kind, schema in schemas.items():
        text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        yield PACKAGED / f"{kind}.schema.json", text
        yield SCHEMAS / f"{kind}.schema.json", text


def main(arguments: list[str]) -> int:
    """Write, or with ``--check`` only compare."""
    wrong = [
        (path, text)
        for path, text in expected()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path, text in wrong:
        if arguments == ["--check"]:
            print(f"{path.relative_to(ROOT)} is not current; run `make docs`")
        else:
            path.write_text(text, encoding="utf-8")
    return 1 if wrong and arguments == ["--check"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
