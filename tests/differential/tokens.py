"""Tokens that calls may carry: good ones, good ones for something else, and such as nobody may rely on."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from tests.differential.callers import CALLERS

from vestibule.envoy.tokens import Issuers
from vestibule.intent.model import Issuer
from vestibule.policy import PortPolicy, TokenDemand

ISSUER: Final = "https://tokens.example.org"
NAME: Final = "internal"
AUDIENCES: Final = ("app", "other")
_SCOPES: Final = ("read", "write", "read:all")
_DEPARTMENTS: Final = ("fin", "it")
_KEY: Final = ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True, slots=True)
class Token:
    """``claims`` are those that may be relied on; None: none may.  ``typed``: it says that it is an access token."""

    text: str
    claims: dict[str, Any] | None
    typed: bool = True


def issuers() -> Issuers:
    key = {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(_KEY.public_key())), "kid": "k", "use": "sig"}
    issuer = Issuer(name=NAME, issuer=ISSUER, keys=json.dumps({"keys": [key]}))
    return Issuers((issuer,), "example.org")


def demand(random: Random) -> TokenDemand:
    return TokenDemand(
        issuer=NAME,
        audience=random.choice(AUDIENCES),
        scopes=tuple(random.sample(_SCOPES, random.choice((0, 0, 1, 2)))),
        claims=(("dept", random.choice(_DEPARTMENTS)),) if random.random() < 0.3 else (),
        bound=random.random() < 0.6,
    )


def operators(wanted: TokenDemand) -> tuple[str, ...]:
    parts = (("scopes", wanted.scopes), ("claims", wanted.claims), ("bound", wanted.bound))
    return ("token", *(f"token {name}" for name, said in parts if said))


def wants_tokens(policy: PortPolicy) -> bool:
    return any(rule.token is not None for rule in (*policy.deny, *policy.allow))


@lru_cache
def some(seed: int) -> tuple[Token, ...]:
    """A few dozen."""
    random = Random(seed)
    return tuple(_token(random) for _ in range(48))


def _token(random: Random) -> Token:
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": ISSUER,
        "sub": "user",
        "exp": now + 3600,
        "aud": random.choice((*AUDIENCES, [*AUDIENCES], ["other", "third"])),
        "client_id": str(random.choice(CALLERS)),
        "scope": " ".join(random.sample((*_SCOPES, "writes"), random.randint(0, 3))),
        "dept": random.choice((*_DEPARTMENTS, 7, ["fin"])),
    }
    for name in ("scope", "dept", "client_id"):
        if random.random() < 0.15:
            del claims[name]
    if random.random() < 0.15:
        claims["scope"] = random.choice((["read"], 7, None))
    if random.random() < 0.2:
        claims["act"] = random.choice(({"sub": str(random.choice(CALLERS))}, {}, {"sub": 7}))
    bad = random.random() < 0.1
    if bad:
        claims["exp"] = now - 3600
    typed = random.random() < 0.9
    text = jwt.encode(claims, _KEY, "ES256", headers={"kid": "k", "typ": "at+jwt" if typed else "JWT"})
    return Token(text, None if bad else claims, typed)
