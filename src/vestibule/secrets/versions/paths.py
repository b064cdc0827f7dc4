"""Paths of secrets: one spelling for each, so that what a rule names is what is read.

A path is what a URL's path may hold as it is (RFC 3986, ``pchar``), without escapes, and without ``*`` and ``;``, which
mean something in rules and to some proxies.  So it is ASCII: what looks alike is alike; there is nothing to compose,
to fold or to decode.
"""

from __future__ import annotations

import re
from typing import Final

from vestibule.secrets.versions.codes import MALFORMED_PATH

LONGEST_PATH: Final = 512
"""Characters."""

LONGEST_SEGMENT: Final = 255

_SEGMENT: Final = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._~@:+=,!$&'()-]+"
_PATH: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")


def secret_path(text: str) -> str:
    """``text``, if it is the path of a secret: ``payments/db``.  Nothing is mended: no other spelling is the same.

    Raises: VST5100.
    """
    if len(text) > LONGEST_PATH:
        raise MALFORMED_PATH.error(f"the path is longer than {LONGEST_PATH} characters: {text[:50]!r}…")
    if not _PATH.fullmatch(text):
        raise MALFORMED_PATH.error(f"the path {text!r} {_fault(text)}")
    if len(text) > LONGEST_SEGMENT and max(map(len, text.split("/"))) > LONGEST_SEGMENT:
        raise MALFORMED_PATH.error(
            f"the path has a segment of more than {LONGEST_SEGMENT} characters: {text!r}"
        )
    return text


def folder(text: str) -> str:
    """What keys below ``text`` begin with; the empty text is the root.  Raises: VST5100."""
    return f"{secret_path(text)}/" if text else ""


def _fault(text: str) -> str:
    if {"", ".", ".."} & set(text.split("/")):
        return "has empty or dot segments"
    return "has characters other than letters and digits of ASCII and . _ ~ @ : + = , ! $ & ' ( ) -"
