"""Tokens of outside issuers become ours: which of them count, for whom, and how often (RFC 7523)."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from tests.unit.tokens.conftest import READ, WRITE
from tests.unit.tokens.forging import claims_of, part

from vestibule.errors import ErrorCode, VestibuleError
from vestibule.pki.jwk import encode_base64url, jwk_parameters
from vestibule.pki.keys import generate_key
from vestibule.store.codes import SEALED
from vestibule.testing.clock import FakeClock
from vestibule.testing.tokens import ISSUER, MemoryIssuer, MemoryTokens, client, signed, spiffe_id
from vestibule.tokens import codes
from vestibule.tokens.codes import TokenRefusedError, word_of
from vestibule.tokens.ports import Minted, OutsideIssuer, RevokedBy, Verb
from vestibule.tokens.service import TokenService

CORP = "https://login.corp.example"


@pytest.fixture
def corp(lab: MemoryTokens) -> MemoryIssuer:
    return lab.issuers[CORP]


def user(lab: MemoryTokens, **more: Any) -> dict[str, Any]:
    """The claims of an ID token for U; None takes one away."""
    now = int(lab.clock.now().timestamp())
    said = {"iss": CORP, "sub": "U", "aud": "shop-web", "iat": now, "exp": now + 3600, **more}
    return {name: each for name, each in said.items() if each is not None}


async def admitted(
    lab: MemoryTokens, assertion: str, *scopes: str, by: str = "web", server: TokenService | None = None
) -> Minted:
    service = server or lab.service
    return await service.admit(client(by), assertion=assertion, audiences=["orders"], scopes=scopes)


async def refused(lab: MemoryTokens, assertion: str, code: ErrorCode, **more: Any) -> VestibuleError:
    with pytest.raises(VestibuleError) as caught:
        await admitted(lab, assertion, **more)
    assert caught.value.code is code
    assert assertion[:40] not in str(caught.value)
    if code not in (codes.TARGET_DENIED, codes.SCOPE_DENIED):
        assert word_of(caught.value) == "invalid_grant"
    return caught.value


async def test_a_login_becomes_a_token_of_ours_that_says_who_asked(
    lab: MemoryTokens, corp: MemoryIssuer
) -> None:
    minted = await admitted(lab, corp.token(user(lab, email="u@corp.example")), READ)
    said = claims_of(minted.text)
    assert said["iss"] == ISSUER
    assert (said["sub"], said["sub_iss"]) == ("U", CORP)
    assert said["client_id"] == str(spiffe_id("web"))
    assert said["act"] == {"sub": str(spiffe_id("web"))}
    assert said["txn"] == minted.token_id
    assert said["scope"] == READ
    assert "email" not in said
    assert minted.lasts == timedelta(minutes=10)


async def test_the_policy_hears_whose_token_it_is_and_what_it_says(
    lab: MemoryTokens, corp: MemoryIssuer
) -> None:
    await admitted(lab, corp.token(user(lab, email_verified=True)))
    asked = lab.access.asked[-1]
    assert (asked.verb, asked.issuer, asked.subject["email_verified"]) == (Verb.ADMIT, "corp", True)


async def test_who_may_not_admit_gets_nothing_and_the_record_knows_for_whom(
    lab: MemoryTokens, corp: MemoryIssuer
) -> None:
    refusal = await refused(lab, corp.token(user(lab)), codes.TARGET_DENIED, by="orders")
    assert word_of(refusal) == "invalid_target"
    assert isinstance(refusal, TokenRefusedError)
    assert refusal.subject == "U"


async def test_scopes_are_those_of_the_policy(lab: MemoryTokens, corp: MemoryIssuer) -> None:
    lab.access.allow("web", Verb.ADMIT, "orders", READ)
    with pytest.raises(VestibuleError) as caught:
        await admitted(lab, corp.token(user(lab, scope="report:write")), WRITE)
    assert caught.value.code is codes.SCOPE_DENIED


async def test_our_token_ends_no_later_than_the_login(lab: MemoryTokens, corp: MemoryIssuer) -> None:
    now = int(lab.clock.now().timestamp())
    minted = await admitted(lab, corp.token(user(lab, exp=now + 90)))
    assert minted.lasts == timedelta(seconds=90)


# ------------------------------------------------------------------------------------------------ whose, and for whom


async def test_a_stranger_says_nothing(lab: MemoryTokens) -> None:
    stranger = MemoryIssuer("x", "https://login.evil.example", "shop-web")
    await refused(lab, stranger.token(user(lab, iss=stranger.issuer)), codes.ISSUER_UNKNOWN)
    await refused(lab, stranger.token(user(lab)), codes.KEY_UNKNOWN)  # in the name of corp


async def test_our_own_tokens_are_exchanged_not_admitted(lab: MemoryTokens, corp: MemoryIssuer) -> None:
    own = await lab.service.mint(client("web"), audiences=["orders"])
    await refused(lab, own.text, codes.HEADER_REFUSED)
    corp.issuer = ISSUER
    lab.trust(corp)  # an intent that names our own URL as outside
    await refused(lab, corp.token(user(lab, iss=ISSUER)), codes.ISSUER_UNKNOWN)


async def test_two_issuers_do_not_speak_for_each_other(lab: MemoryTokens, corp: MemoryIssuer) -> None:
    other = lab.trust(MemoryIssuer("partner", "https://login.partner.example", "shop-web"))
    other.key_id = corp.key_id
    await refused(lab, other.token(user(lab)), codes.SIGNATURE_WRONG)


@pytest.mark.parametrize(
    "audience",
    [
        *("other-app", ["other-app"], ["shop-web", "other-app"], [ISSUER, "other-app"], "SHOP-WEB"),
        *(ISSUER + "/", ISSUER + "/oauth2/token", "shop"),
    ],
)
async def test_a_token_for_somebody_else_or_for_others_too_is_refused(
    lab: MemoryTokens, corp: MemoryIssuer, audience: Any
) -> None:
    await refused(lab, corp.token(user(lab, aud=audience)), codes.AUDIENCE_WRONG)


@pytest.mark.parametrize("audience", [None, [], "", [""], [1], {"a": 1}, 5, [["shop-web"]]])
async def test_a_token_for_nobody_is_refused(lab: MemoryTokens, corp: MemoryIssuer, audience: Any) -> None:
    await refused(lab, corp.token(user(lab, aud=audience)), codes.CLAIMS_UNFIT)


async def test_without_audiences_in_the_intent_only_assertions_for_us_count(
    lab: MemoryTokens, corp: MemoryIssuer
) -> None:
    corp.audiences = ()
    await refused(lab, corp.token(user(lab)), codes.AUDIENCE_WRONG)
    await admitted(lab, corp.token(user(lab, aud=ISSUER)))


@pytest.mark.parametrize(
    "subject",
    [
        "spiffe://example.org/ns/prod/sa/orders",
        "SPIFFE://EXAMPLE.ORG/ns/prod/sa/orders",
        "spiffe://example.org",
    ],
)
async def test_nobody_outside_speaks_for_our_services(
    lab: MemoryTokens, corp: MemoryIssuer, subject: str
) -> None:
    await refused(lab, corp.token(user(lab, sub=subject)), codes.CLAIMS_UNFIT)


async def test_a_service_of_another_trust_domain_may_be_a_subject(
    lab: MemoryTokens, corp: MemoryIssuer
) -> None:
    minted = await admitted(lab, corp.token(user(lab, sub="spiffe://example.org.partner/web")))
    assert minted.subject == "spiffe://example.org.partner/web"


@pytest.mark.parametrize("subject", ['O"Neil', "back\\slash", "ü 漢字 🙂", "auth0|123", '"},"sub":"admin"'])
async def test_a_subject_is_said_as_it_is(lab: MemoryTokens, corp: MemoryIssuer, subject: str) -> None:
    minted = await admitted(lab, corp.token(user(lab, sub=subject)))
    said = claims_of(minted.text)
    assert said["sub"] == minted.subject == subject
    assert (await lab.service.inspect(client("orders"), minted.text))["sub"] == subject


@pytest.mark.parametrize("subject", [None, "", 7, ["U"], "x" * 513, "U\nadmin", "U\u0000", "U\u202eadmin"])
async def test_a_subject_is_a_name(lab: MemoryTokens, corp: MemoryIssuer, subject: Any) -> None:
    await refused(lab, corp.token(user(lab, sub=subject)), codes.CLAIMS_UNFIT)


@pytest.mark.parametrize(
    "claim",
    [
        {"act": {"sub": "spiffe://example.org/ns/prod/sa/orders"}},
        {"may_act": {"sub": "spiffe://example.org/ns/prod/sa/orders"}},
        {"cnf": {"jkt": "x"}},
    ],
    ids=lambda each: next(iter(each)),
)
async def test_who_acts_for_whom_only_we_say(
    lab: MemoryTokens, corp: MemoryIssuer, claim: Mapping[str, Any]
) -> None:
    await refused(lab, corp.token(user(lab, **claim)), codes.CLAIMS_UNFIT)


# ----------------------------------------------------------------------------------------------------- how long


@pytest.mark.parametrize("claim", ["nbf", "iat"])
async def test_a_login_of_the_future_is_refused_beyond_thirty_seconds(
    lab: MemoryTokens, corp: MemoryIssuer, claim: str
) -> None:
    now = int(lab.clock.now().timestamp())
    await admitted(lab, corp.token(user(lab, **{claim: now + 30})))
    await refused(lab, corp.token(user(lab, **{claim: now + 31})), codes.NOT_VALID_NOW)


async def test_an_ended_login_is_refused(lab: MemoryTokens, corp: MemoryIssuer, clock: FakeClock) -> None:
    login = corp.token(user(lab))
    clock.advance(timedelta(hours=1, seconds=30))
    await refused(lab, login, codes.NOT_VALID_NOW)


async def test_a_login_that_ended_a_moment_ago_leaves_nothing_to_give(
    lab: MemoryTokens, corp: MemoryIssuer, clock: FakeClock
) -> None:
    login = corp.token(user(lab))
    clock.advance(timedelta(hours=1, seconds=1))
    with pytest.raises(VestibuleError) as caught:
        await admitted(lab, login)
    assert caught.value.code is codes.NOT_VALID_NOW


async def test_a_login_may_not_last_longer_than_the_intent_says(
    lab: MemoryTokens, corp: MemoryIssuer
) -> None:
    corp.longest = timedelta(minutes=59)
    await refused(lab, corp.token(user(lab)), codes.CLAIMS_UNFIT)
    await refused(lab, corp.token(user(lab, iat=None)), codes.CLAIMS_UNFIT)
    corp.longest = timedelta(hours=1)
    await admitted(lab, corp.token(user(lab)))


@pytest.mark.parametrize("exp", [None, "soon", False, 1e300])
async def test_a_login_without_an_end_is_refused(lab: MemoryTokens, corp: MemoryIssuer, exp: Any) -> None:
    await refused(lab, corp.token(user(lab, exp=exp)), codes.CLAIMS_UNFIT)


# ----------------------------------------------------------------------------------------------------- how often


async def test_an_assertion_for_us_counts_once_on_all_servers(lab: MemoryTokens, corp: MemoryIssuer) -> None:
    other = lab.another()
    await other.start()
    assertion = corp.token(user(lab, aud=ISSUER, jti="one"))
    await admitted(lab, assertion)
    refusal = await refused(lab, assertion, codes.REPLAYED)
    assert word_of(refusal) == "invalid_grant"
    await refused(lab, assertion, codes.REPLAYED, server=other)
    await admitted(lab, corp.token(user(lab, aud=ISSUER, jti="two")))


async def test_an_assertion_without_an_id_counts_once_however_its_signature_is_written(
    lab: MemoryTokens, corp: MemoryIssuer
) -> None:
    assertion = corp.token(user(lab, aud=ISSUER))
    await admitted(lab, assertion)
    await refused(lab, assertion, codes.REPLAYED)
    again = signed({"alg": "ES256", "kid": corp.key_id, "typ": "JWT"}, user(lab, aud=ISSUER), corp.key)
    assert again != assertion
    assert again.rpartition(".")[0] == assertion.rpartition(".")[0]
    await refused(lab, again, codes.REPLAYED)


async def test_the_same_id_of_another_issuer_is_another_assertion(
    lab: MemoryTokens, corp: MemoryIssuer
) -> None:
    other = lab.trust(MemoryIssuer("partner", "https://login.partner.example"))
    await admitted(lab, corp.token(user(lab, aud=ISSUER, jti="one")))
    await admitted(lab, other.token(user(lab, iss=other.issuer, aud=ISSUER, jti="one")))


async def test_a_refused_assertion_may_be_shown_again(lab: MemoryTokens, corp: MemoryIssuer) -> None:
    assertion = corp.token(user(lab, aud=ISSUER, jti="one"))
    await refused(lab, assertion, codes.TARGET_DENIED, by="orders")
    await admitted(lab, assertion)


async def test_an_assertion_for_us_lasts_an_hour_at_most(lab: MemoryTokens, corp: MemoryIssuer) -> None:
    now = int(lab.clock.now().timestamp())
    await refused(lab, corp.token(user(lab, aud=ISSUER, exp=now + 3601)), codes.CLAIMS_UNFIT)


async def test_a_login_is_no_assertion_and_lasts_as_a_login_does(
    lab: MemoryTokens, corp: MemoryIssuer
) -> None:
    login = corp.token(user(lab, jti="one"))
    await admitted(lab, login)
    await admitted(lab, login)


async def test_what_was_shown_is_forgotten_once_it_has_ended(
    lab: MemoryTokens, corp: MemoryIssuer, clock: FakeClock
) -> None:
    await admitted(lab, corp.token(user(lab, aud=ISSUER, jti="one")))
    assert len(await lab.barrier.keys("tokens-shown")) == 1
    clock.advance(timedelta(hours=1, minutes=1))
    assert await lab.service._sweep() == 1
    assert await lab.barrier.keys("tokens-shown") == []


async def test_without_the_database_no_assertion_counts_but_logins_do(
    lab: MemoryTokens, corp: MemoryIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(changes: object) -> tuple[int, ...]:
        raise SEALED.error("the database is away")

    monkeypatch.setattr(lab.barrier, "apply", gone)
    with pytest.raises(VestibuleError) as caught:
        await admitted(lab, corp.token(user(lab, aud=ISSUER, jti="one")))
    assert caught.value.code is SEALED
    assert word_of(caught.value) == "temporarily_unavailable"
    await admitted(lab, corp.token(user(lab)))


async def test_a_clients_assertion_with_an_id_counts_once(lab: MemoryTokens) -> None:
    web = str(spiffe_id("web"))
    end = int(lab.clock.now().timestamp()) + 300
    await lab.service.once(web, {"jti": "a", "exp": end})
    with pytest.raises(VestibuleError) as caught:
        await lab.service.once(web, {"jti": "a", "exp": end})
    assert caught.value.code is codes.REPLAYED
    await lab.service.once(str(spiffe_id("orders")), {"jti": "a", "exp": end})
    for _ in range(2):
        await lab.service.once(web, {"exp": end})


# --------------------------------------------------------------------------------------------- form and signature


@pytest.mark.parametrize("name", ["jku", "x5u", "x5c", "jwk", "crit", "b64", "zip"])
async def test_a_header_that_asks_for_something_is_refused(
    lab: MemoryTokens, corp: MemoryIssuer, name: str
) -> None:
    header = {"alg": "ES256", "kid": corp.key_id, name: "https://evil.example"}
    await refused(lab, corp.token(user(lab), header), codes.HEADER_REFUSED)


@pytest.mark.parametrize(
    "typ", ["at+jwt", "application/at+jwt", "logout+jwt", "secevent+jwt", "dpop+jwt", "", 5]
)
async def test_a_token_for_another_purpose_is_no_login(
    lab: MemoryTokens, corp: MemoryIssuer, typ: Any
) -> None:
    header = {"alg": "ES256", "kid": corp.key_id, "typ": typ}
    await refused(lab, corp.token(user(lab), header), codes.HEADER_REFUSED)


@pytest.mark.parametrize("typ", [None, "JWT", "jwt"])
async def test_a_login_says_that_it_is_a_jwt_or_nothing(
    lab: MemoryTokens, corp: MemoryIssuer, typ: str | None
) -> None:
    header = {"alg": "ES256", "kid": corp.key_id, **({} if typ is None else {"typ": typ})}
    await admitted(lab, corp.token(user(lab), header))


async def test_a_public_key_is_no_secret_to_sign_with(lab: MemoryTokens, corp: MemoryIssuer) -> None:
    body = f"{part({'alg': 'HS256', 'kid': corp.key_id})}.{part(user(lab))}"
    tag = hmac.digest(corp.jwks.encode(), body.encode(), hashlib.sha256)
    await refused(lab, f"{body}.{encode_base64url(tag)}", codes.HEADER_REFUSED)


async def test_a_login_without_a_signature_is_refused(lab: MemoryTokens) -> None:
    await refused(lab, f"{part({'alg': 'none'})}.{part(user(lab))}.", codes.HEADER_REFUSED)


async def test_an_algorithm_that_is_not_the_keys_is_refused(lab: MemoryTokens, corp: MemoryIssuer) -> None:
    for algorithm in ("ES384", "RS256", "PS512", "EdDSA"):
        header = {"alg": algorithm, "kid": corp.key_id}
        await refused(lab, corp.token(user(lab), header), codes.HEADER_REFUSED)


async def test_a_token_without_a_key_id_is_of_the_only_key_there_is(
    lab: MemoryTokens, corp: MemoryIssuer
) -> None:
    await admitted(lab, corp.token(user(lab), {"alg": "ES256"}))
    lab.issuers[CORP] = _Keys([corp.key_id, "another"])
    await refused(lab, corp.token(user(lab), {"alg": "ES256"}), codes.KEY_UNKNOWN)


async def test_a_key_that_is_gone_from_the_set_counts_no_longer(
    lab: MemoryTokens, corp: MemoryIssuer
) -> None:
    login = corp.token(user(lab))
    await admitted(lab, login)
    lab.issuers[CORP] = _Keys(["other"])
    await refused(lab, login, codes.KEY_UNKNOWN)


@pytest.mark.parametrize(
    "keys",
    [
        "",
        "[]",
        "{}",
        '{"keys": {}}',
        '{"keys": ["x", 1, null]}',
        '{"keys": [{"kty": "oct", "k": "AA"}]}',
        "[" * 9999,
    ],
    ids=["empty", "list", "nothing", "object", "rubbish", "secret", "deep"],
)
async def test_of_an_issuer_without_usable_keys_nothing_counts(
    lab: MemoryTokens, corp: MemoryIssuer, keys: str
) -> None:
    lab.issuers[CORP] = _Keys([], text=keys)
    await refused(lab, corp.token(user(lab)), codes.KEY_UNKNOWN)


async def test_a_key_for_encryption_signs_nothing(lab: MemoryTokens, corp: MemoryIssuer) -> None:
    said = json.loads(corp.jwks)
    said["keys"][0]["use"] = "enc"
    lab.issuers[CORP] = _Keys([], text=json.dumps(said))
    await refused(lab, corp.token(user(lab)), codes.KEY_UNKNOWN)


class _Keys(MemoryIssuer):
    """Corp with other keys."""

    def __init__(self, key_ids: list[str], *, text: str | None = None) -> None:
        super().__init__("corp", CORP, "shop-web")
        keys = [{**jwk_parameters(generate_key().public_key()), "kid": each} for each in key_ids]
        self._text = json.dumps({"keys": keys}) if text is None else text

    @property
    def value(self) -> OutsideIssuer:
        return OutsideIssuer(name=self.name, issuer=self.issuer, keys=self._text, audiences=self.audiences)


RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
P384_KEY = ec.generate_private_key(ec.SECP384R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def _p384(data: bytes) -> bytes:
    r, s = decode_dss_signature(P384_KEY.sign(data, ec.ECDSA(SHA384())))
    return r.to_bytes(48) + s.to_bytes(48)


def _ed_jwk() -> dict[str, object]:
    return {"kty": "OKP", "crv": "Ed25519", "x": encode_base64url(ED_KEY.public_key().public_bytes_raw())}


SIGNERS: Mapping[str, tuple[dict[str, object], Callable[[bytes], bytes]]] = {
    "RS256": (jwk_parameters(RSA_KEY.public_key()), lambda x: RSA_KEY.sign(x, padding.PKCS1v15(), SHA256())),
    "PS256": (
        jwk_parameters(RSA_KEY.public_key()),
        lambda x: RSA_KEY.sign(x, padding.PSS(padding.MGF1(SHA256()), 32), SHA256()),
    ),
    "ES384": (jwk_parameters(P384_KEY.public_key()), _p384),
    "EdDSA": (_ed_jwk(), ED_KEY.sign),
    "Ed25519": (_ed_jwk(), ED_KEY.sign),
}


@pytest.mark.parametrize("algorithm", list(SIGNERS))
async def test_issuers_sign_with_what_they_have(lab: MemoryTokens, algorithm: str) -> None:
    jwk, sign = SIGNERS[algorithm]
    lab.issuers[CORP] = _Keys([], text=json.dumps({"keys": [{**jwk, "kid": "k"}]}))
    body = f"{part({'alg': algorithm, 'kid': 'k'})}.{part(user(lab))}"
    await admitted(lab, f"{body}.{encode_base64url(sign(body.encode()))}")
    other = f"{part({'alg': algorithm, 'kid': 'k'})}.{part(user(lab, sub='V'))}"
    await refused(lab, f"{other}.{encode_base64url(sign(body.encode()))}", codes.SIGNATURE_WRONG)


async def test_a_key_that_names_its_algorithm_serves_no_other(lab: MemoryTokens) -> None:
    jwk, sign = SIGNERS["PS256"]
    lab.issuers[CORP] = _Keys([], text=json.dumps({"keys": [{**jwk, "kid": "k", "alg": "RS256"}]}))
    body = f"{part({'alg': 'PS256', 'kid': 'k'})}.{part(user(lab))}"
    await refused(lab, f"{body}.{encode_base64url(sign(body.encode()))}", codes.HEADER_REFUSED)


async def test_a_token_for_a_revoked_subject_waits_until_it_is_not_taken_for_a_revoked_one(
    lab: MemoryTokens, corp: MemoryIssuer, clock: FakeClock
) -> None:
    """Times in tokens are whole seconds: one of this second, or of the next, would be revoked, too."""
    await lab.service.revoke_by(RevokedBy.SUBJECT, "U")
    waiting = asyncio.ensure_future(admitted(lab, corp.token(user(lab))))
    await clock.until_asleep()
    clock.advance(2)
    minted = await waiting
    lab.access.own("orders", "orders")
    assert (await lab.service.inspect(client("orders"), minted.text))["active"] is True
