"""Tokens that proxies know by their text, at the real Envoy: good for what they say, and for nobody else."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import h2.config
import h2.connection
import h2.events
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.e2e.mesh_lab import Lab, Proxy, Reply, client_tls, intent_of, rule, service, spiffe_id, wire
from tests.e2e.shared_mesh import Shared

from vestibule.envoy.revoked_tokens import RefusedTokens, slot
from vestibule.envoy.token_text import HEADER, of_port
from vestibule.intent.model import Authorization, Intent, Issuer, IssuerKind
from vestibule.pki.token_texts import first_claims
from vestibule.policy import Effect, PortPolicy, Rule, TokenDemand
from vestibule.tokens.ports import RevokedBy, RevokedTokens
from vestibule.tokens.signing import TRANSACTION_TOKEN, Signer, base64url
from vestibule.xds.resources import EXTENSION, Resource, Snapshot

ISSUER = "https://tokens.example.org"
WEB, ORDERS = spiffe_id("web"), spiffe_id("orders")
KEYS = {kid: ec.generate_private_key(ec.SECP256R1()) for kid in ("a", "b", "stranger")}
PATIENCE = 60.0


def key_set(*kids: str) -> str:
    to_jwk = jwt.algorithms.ECAlgorithm.to_jwk
    keys = [{**json.loads(to_jwk(KEYS[kid].public_key())), "kid": kid, "use": "sig"} for kid in kids]
    return json.dumps({"keys": keys})


def claims(*scopes: str, client: object = WEB, **changes: Any) -> dict[str, Any]:
    """As the token service writes them."""
    now = int(time.time())
    said = first_claims(ISSUER, "payments", scopes or ("charge:write",), str(client))
    said |= {"sub": str(client), "exp": now + 600, "iat": now - 5, "jti": "jti-1", "txn": "txn-1", **changes}
    return {name: value for name, value in said.items() if value is not None}


def written(said: dict[str, Any]) -> str:
    return json.dumps(said, separators=(",", ":"))


def token(*scopes: str, kid: str = "a", signed_by: str = "", **changes: Any) -> str:
    return Signer(KEYS[signed_by or kid], kid).signed(written(claims(*scopes, **changes)))


def _demanding(name: str, *callers: str, port: str = "http", **demand: Any) -> Rule:
    made = TokenDemand(issuer="internal", audience="payments", **demand)
    return replace(rule(f"payments/{name}", *callers, paths=f"/{name}", port=port), token=made)


RULES = (
    _demanding("charge", "web", scopes=("charge:write",)),
    _demanding("read", "web", "orders", scopes=("charge:read",)),
    _demanding("both", "web", scopes=("charge:write", "charge:read")),
    _demanding("anybody", "web", "orders", scopes=("charge:write",), bound=False),
    _demanding("charge", "web", port="quiet", scopes=("charge:write",)),
    rule("payments/plain", "web", "orders", paths="/plain"),
)


def _intent() -> Intent:
    payments = service("payments", *RULES, http="http", quiet="http")
    ports = dict(payments.ports)
    ports["quiet"] = replace(ports["quiet"], authorization=Authorization.STRIP)
    services = (replace(payments, ports=MappingProxyType(ports)), service("web"), service("tokens"))
    intent = intent_of(*services)
    issuers = {"internal": Issuer(name="internal", issuer="", kind=IssuerKind.TOKENS)}
    return replace(intent, mesh=replace(intent.mesh, issuers=MappingProxyType(issuers)))


class Told(Proxy):
    def snapshot(self) -> Snapshot:
        assert isinstance(self.lab, TextLab)
        world = self.lab.world
        filled = slot(self.lab.refused, ("internal",), world.token_issuer, world.token_keys)
        late = () if self.lab.late is None else (self.lab.late,)
        return super().snapshot().with_resources(filled, *late)


class TextLab(Lab):
    kind = Told
    refused = RefusedTokens()
    late: Resource | None = None
    """What is not told yet of a change."""

    async def ask(
        self, path: str, *headers: str, caller: Any = WEB, port: str = "http", more: str = ""
    ) -> Reply:
        """``headers`` are values of as many Authorization headers."""
        address = self.proxies["payments-1"].instance.ingress[port]
        async with wire(address, client_tls(self.issue(caller), self.directory)) as connection:
            lines = "".join(f"authorization: {each}\r\n" for each in headers) + more
            return await connection.send(
                f"GET {path} HTTP/1.1\r\nhost: payments\r\n{lines}\r\n".encode("latin-1")
            )

    async def sends(self, request: bytes) -> int:
        """The status of what is answered to these bytes."""
        address = self.proxies["payments-1"].instance.ingress["http"]
        async with wire(address, client_tls(self.issue(WEB), self.directory)) as connection:
            return (await connection.send(request)).status

    async def shown(self, path: str, made: str, **more: Any) -> int:
        return (await self.ask(path, f"Bearer {made}", **more)).status

    async def becomes(self, status: int, made: str, code: str = "") -> None:
        async with asyncio.timeout(PATIENCE):
            while (reply := await self.ask("/charge", f"Bearer {made}")).status != status:
                await asyncio.sleep(0.02)
        assert not code or reply.error == code


@asynccontextmanager
async def _lab() -> AsyncIterator[TextLab]:
    async with TextLab(_intent()) as lab:
        lab.world = replace(lab.world, token_issuer=ISSUER, token_keys=key_set("a", "b"))
        await lab.add("payments")
        await lab.ready()
        yield lab


@pytest.fixture(scope="module")
def mesh() -> Iterator[Shared[TextLab]]:
    with Shared(_lab) as shared:
        yield shared


def test_these_tokens_are_known_by_their_text() -> None:
    text = of_port(
        PortPolicy(service="payments", port="http", allow=RULES),
        (Issuer(name="internal", issuer=ISSUER, kind=IssuerKind.TOKENS, keys=key_set("a")),),
    )
    assert text is not None
    known = [
        token(),
        token("charge:read"),
        token("charge:read", "charge:write"),
        token(act={"sub": str(WEB)}),
    ]
    assert all(any(each in made for each in text.contained()) for made in known)
    others = [token("more"), token("charge:write", "more"), token(aud="x"), token(aud=["payments"])]
    assert not any(each in made for each in text.contained() for made in others)


def test_each_token_is_good_for_what_it_says(mesh: Shared[TextLab]) -> None:
    async def story(lab: TextLab) -> None:
        charge, read, both = token(), token("charge:read"), token("charge:write", "charge:read")
        for made, good in ((charge, ("/charge",)), (read, ("/read",)), (both, ("/charge", "/read", "/both"))):
            for path in ("/charge", "/read", "/both"):
                assert await lab.shown(path, made) == (200 if path in good else 403), path
        for made in (
            token("charge:read", "charge:write"),
            token("more", "charge:write"),
            token(aud=["payments", "x"]),
        ):
            assert await lab.shown("/charge", made) == 200
        for made in (
            token("charge:writes"),
            token("xcharge:write"),
            token("charge:write\tcharge:read"),
            token(scope=["charge:write"]),
            token(scope=None),
        ):
            assert await lab.shown("/charge", made) == 403
        assert (await lab.ask("/charge")).error == "VST4001"
        assert await lab.shown("/plain", charge) == 200

    mesh.run(story)


def test_it_is_worth_nothing_to_others(mesh: Shared[TextLab]) -> None:
    async def story(lab: TextLab) -> None:
        read = token("charge:read")
        assert await lab.shown("/read", read) == 200
        assert await lab.shown("/read", read, caller=ORDERS) == 403
        # By a client whose name begins like another's, or that is named elsewhere in the token.
        for other in (f"{WEB}s", str(WEB)[:-1], f'{ORDERS}","sub":"{WEB}'):
            assert await lab.shown("/read", token("charge:read", client=other)) == 403
        assert await lab.shown("/read", token("charge:read", client=ORDERS, sub=str(WEB))) == 403
        # Whoever may show it where a rule says that anybody may.
        assert await lab.shown("/anybody", token(), caller=ORDERS) == 200
        # For somebody else, by whom it was given to last.
        acting = token(
            "charge:read", client=ORDERS, sub="ada", act={"sub": str(ORDERS), "act": {"sub": str(WEB)}}
        )
        assert await lab.shown("/read", acting, caller=ORDERS) == 200
        assert await lab.shown("/read", acting) == 403

    mesh.run(story)


def _resigned(header: dict[str, str] | str, kid: str = "stranger") -> str:
    """A token whose header is another, signed by some key."""
    said = header if isinstance(header, str) else written(header)
    signed = token(kid=kid)
    signing_input = base64url(said.encode()) + b"." + signed.split(".")[1].encode()
    raw = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256).sign(signing_input, KEYS[kid])
    return (signing_input + b"." + base64url(raw)).decode()


BEGINS = '{"alg":"ES256","typ":"at+jwt","kid":'
UNVERIFIED = {
    "by a stranger's key": token(signed_by="stranger"),
    "by a stranger who names himself": token(kid="stranger"),
    "by another of our keys than it says": token(kid="a", signed_by="b"),
    "without a signature": token().rpartition(".")[0] + ".",
    "without an algorithm": jwt.encode(claims(), "", "none"),
    "with another end": token()[:-8] + "AAAAAAAA",
    "whose claims are padded": token().replace(".", "=.", 2).replace("=.", ".", 1),
    "whose header is padded": token().replace(".", "=.", 1),
    "with more after it": token() + ".x",
    "whose header begins like ours": _resigned(BEGINS + '"a","kid":"stranger"}'),
    "whose header names no key": _resigned('{"alg":"ES256","typ":"at+jwt"}'),
    "whose header goes on as something else": _resigned(BEGINS + '"a","typ":"JWT"}'),
    "whose header is broken off": _resigned(BEGINS),
    "that has ended": token(exp=int(time.time()) - 3600),
    "that does not end": token(exp=None),
    "of another issuer": token(iss="https://evil.example.org"),
    "of another issuer, who says ours first": jwt.encode({}, KEYS["stranger"], "ES256").split(".")[0]
    + "."
    + base64url((written(claims())[:-1] + ',"iss":"https://evil.example.org"}').encode()).decode()
    + "."
    + token().rpartition(".")[2],
}


@pytest.mark.parametrize("what", UNVERIFIED)
def test_a_token_that_cannot_be_verified_is_refused(mesh: Shared[TextLab], what: str) -> None:
    async def story(lab: TextLab) -> None:
        for path in ("/charge", "/anybody", "/plain"):
            reply = await lab.ask(path, f"Bearer {UNVERIFIED[what]}")
            assert (reply.status, reply.error) in ((401, "VST4051"), (403, "VST4051")), path

    mesh.run(story)


def test_only_an_access_token_says_that_it_is_one(mesh: Shared[TextLab]) -> None:
    async def story(lab: TextLab) -> None:
        signer = Signer(KEYS["a"], "a")
        assert await lab.shown("/charge", signer.signed(written(claims()))) == 200
        assert await lab.shown("/charge", signer.signed(written(claims()), TRANSACTION_TOKEN)) == 403
        assert await lab.shown("/charge", _resigned('{"alg":"ES256","typ":"JWT","kid":"a"}', "a")) == 403
        # Written in another order it is one still.
        assert await lab.shown("/charge", _resigned('{"typ":"at+jwt","kid":"a","alg":"ES256"}', "a")) == 200

    mesh.run(story)


def test_the_header_is_to_say_one_token_and_nothing_else(mesh: Shared[TextLab]) -> None:
    async def story(lab: TextLab) -> None:
        good, other = token(), token("charge:read")
        for headers in (
            (f"bearer {good}",),
            (f"BEARER {good}",),
            (f"Bearer  {good}",),
            (f"Bearer\t{good}",),
            (f"Basic eDp5 Bearer {good}",),
            (f'"Bearer {good}"',),
            (good,),
            (f"Bearer {good}, Bearer {other}",),
            (f"Bearer {good}", f"Bearer {other}"),
            (f"Bearer {other}", f"Bearer {good}"),
            (f"Bearer {good}", "Basic eDp5"),
            ("Basic eDp5", f"Bearer {good}"),
            (f"Bearer {good}", f"Bearer {token(signed_by='stranger')}"),
            (f"Bearer {token(signed_by='stranger')}", f"Bearer {good}"),
        ):
            assert (await lab.ask("/charge", *headers)).status in (401, 403), headers
        assert (await lab.ask(f"/charge?access_token={good}")).status == 403
        assert (await lab.ask("/charge", more=f"cookie: access_token={good}\r\n")).status == 403

    mesh.run(story)


def _claimed() -> str:
    return token().split(".")[1]


def test_nobody_says_the_claims_himself(mesh: Shared[TextLab]) -> None:
    async def story(lab: TextLab) -> None:
        app = lab.apps["payments"]
        seen = len(app.seen)
        for name in (HEADER, f" {HEADER}", HEADER.removeprefix(":"), HEADER.upper(), f"x{HEADER}"):
            reply = await lab.ask("/charge", more=f"{name}: {_claimed()}\r\n")
            assert reply.status in (400, 403), name
        # Beside a token that is known by its text, and beside one that is not, such a name is no request.
        for made in (token("charge:read"), token("more")):
            reply = await lab.ask("/charge", f"Bearer {made}", more=f"{HEADER}: {_claimed()}\r\n")
            assert reply.status == 400
        assert len(app.seen) == seen

    mesh.run(story)


def test_nor_in_trailers_or_by_an_upgrade(mesh: Shared[TextLab]) -> None:
    async def story(lab: TextLab) -> None:
        app = lab.apps["payments"]
        seen = len(app.seen)
        said = f"{HEADER}: {_claimed()}\r\n"
        for head, rest in (
            ("transfer-encoding: chunked\r\ntrailer: x\r\n", f"0\r\n{said}\r\n"),
            ("connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n", ""),
            (f"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: \r\n{said}", ""),
            (f"connection: {HEADER}\r\n{said}", ""),
            (f"x: y\r\n {said}", ""),
        ):
            for made in ("", token("charge:read"), token("more")):
                shown = f"authorization: Bearer {made}\r\n" if made else ""
                asked = f"POST /charge HTTP/1.1\r\nhost: payments\r\n{shown}{head}\r\n{rest}"
                assert await lab.sends(asked.encode("latin-1")) in (400, 403), (head, made)
        assert len(app.seen) == seen

    mesh.run(story)


def test_nobody_says_them_in_http_2_either(mesh: Shared[TextLab]) -> None:
    async def story(lab: TextLab) -> None:
        good = ("authorization", f"Bearer {token()}")
        assert await _http_2(lab, good) == "200"
        for more in ([], [("authorization", f"Bearer {token('charge:read')}")]):
            assert await _http_2(lab, (HEADER, _claimed()), *more) != "200"
            assert await _http_2(lab, *more, (HEADER, _claimed())) != "200"
            assert await _http_2(lab, *more, trailer=(HEADER, _claimed())) != "200"

    mesh.run(story)


async def _http_2(lab: TextLab, *headers: tuple[str, str], trailer: tuple[str, str] | None = None) -> str:
    """The status of what is answered; nothing where the request is none."""
    tls = client_tls(lab.issue(WEB), lab.directory)
    tls.set_alpn_protocols(["h2"])
    address = lab.proxies["payments-1"].instance.ingress["http"]
    reader, writer = await asyncio.open_connection(address.host, address.port, ssl=tls)
    config = h2.config.H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    asked = [(":method", "GET"), (":path", "/charge"), (":scheme", "https"), (":authority", "payments")]
    connection.send_headers(1, [*asked, *headers], end_stream=trailer is None)
    if trailer is not None:
        connection.send_headers(1, [trailer], end_stream=True)
    writer.write(connection.data_to_send())
    try:
        async with asyncio.timeout(PATIENCE):
            while data := await reader.read(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.ResponseReceived):
                        return _status(event)
                    if isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                        return ""
        return ""
    finally:
        writer.transport.abort()


def _status(event: h2.events.ResponseReceived) -> str:
    return next(bytes(value).decode() for name, value in event.headers if bytes(name) == b":status")


@pytest.mark.parametrize("port", ["http", "quiet"])
def test_the_app_is_told_of_the_token_what_its_port_says_and_nothing_more(
    mesh: Shared[TextLab], port: str
) -> None:
    async def story(lab: TextLab) -> None:
        app, made = lab.apps["payments"], token()
        assert await lab.shown("/charge", made, port=port) == 200
        seen = app.seen[-1].headers
        assert seen.get("authorization") == (f"Bearer {made}" if port == "http" else None)
        assert not any("claims" in name or made.split(".")[1] in name for name in seen)
        assert not any(made.split(".")[1] == value for value in seen.values())

    mesh.run(story)


REVOKED: dict[str, tuple[tuple[RevokedBy, str], dict[str, Any], dict[str, Any]]] = {
    "a token": ((RevokedBy.TOKEN, "bad"), {"jti": "bad"}, {"jti": "good"}),
    "what was got for a token": ((RevokedBy.TOKEN, "bad"), {"txn": "bad"}, {"txn": "good"}),
    "a key": ((RevokedBy.KEY, "a"), {"kid": "a"}, {"kid": "b"}),
    "a client": ((RevokedBy.CLIENT, str(WEB)), {}, {"iat": int(time.time()) + 3600}),
    "a client that acted before": (
        (RevokedBy.CLIENT, str(ORDERS)),
        {"act": {"sub": str(WEB), "act": {"sub": str(ORDERS)}}},
        {"act": {"sub": str(WEB), "act": {"sub": "x"}}},
    ),
    "a subject": ((RevokedBy.SUBJECT, "ada"), {"sub": "ada"}, {"sub": "bob"}),
}


@pytest.mark.parametrize("what", REVOKED)
def test_what_is_revoked_is_refused(mesh: Shared[TextLab], what: str) -> None:
    (by, value), bad, good = REVOKED[what]

    async def story(lab: TextLab) -> None:
        await lab.becomes(200, token(**bad))
        listed = [RevokedTokens(by=by, value=value, before=datetime.now(UTC), until=datetime.now(UTC))]
        lab.refused = RefusedTokens.of(listed)
        await lab.tell()
        await lab.becomes(401, token(**bad), "VST6100")
        await lab.becomes(200, token(**good))
        # However it is shown.
        bad_token = token(**bad)
        for headers in (
            (f"bearer {bad_token}",),
            (f"Bearer  {bad_token}",),
            (f"Bearer {token(**good)}", f"Bearer {bad_token}"),
            (f"Bearer {bad_token}", f"Bearer {token(**good)}"),
            (f"Bearer {bad_token}=",),
        ):
            assert (await lab.ask("/charge", *headers)).status in (401, 403), headers
        assert (await lab.ask("/plain")).status == 200
        lab.refused = RefusedTokens()
        await lab.tell()
        await lab.becomes(200, token(**bad))

    mesh.run(story)


def test_all_that_is_older_ends_where_the_list_is_too_long(mesh: Shared[TextLab]) -> None:
    async def story(lab: TextLab) -> None:
        lab.refused = RefusedTokens(every=int(time.time()))
        await lab.tell()
        await lab.becomes(401, token(), "VST6100")
        await lab.becomes(200, token(iat=int(time.time()) + 3600))
        lab.refused = RefusedTokens()
        await lab.tell()
        await lab.becomes(200, token())

    mesh.run(story)


def test_what_a_token_says_reaches_the_log_without_the_token(mesh: Shared[TextLab]) -> None:
    async def story(lab: TextLab) -> None:
        proxy = lab.proxies["payments-1"]
        made = token(jti="logged")
        async with asyncio.timeout(PATIENCE):
            while not (found := _claims_in([each for _, each in proxy.requests], "logged")):
                assert await lab.shown("/charge", made) == 200
                await asyncio.sleep(0.1)
        assert found[0]["client_id"] == str(WEB)
        assert not any(made.rpartition(".")[2] in str(each) for each in proxy.requests)

    mesh.run(story)


def _claims_in(entries: Any, token_id: str) -> list[dict[str, Any]]:
    texts = [each.common_properties.custom_tags.get("claims", "") for each in entries]
    said = [
        json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))) for text in texts if len(text) > 1
    ]
    return [each for each in said if each.get("jti") == token_id]


def test_a_new_denial_of_tokens_holds_also_before_the_filter_hears_of_it(mesh: Shared[TextLab]) -> None:
    async def story(lab: TextLab) -> None:
        before, made = lab.world.intent, token("charge:read")
        denied = replace(
            _demanding("plain", "web", scopes=("charge:read",)), name="payments/denied", effect=Effect.DENY
        )
        payments = replace(before.services["payments"], deny=(denied,))
        assert await lab.shown("/plain", made) == 200
        lab.late = lab.proxies["payments-1"].snapshot().of_type(EXTENSION)["token/http"]
        try:
            await lab.change(
                replace(before, services={**before.services, "payments": payments}, version="v2")
            )
            async with asyncio.timeout(PATIENCE):
                while await lab.shown("/plain", made) != 403:
                    await asyncio.sleep(0.02)
            assert (await lab.ask("/plain")).status == 200, "of calls without a token it says nothing"
            lab.late = None
            await lab.tell()
            async with asyncio.timeout(PATIENCE):
                while await lab.shown("/plain", token()) != 200:
                    await asyncio.sleep(0.02)
            assert await lab.shown("/plain", made) == 403
        finally:
            lab.late = None
            await lab.change(before)
            await lab.becomes(200, token())
            async with asyncio.timeout(PATIENCE):
                while await lab.shown("/plain", made) != 200:
                    await asyncio.sleep(0.02)

    mesh.run(story)
