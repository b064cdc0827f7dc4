"""Paths of secrets: one spelling for each, so that what a rule names is what is read."""

from __future__ import annotations

import re
from typing import Final
from unicodedata import category, is_normalized

from vestibule.secrets.versions.codes import MALFORMED_PATH

LONGEST_PATH: Final = 512
"""Bytes in UTF-8."""

LONGEST_SEGMENT: Final = 255

_PLAIN: Final = re.compile(r"(?!\.{1,2}(?:/|$))[\w.~@+=:,-]+(?:/(?!\.{1,2}(?:/|$))[\w.~@+=:,-]+)*", re.ASCII)
"""Nearly all paths; these need no closer look."""

_MEANING: Final = frozenset('\\%;?#"<>*{}')
"""What means something in URLs, in patterns of rules, or is a separator to some proxies."""


def secret_path(text: str) -> str:
    """``text``, if it is the path of a secret: ``payments/db``.  Nothing is mended: no other spelling is the same.

    Raises: VST5100.
    """
    if len(text) <= LONGEST_SEGMENT and _PLAIN.fullmatch(text):
        return text
    if fault := _fault(text):
        raise MALFORMED_PATH.error(f"the path {text[:100]!r} {fault}")
    return text


def folder(text: str) -> str:
    """What keys below ``text`` begin with; the empty text is the root.  Raises: VST5100."""
    return f"{secret_path(text)}/" if text else ""


def _fault(text: str) -> str:
    """What is wrong with a path, empty if nothing is."""
    if any(_is_odd(each) for each in text):
        return "has characters that are not for the eye, or that mean something elsewhere"
    # NFKC is stricter than NFC: it also refuses what looks like something else, as full-width letters do.
    if not is_normalized("NFKC", text):
        return "has characters that stand for others, or is not composed (Unicode's NFKC)"
    if len(text.encode()) > LONGEST_PATH:
        return f"is longer than {LONGEST_PATH} bytes"
    return next(filter(None, map(_segment_fault, text.split("/"))), "")


def _is_odd(character: str) -> bool:
    # C*: control, format (turned and invisible writing), surrogates, private, not assigned; Z*: spaces but our own.
    kind = category(character)
    return kind[0] == "C" or (kind[0] == "Z" and character != " ") or character in _MEANING


def _segment_fault(segment: str) -> str:
    if segment in ("", ".", ".."):
        return "has empty or dot segments"
    if segment != segment.strip():
        return "has a segment that begins or ends with a space"
    if len(segment.encode()) > LONGEST_SEGMENT:
        return f"has a segment of more than {LONGEST_SEGMENT} bytes"
    return ""
