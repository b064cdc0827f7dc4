"""Finding our reason below what libraries raise."""

from __future__ import annotations

import ssl

import pytest

from vestibule.errors import VestibuleError
from vestibule.sdk import reason
from vestibule.sdk.codes import NOT_AUTHORIZED

REASON = NOT_AUTHORIZED.error("somebody else")


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:  # noqa: BLE001 - it is what is looked at
        return caught


def in_handling(first: BaseException, second: BaseException) -> BaseException:
    try:
        try:
            raise first
        except BaseException:  # noqa: BLE001
            raise second  # noqa: B904 - as libraries do
    except BaseException as caught:  # noqa: BLE001
        return caught


class PoolError(Exception):
    """As urllib3 has it."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__("pool", "url")
        self.reason = reason


class ConnectorError(OSError):
    """As aiohttp has it."""

    def __init__(self, os_error: OSError) -> None:
        super().__init__("key")
        self.os_error = os_error


HANDSHAKE = raised(ssl.SSLCertVerificationError(1, "VST2404"), REASON)


@pytest.mark.parametrize(
    "error",
    [
        REASON,
        HANDSHAKE,
        raised(RuntimeError("outer"), HANDSHAKE),
        in_handling(HANDSHAKE, RuntimeError("outer")),
        raised(ConnectionError(PoolError(HANDSHAKE))),
        ConnectorError(HANDSHAKE),  # type: ignore[arg-type]
        BaseExceptionGroup("several", [ValueError(), HANDSHAKE]),
    ],
    ids=["itself", "cause", "deep", "context", "argument", "attribute", "group"],
)
def test_the_reason_is_found_wherever_libraries_put_it(error: BaseException) -> None:
    found = reason(error)
    assert isinstance(found, VestibuleError)
    assert found.code is NOT_AUTHORIZED


def test_there_is_none_for_what_is_not_ours() -> None:
    assert reason(None) is None
    assert reason(ValueError("x", 1)) is None


def test_errors_that_refer_to_each_other_end() -> None:
    one, two = ValueError(), ValueError()
    one.__context__, two.__context__ = two, one
    assert reason(one) is None
