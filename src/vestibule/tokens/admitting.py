"""Tokens of outside issuers become ours, and narrower (RFC 7523, section 2.1): an ID token at the edge, for one."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.pki.jwk import ALGORITHMS
from vestibule.pki.jwt import instant_of
from vestibule.spiffe import TrustDomain
from vestibule.spiffe.ids import SCHEME
from vestibule.tokens.chain import act_of
from vestibule.tokens.codes import (
    AUDIENCE_WRONG,
    CLAIMS_UNFIT,
    HEADER_REFUSED,
    ISSUER_UNKNOWN,
    KEY_UNKNOWN,
    SIGNATURE_WRONG,
    about,
)
from vestibule.tokens.jwts import Jwt, audiences_of, check_times, taken_apart, text_of
from vestibule.tokens.minting import Mint, Order, Subject, prepared
from vestibule.tokens.permission import permitted
from vestibule.tokens.ports import Asked, Client, Minted, OutsideIssuer, OutsideIssuers, TokenAccess, Verb
from vestibule.tokens.replays import Replays
from vestibule.tokens.requests import Wanted
from vestibule.tokens.signatures import EDDSA, PublicKey, fits, is_signature, public_key

INVALID_GRANT: Final = "invalid_grant"
"""What an assertion that does not count is called (RFC 7523, section 3.1)."""
LONGEST_ASSERTION: Final = timedelta(hours=1)
"""Life of an assertion that counts once: so long it has to be remembered."""

_ALGORITHMS: Final = ALGORITHMS | EDDSA
_TYPES: Final = (None, "jwt")
_MOST_SETS: Final = 64
_NOT_SAID: Final = ("act", "may_act", "cnf")
"""What only we say, and what we could not keep."""


@dataclass(frozen=True, slots=True)
class _Key:
    public: PublicKey = field(repr=False)
    algorithm: str | None


@dataclass(frozen=True, slots=True)
class _Assertion:
    """What an outside issuer says, verified."""

    claims: Mapping[str, Any] = field(repr=False)
    issuer: OutsideIssuer
    ends: datetime
    once: bytes | None
    """What tells it apart, if it counts once."""


class Admission:
    """Gives tokens for those of outside issuers."""

    def __init__(
        self,
        issuer: str,
        trust_domain: TrustDomain,
        outside: OutsideIssuers,
        access: TokenAccess,
        mint: Mint,
        replays: Replays,
        clock: Clock,
    ) -> None:
        self._issuer = issuer
        self._trust_domain = trust_domain
        self._outside = outside
        self._access = access
        self._mint = mint
        self._replays = replays
        self._clock = clock
        self._sets: OrderedDict[str, Mapping[str | None, _Key]] = OrderedDict()

    async def admit(self, client: Client, assertion: str, wanted: Wanted) -> Minted:
        """A token of ours for the subject of an outside issuer's token.

        1. The assertion holds (``_verified``).
        2. The client may have a token for each of the audiences, for this subject of that issuer.
        3. If the assertion counts once, it has not been shown before, on any server.
        4. The client is the first actor; the new token ends no later than the given one.

        Raises: VST6000 to VST6006, VST6008, VST6009 (invalid_grant), VST6010, VST6011, VST6021, VST6030, and what
        the barrier raises.
        """
        try:
            verified = self._verified(assertion)  # 1
        except VestibuleError as error:
            raise about(error, {}, word=INVALID_GRANT) from None
        try:
            return await self._admitted(client, verified, wanted)
        except VestibuleError as error:
            raise about(error, verified.claims) from None

    async def _admitted(self, client: Client, given: _Assertion, wanted: Wanted) -> Minted:
        asked = Asked(
            client=client.spiffe_id,
            verb=Verb.ADMIT,
            audience="",
            scopes=wanted.scopes,
            subject=given.claims,
            issuer=given.issuer.name,
        )
        permission = permitted(self._access, asked, wanted.targets)  # 2
        actors = (str(client.spiffe_id),)
        subject = Subject(
            name=given.claims["sub"],
            issuer=given.issuer.issuer,
            act=act_of(actors),
            actors=actors,
            ends=given.ends,  # 4
        )
        order = Order(
            client=client,
            subject=subject,
            targets=wanted.targets,
            scopes=wanted.scopes,
            permission=permission,
        )
        minted = await self._mint.minted(prepared(self._issuer, order))
        if given.once is not None:  # 3, last: what is refused for another reason may be shown again
            await self._once(given)
        return minted

    async def _once(self, given: _Assertion) -> None:
        assert given.once is not None
        try:
            await self._replays.once(given.issuer.issuer, given.once, given.ends)
        except VestibuleError as error:
            raise about(error, given.claims, word=INVALID_GRANT) from None

    def _verified(self, text: str) -> _Assertion:
        """What an outside issuer says.

        1. It has the form of a JWT of no other purpose (typ), and a header that asks for nothing.
        2. Its issuer is one whose tokens are taken; ours are not: they are exchanged.
        3. The issuer has a key of that ID, for that algorithm, and it signed the token.
        4. It was made for us (an assertion, which counts once), or for those that the intent names for the issuer
           (an ID token, which lasts as a login does); for nobody else beside them.
        5. It has begun, has not ended, and does not last too long.
        6. Its subject is a name, and none that only we give; it does not say who acts for whom.
        """
        jwt = taken_apart(text, algorithms=_ALGORITHMS, types=_TYPES)  # 1
        claims = jwt.claims
        name = text_of(claims, "iss", 2048)
        issuer = None if name == self._issuer else self._outside.of(name)
        if issuer is None:  # 2
            raise ISSUER_UNKNOWN.error("the assertion is of an issuer whose tokens are not taken here")
        self._check_signature(jwt, issuer)  # 3
        for_us = _is_for(audiences_of(claims), self._issuer, issuer.audiences)  # 4
        longest = LONGEST_ASSERTION if for_us and issuer.longest is None else issuer.longest
        check_times(claims, self._clock.now(), longest)  # 5
        self._check_subject(claims)  # 6
        return _Assertion(
            claims=claims,
            issuer=issuer,
            ends=instant_of(claims, "exp", CLAIMS_UNFIT),
            once=_told_apart(jwt) if for_us else None,
        )

    def _check_signature(self, jwt: Jwt, issuer: OutsideIssuer) -> None:
        key = self._keys_of(issuer).get(jwt.key_id)
        if key is None:
            raise KEY_UNKNOWN.error(f"the issuer {issuer.name} has no such key")
        if not fits(key.public, jwt.algorithm) or key.algorithm not in (None, jwt.algorithm):
            raise HEADER_REFUSED.error("the token's algorithm (alg) is not one of the key that it names")
        if not is_signature(key.public, jwt.algorithm, jwt.signature, jwt.signed):
            raise SIGNATURE_WRONG.error(f"the token's signature is not one of {issuer.name}")

    def _keys_of(self, issuer: OutsideIssuer) -> Mapping[str | None, _Key]:
        found = self._sets.get(issuer.keys)
        if found is None:
            found = self._sets[issuer.keys] = _read_keys(issuer.keys)
            if len(self._sets) > _MOST_SETS:
                self._sets.popitem(last=False)
        return found

    def _check_subject(self, claims: Mapping[str, Any]) -> None:
        subject = text_of(claims, "sub")
        domain = f"{SCHEME}{self._trust_domain}"
        if subject.lower() == domain or subject.lower().startswith(f"{domain}/"):
            raise CLAIMS_UNFIT.error(
                "an outside issuer does not speak for identities of this trust domain (sub)"
            )
        if said := next((each for each in _NOT_SAID if each in claims), None):
            raise CLAIMS_UNFIT.error(f"a token of an outside issuer may not have {said!r}")


def _is_for(audiences: Collection[str], ours: str, known: Collection[str]) -> bool:
    """Whether it was made for us, rather than for one of those that are known here.  Raises: VST6009."""
    if any(each != ours and each not in known for each in audiences):
        raise AUDIENCE_WRONG.error("the assertion was made for somebody else, or for others, too")
    return ours in audiences


def _told_apart(jwt: Jwt) -> bytes:
    """By ``jti``; else by what was signed: signatures can be written in two ways."""
    if "jti" in jwt.claims:
        return text_of(jwt.claims, "jti").encode()
    return sha256(jwt.signed).digest()


def _read_keys(text: str) -> Mapping[str | None, _Key]:
    """The keys of a JWK set by their IDs; a single one also serves tokens that name none.

    What is no key for signatures, or of a kind that is not used here, is left out.
    """
    keys: dict[str | None, _Key] = {}
    jwks = [each for each in _listed(text) if each.get("use", "sig") == "sig"]
    for each in jwks:
        with suppress(ValueError):
            key_id = each.get("kid")
            keys[None if key_id is None else str(key_id)] = _Key(public_key(each), each.get("alg"))
    if len(jwks) == 1 and keys:
        keys[None] = next(iter(keys.values()))
    elif None in keys:
        del keys[None]
    return keys


def _listed(text: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return []  # none of its tokens counts
    keys = found.get("keys") if isinstance(found, dict) else None
    return [each for each in keys if isinstance(each, dict)] if isinstance(keys, list) else []
