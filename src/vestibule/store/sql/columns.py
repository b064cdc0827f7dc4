"""Column types: how values stand in the database.

Instants and durations are whole microseconds, so that what is read equals what was written.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import lru_cache
from typing import Any

from sqlalchemy import BigInteger, Dialect, Text
from sqlalchemy.types import TypeDecorator, TypeEngine

from vestibule.records import Address
from vestibule.spiffe import JwtAuthority, Selector, SpiffeId, TrustDomain

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class _Column(TypeDecorator[Any]):
    """``write`` and ``read`` translate; ``None`` stays ``NULL``."""

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else self.write(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else self.read(value)

    def write(self, value: Any) -> Any:
        return str(value)

    def read(self, value: Any) -> Any:
        raise NotImplementedError


class Instant(_Column):
    """An aware ``datetime``, in microseconds since 1970."""

    impl = BigInteger
    cache_ok = True

    def write(self, value: datetime) -> int:
        return (value - _EPOCH) // _MICROSECOND

    def read(self, value: int) -> datetime:
        return _EPOCH + value * _MICROSECOND


class Duration(_Column):
    """A ``timedelta``, in microseconds."""

    impl = BigInteger
    cache_ok = True

    def write(self, value: timedelta) -> int:
        return value // _MICROSECOND

    def read(self, value: int) -> timedelta:
        return value * _MICROSECOND


class Id(_Column):
    """A ``SpiffeId``."""

    cache_ok = True

    def read(self, value: str) -> SpiffeId:
        return _spiffe_id(value)


class Domain(_Column):
    """A ``TrustDomain``."""

    cache_ok = True

    def read(self, value: str) -> TrustDomain:
        return TrustDomain.parse(value)


class Location(_Column):
    """An ``Address``."""

    cache_ok = True

    def read(self, value: str) -> Address:
        return Address.parse(value)


class Locations(_Column):
    """A mapping of names to ``Address``es, as a JSON object."""

    cache_ok = True

    def write(self, value: Mapping[str, Address]) -> str:
        return compact({name: str(address) for name, address in value.items()})

    def read(self, value: str) -> dict[str, Address]:
        return {name: Address.parse(text) for name, text in json.loads(value).items()}


class Selectors(_Column):
    """A set of ``Selector``s, as a sorted JSON list of pairs: equal sets are equal texts."""

    cache_ok = True

    def write(self, value: Iterable[Selector]) -> str:
        return compact([[selector.type, selector.value] for selector in sorted(value)])

    def read(self, value: str) -> frozenset[Selector]:
        return _selectors(value)


@lru_cache(maxsize=16_384)
def _spiffe_id(value: str) -> SpiffeId:
    return SpiffeId.parse(value)


@lru_cache(maxsize=16_384)
def _selectors(value: str) -> frozenset[Selector]:
    # Read again with every change of an agent, of all of them.
    return frozenset(Selector(type_, text) for type_, text in json.loads(value))


class Texts(_Column):
    """A tuple of texts, as a JSON list."""

    cache_ok = True

    def write(self, value: Iterable[str]) -> str:
        return compact(list(value))

    def read(self, value: str) -> tuple[str, ...]:
        return tuple(json.loads(value))


class Pairs(_Column):
    """A tuple of pairs of texts, as a JSON list of lists."""

    cache_ok = True

    def write(self, value: Iterable[tuple[str, str]]) -> str:
        return compact([list(pair) for pair in value])

    def read(self, value: str) -> tuple[tuple[str, str], ...]:
        return tuple((name, text) for name, text in json.loads(value))


class Certificates(_Column):
    """A tuple of DER certificates, as a JSON list of base64."""

    cache_ok = True

    def write(self, value: Iterable[bytes]) -> str:
        return compact([base64.b64encode(der).decode() for der in value])

    def read(self, value: str) -> tuple[bytes, ...]:
        return tuple(base64.b64decode(text) for text in json.loads(value))


class CertificateSet(_Column):
    """A set of DER certificates, as a sorted JSON list of base64: equal sets are equal texts."""

    cache_ok = True

    def write(self, value: Iterable[bytes]) -> str:
        return compact([base64.b64encode(der).decode() for der in sorted(value)])

    def read(self, value: str) -> frozenset[bytes]:
        return frozenset(base64.b64decode(text) for text in json.loads(value))


class JwtAuthorities(_Column):
    """``JwtAuthority``s, as a JSON list of [kid, base64 of DER, microseconds since 1970 or null, tainted].

    Before there were tainted ones, the lists had three members.
    """

    cache_ok = True

    def write(self, value: Iterable[JwtAuthority]) -> str:
        return compact(
            [
                [
                    each.key_id,
                    base64.b64encode(each.public_key).decode(),
                    _micros(each.expires_at),
                    each.tainted,
                ]
                for each in value
            ]
        )

    def read(self, value: str) -> tuple[JwtAuthority, ...]:
        return tuple(
            JwtAuthority(
                key_id=key_id,
                public_key=base64.b64decode(der),
                expires_at=None if ends is None else _EPOCH + ends * _MICROSECOND,
                tainted=any(tainted),
            )
            for key_id, der, ends, *tainted in json.loads(value)
        )


def _micros(instant: datetime | None) -> int | None:
    return None if instant is None else (instant - _EPOCH) // _MICROSECOND


class Choice(_Column):
    """A member of an enumeration whose values are texts."""

    cache_ok = True

    def __init__(self, kind: type[Enum]) -> None:
        super().__init__()
        self.kind = kind

    def write(self, value: Enum) -> str:
        return str(value.value)

    def read(self, value: str) -> Enum:
        return self.kind(value)


def compact(value: object) -> str:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":"))
