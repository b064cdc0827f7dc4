"""A small intent in two files, read with one of them changed, and what came of it in short."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vestibule.intent import Intent, Loaded, Severity, language, load_files
from vestibule.intent.not_yet import NOT_YET
from vestibule.intent.shapes import Record

MESH = """\
mesh: shop
trust_domain: example.org
environment: prod
"""
PAYMENTS = """\
service: payments
ports: {http: {app: 8080, protocol: http}}
allow:
  - id: orders-charge
    from: [orders]
    methods: [POST]
    paths: [/v1/charges]
"""
CALLER = "service: {}\n"


def read(payments: str = PAYMENTS, mesh: str = MESH, **others: str) -> Loaded:
    services = {"payments": payments, "orders": CALLER.format("orders"), **others}
    files = {f"services/{name}.yaml": text.encode() for name, text in services.items()}
    return load_files({"mesh.yaml": mesh.encode(), **files})


def accepted(loaded: Loaded) -> Intent:
    assert [str(found.error) for found in loaded.problems] == []
    assert loaded.intent is not None
    return loaded.intent


def found(loaded: Loaded) -> list[str]:
    """The problems as ``file:line:column code``."""
    return [f"{problem.where} {problem.code.code}" for problem in loaded.problems]


def errors(loaded: Loaded) -> list[str]:
    """The problems that are no warnings, as ``found`` has them."""
    return [
        f"{problem.where} {problem.code.code}"
        for problem in loaded.problems
        if problem.severity is Severity.ERROR
    ]


def only(loaded: Loaded) -> tuple[str, str, str]:
    """Place and code, message, advice of the only problem."""
    assert len(loaded.problems) == 1, found(loaded)
    problem = loaded.problems[0]
    assert (loaded.intent is None) == (problem.severity is Severity.ERROR)
    return f"{problem.where} {problem.code.code}", problem.message, problem.advice


@contextmanager
def whole_language() -> Iterator[None]:
    """What is read, though no compiler acts on it yet, is accepted."""
    refused = set(NOT_YET)
    NOT_YET.clear()
    try:
        yield
    finally:
        NOT_YET.update(refused)


def records() -> list[Record]:
    """Every record of the language."""
    found: dict[int, Record] = {}
    waiting: list[Any] = list(language.FILES.values())
    while waiting:
        shape = waiting.pop()
        if isinstance(shape, Record) and id(shape) not in found:
            found[id(shape)] = shape
            waiting += [key.shape for key in shape.keys]
        elif not isinstance(shape, Record):
            parts = ("record", "item", "value", "mapping", "scalar")
            waiting += [part for name in parts if (part := getattr(shape, name, None)) is not None]
    return list(found.values())
