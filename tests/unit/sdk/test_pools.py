"""When a connection of httpcore's pools counts as idle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import httpcore
import httpx

from vestibule.sdk import Lifetimes
from vestibule.sdk.pools import Mtls, Pool

URL = "https://127.0.0.1:1/"


class Body:
    """What is read of an answer."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"paid"

    def close(self) -> None:
        """It was read."""


class SeemsIdle:
    """HTTP/2 as httpcore has it after several requests waited for the first answer: never active again."""

    def __init__(self) -> None:
        self.closed = 0

    def handle_request(self, _request: httpcore.Request) -> httpcore.Response:
        return httpcore.Response(200, content=Body())

    def is_idle(self) -> bool:
        return True

    def has_expired(self) -> bool:
        return True

    def close(self) -> None:
        self.closed += 1


def test_a_connection_whose_answer_is_being_read_is_not_closed_as_idle() -> None:
    wanted = Mtls(cast(Any, None), Lifetimes(), cast(Any, None), True, True, httpx.Limits(), 0)
    pooled = cast(Any, Pool(wanted).create_connection(httpcore.URL(URL).origin))
    inner = pooled._inner = pooled._sync_inner = SeemsIdle()
    answer = pooled.handle_request(httpcore.Request("GET", URL))
    pooled.retire(cast(Any, None))
    assert (inner.closed, pooled.is_idle(), pooled.has_expired()) == (0, False, False)
    assert list(answer.stream) == [b"paid"]
    answer.stream.close()
    assert (pooled.is_idle(), pooled.has_expired()) == (True, True)
    pooled.retire(cast(Any, None))
    assert inner.closed == 1
