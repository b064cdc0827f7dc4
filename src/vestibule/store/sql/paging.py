"""Listings in pages: by key, so that a page costs the same wherever it is."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from sqlalchemy import Column, Row, Select, Text, type_coerce
from sqlalchemy.ext.asyncio import AsyncConnection

from vestibule.store.codes import MALFORMED_PAGE_TOKEN
from vestibule.store.ports import Page

T = TypeVar("T")
_CHUNK = 500


async def matching(
    connection: AsyncConnection,
    query: Select[Any],
    key: Column[Any],
    read: Callable[[Row[Any]], T],
    after: str = "",
) -> AsyncIterator[tuple[str, T]]:
    """What ``query`` finds, with its keys, in the order of ``key``, from beyond ``after``; read bit by bit."""
    while True:
        # Compared as text: a key that is a SPIFFE ID need not be one in a token.
        beyond = type_coerce(key, Text) > after
        rows = (await connection.execute(query.where(beyond).order_by(key).limit(_CHUNK))).all()
        for row in rows:
            yield str(row._mapping[key]), read(row)
        if len(rows) < _CHUNK:
            return
        after = str(rows[-1]._mapping[key])


async def page(found: AsyncIterator[tuple[str, T]], admits: Callable[[T], bool], size: int) -> Page[T]:
    """The first ``size`` (0: all) of what is found and admitted."""
    items: list[T] = []
    last = ""
    async for key, record in found:
        if not admits(record):
            continue
        if size and len(items) == size:
            return Page(items=tuple(items), next_token=encode_token(last))
        items.append(record)
        last = key
    return Page(items=tuple(items))


def encode_token(key: str) -> str:
    """The token that points beyond ``key``."""
    return base64.urlsafe_b64encode(key.encode()).decode()


def decode_token(token: str) -> str:
    """The key that a token points beyond.  Raises: VST8013."""
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError as error:
        raise MALFORMED_PAGE_TOKEN.error("the page token is not one that a listing gave") from error
