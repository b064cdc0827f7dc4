"""Paths of requests: each has one form, and what is written in any other is refused, never mended.

What is authorised is then the very path that is read: nothing behind this collapses, decodes or normalises anything.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from urllib.parse import unquote_to_bytes

from vestibule.doors.vault.codes import BAD_PATH, NO_SUCH_PATH

PREFIX: Final = b"/v1/"
LONGEST: Final = 2048
"""Bytes of a path as it is sent."""

_SEGMENT: Final = rb"(?!\.{1,2}(?:/|$))[A-Za-z0-9._~@:+=,!$&'()*-]+"
_PLAIN: Final = re.compile(rb"/v1/(?:" + _SEGMENT + rb"/)*" + _SEGMENT + rb"/?")
_ALLOWED: Final = re.compile(rb"(?:[A-Za-z0-9._~@:+=,!$&'()*/-]|%[0-9A-Fa-f]{2})*")
_FORBIDDEN: Final = frozenset('/\\%;?#"<>')


def path_of(raw: bytes) -> str:
    """What follows ``/v1/`` in a request's path (without query), decoded once; a last slash is dropped.

    1. It is not longer than ``LONGEST`` and begins with ``/v1/``.
    2. It holds only characters that a URL's path may, and whole percent-encodings; no ``;`` and no backslash.
    3. No segment is empty, ``.`` or ``..``, as sent or decoded.
    4. Decoded, it is UTF-8 and holds no slash, backslash or percent sign that was encoded, nothing that cannot be
       seen, and nothing that Unicode takes for the like of something else (NFKC).

    Raises: VST5202, VST5205 (1).
    """
    if len(raw) > LONGEST:
        raise BAD_PATH.error(f"a path of {len(raw)} bytes; {LONGEST} is the limit")
    if _PLAIN.fullmatch(raw):
        return raw[4:].rstrip(b"/").decode("ascii")
    if not raw.startswith(PREFIX):
        raise NO_SUCH_PATH.error("the API is below /v1/")
    if not _ALLOWED.fullmatch(raw):
        raise BAD_PATH.error("the path holds characters that belong percent-encoded, or nowhere")
    text = raw[4:].removesuffix(b"/")
    return "/".join(_segment(each) for each in text.split(b"/"))


def _segment(raw: bytes) -> str:
    try:
        text = unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise BAD_PATH.error("a segment of the path is not UTF-8") from None
    if text in ("", ".", ".."):
        raise BAD_PATH.error("a segment of the path is empty, or leads elsewhere")
    if not _FORBIDDEN.isdisjoint(text) or text != text.strip() or not text.isprintable():
        raise BAD_PATH.error("a segment of the path holds what a name must not, however it is encoded")
    if unicodedata.normalize("NFKC", text) != text:
        raise BAD_PATH.error("a segment of the path holds characters that stand for others")
    return text
