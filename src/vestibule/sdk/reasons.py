"""Finding, below what a library raised, the reason that this package had."""

from __future__ import annotations

from collections.abc import Iterator

from vestibule.errors import VestibuleError


def reason(error: BaseException | None) -> VestibuleError | None:
    """What was wrong, with its code and advice, if a failure goes back to an error of Vestibule.

    Libraries wrap what happens in a handshake in errors of their own: as their cause, their context, an argument, an
    attribute (urllib3's ``reason``, aiohttp's ``os_error``), or in a group.  The outermost of ours is returned.
    """
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop(0)
        if each is None or id(each) in seen:
            continue
        if isinstance(each, VestibuleError):
            return each
        seen.add(id(each))
        waiting.extend(_below(each))
    return None


def _below(error: BaseException) -> Iterator[BaseException]:
    yield from _errors(
        error.__cause__,
        error.__context__,
        getattr(error, "reason", None),
        getattr(error, "os_error", None),
        getattr(error, "certificate_error", None),
    )
    yield from _errors(*error.args)
    if isinstance(error, BaseExceptionGroup):
        yield from error.exceptions


def _errors(*found: object) -> Iterator[BaseException]:
    return (each for each in found if isinstance(each, BaseException))
