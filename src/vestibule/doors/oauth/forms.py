"""What is sent to the endpoints: forms (RFC 6749, appendix B), each parameter at most once.

Two may come several times: ``audience`` and ``resource`` (RFC 8693, section 2.1; RFC 8707, section 2).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote_plus

from vestibule.doors.oauth.codes import MALFORMED, TOO_LARGE
from vestibule.errors import VestibuleError

MAX_BYTES: Final = 64 * 1024
"""Of a body: two tokens, and all else that a request can say."""
MOST_FIELDS: Final = 64
_DIGITS: Final = 18
_FORM: Final = b"application/x-www-form-urlencoded"
_CHARSETS: Final = frozenset({b"", b"charset=utf-8", b'charset="utf-8"'})
_REPEATED: Final = frozenset({"audience", "resource"})

Receive = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Form:
    """The parameters of a request; most are secrets.  What was sent without a value was not sent (section 3.1)."""

    single: Mapping[str, str] = field(repr=False)
    repeated: Mapping[str, tuple[str, ...]] = field(repr=False)

    def get(self, name: str) -> str:
        """A parameter's value; empty if it was not sent."""
        return self.single.get(name, "")

    def needed(self, name: str) -> str:
        """Raises: VST6070 if it was not sent."""
        if not (value := self.get(name)):
            raise MALFORMED.error(f"the parameter {name} is missing")
        return value

    def targets(self, name: str) -> tuple[str, ...]:
        """Of ``audience`` or ``resource``."""
        return self.repeated.get(name, ())

    @property
    def scopes(self) -> tuple[str, ...]:
        """What ``scope`` lists, as it is written (RFC 6749, section 3.3)."""
        text = self.get("scope")
        return tuple(text.split(" ")) if text else ()


async def form_of(content_type: bytes, length: bytes, receive: Receive) -> Form:
    """The form that a request carries.  Raises: VST6070, VST6071."""
    kind, _, charset = content_type.lower().partition(b";")
    if kind.strip() != _FORM or charset.strip() not in _CHARSETS:
        raise MALFORMED.error(f"the body is not {_FORM.decode()}")
    if length.isdigit() and int(length[:_DIGITS]) > MAX_BYTES:
        raise _too_large()
    return read_form(await _body(receive))


def read_form(body: bytes) -> Form:
    """The parameters in a body.  Raises: VST6070."""
    single: dict[str, str] = {}
    repeated: dict[str, tuple[str, ...]] = {}
    for name, value in _pairs(body):
        if name in _REPEATED:
            repeated[name] = (*repeated.get(name, ()), value) if value else repeated.get(name, ())
        elif name in single:
            raise MALFORMED.error(f"the parameter {_shown(name)} is there twice")
        else:
            single[name] = value
    return Form({name: value for name, value in single.items() if value}, repeated)


def _pairs(body: bytes) -> Iterator[tuple[str, str]]:
    """As ``urllib.parse.parse_qsl`` has them, in half the time: a token costs little more than what is done here."""
    try:
        parts = body.decode("ascii").split("&")
        if len(parts) > MOST_FIELDS:
            raise MALFORMED.error(f"more than {MOST_FIELDS} parameters")
        for part in filter(None, parts):
            name, _, value = part.partition("=")
            yield _unquoted(name), _unquoted(value)
    except UnicodeError:
        # What is told of it quotes the body.
        raise MALFORMED.error("the form cannot be read") from None


def _unquoted(text: str) -> str:
    return unquote_plus(text, errors="strict") if "%" in text or "+" in text else text


async def _body(receive: Receive) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise MALFORMED.error("the client left")
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BYTES:
            raise _too_large()
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def _too_large() -> VestibuleError:
    return TOO_LARGE.error(f"a body of more than {MAX_BYTES} bytes")


def _shown(name: str) -> str:
    """A parameter's name is no secret; but whoever writes nonsense may have put one there."""
    return name if re.fullmatch(r"[a-z_]{1,40}", name) else "(of an unknown name)"
