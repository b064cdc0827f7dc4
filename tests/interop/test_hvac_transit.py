"""``hvac`` from PyPI, as it is, against transit keys, wrapped answers, logins and tokens.

Who calls is told by a header, as the platform's Envoy does; without it there is only what a client shows itself.
"""

from __future__ import annotations

import asyncio
import socket
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

import hvac
import pytest
import requests
import uvicorn
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, Unauthorized
from tests.component.test_secret_versions import Heard

from vestibule.clock import SystemClock
from vestibule.doors.vault.app import VaultApp
from vestibule.doors.vault.auth import AuthBackend
from vestibule.doors.vault.callers import Callers
from vestibule.doors.vault.kv import KvBackend
from vestibule.doors.vault.operations import Backend
from vestibule.doors.vault.pipeline import Pipeline
from vestibule.doors.vault.transit import TransitBackend
from vestibule.doors.vault.wrapping import WrappingBackend, wrapped_answer
from vestibule.secrets.client_tokens import ClientTokens
from vestibule.secrets.ports import AccessDecision, Verb
from vestibule.secrets.transit.engine import Transit
from vestibule.secrets.versions import Versions
from vestibule.secrets.wrapping import Wrapping
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.testing import TestAuthority
from vestibule.testing.barrier import MemoryBarrier

US = "spiffe://example.org/vestibule/secrets"
ANN = "spiffe://example.org/ann"


class Everybody:
    """``secrets.ports.Access``: everything may be done by everybody."""

    def decide(self, caller: SpiffeId, verb: Verb, path: str) -> AccessDecision:
        return AccessDecision(allowed=True, rule="all/all")


@dataclass
class Vault:
    """The API at an address."""

    url: str
    authority: TestAuthority

    def client(self, token: str = "", *, mtls: str = ANN) -> hvac.Client:
        session = requests.Session()
        if mtls:
            session.headers["x-forwarded-client-cert"] = mtls
        return hvac.Client(url=self.url, token=token or None, session=session)


def pipeline(barrier: MemoryBarrier, tokens: ClientTokens) -> Pipeline:
    clock, wrapping = SystemClock(), Wrapping(barrier, SystemClock())
    backends: dict[str, Backend] = {
        "secret": KvBackend(Versions(barrier, clock)),
        "transit": TransitBackend(Transit(barrier, clock)),
        "auth": AuthBackend(tokens, clock),
        "sys/wrapping": WrappingBackend(wrapping),
    }
    wrap = partial(wrapped_answer, wrapping)
    return Pipeline(backends, Everybody(), Heard(), is_operator=lambda _: True, wrap=wrap)


@pytest.fixture
async def vault() -> AsyncIterator[Vault]:
    barrier, authority = MemoryBarrier(), TestAuthority("example.org")
    tokens = ClientTokens(barrier, SystemClock())
    bundles = {TrustDomain.parse("example.org"): authority.jwt_bundle}
    callers = Callers(tokens, bundles.get, US, SystemClock())
    app = VaultApp(
        pipeline(barrier, tokens).answer,
        lambda text: SpiffeId.parse(text.decode()),
        callers,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    web = uvicorn.Server(uvicorn.Config(app, http="h11", lifespan="off", log_config=None))
    serving = asyncio.create_task(web.serve(sockets=[listener]), name="vault")
    yield Vault(f"http://127.0.0.1:{listener.getsockname()[1]}", authority)
    web.should_exit = True
    await serving


def b64(text: bytes) -> str:
    return b64encode(text).decode()


async def test_hvac_encrypts_rotates_rewraps_and_decrypts(vault: Vault) -> None:
    def session() -> None:
        transit = vault.client().secrets.transit
        transit.create_key("cards", key_type="aes256-gcm96")
        made = transit.encrypt_data("cards", plaintext=b64(b"4111"))["data"]["ciphertext"]
        transit.rotate_key("cards")
        assert transit.read_key("cards")["data"]["latest_version"] == 2
        again = transit.rewrap_data("cards", ciphertext=made)["data"]["ciphertext"]
        assert again.startswith("vault:v2:")
        assert transit.decrypt_data("cards", ciphertext=again)["data"]["plaintext"] == b64(b"4111")
        batch = transit.encrypt_data("cards", plaintext="", batch_input=[{"plaintext": b64(b"a")}])
        assert len(batch["data"]["batch_results"]) == 1
        transit.update_key_configuration("cards", min_decryption_version=2, deletion_allowed=True)
        with pytest.raises(InvalidRequest, match="min_decryption_version is 2"):
            transit.decrypt_data("cards", ciphertext=made)
        assert transit.list_keys()["data"]["keys"] == ["cards"]
        transit.trim_key("cards", min_version=2)
        transit.delete_key("cards")
        with pytest.raises(InvalidPath):
            transit.read_key("cards")

    await asyncio.to_thread(session)


async def test_hvac_signs_verifies_and_makes_hmacs_and_data_keys(vault: Vault) -> None:
    def session() -> None:
        transit = vault.client().secrets.transit
        for kind in ("ed25519", "ecdsa-p256", "rsa-2048"):
            transit.create_key(kind, key_type=kind)
            made = transit.sign_data(kind, hash_input=b64(b"text"))["data"]["signature"]
            for text, valid in ((b"text", True), (b"other", False)):
                told = transit.verify_signed_data(kind, hash_input=b64(text), signature=made)
                assert told["data"]["valid"] is valid
        transit.create_key("cards")
        made = transit.generate_hmac("cards", hash_input=b64(b"text"), algorithm="sha2-256")["data"]["hmac"]
        told = transit.verify_signed_data("cards", hash_input=b64(b"text"), hmac=made)
        assert told["data"]["valid"]
        key = transit.generate_data_key("cards", key_type="plaintext")["data"]
        opened = transit.decrypt_data("cards", ciphertext=key["ciphertext"])["data"]["plaintext"]
        assert opened == key["plaintext"]
        assert transit.generate_random_bytes(n_bytes=16)["data"]["random_bytes"]
        assert transit.hash_data(b64(b"text"), algorithm="sha2-256")["data"]["sum"]
        with pytest.raises(InvalidRequest):
            transit.encrypt_data("unknown", plaintext=b64(b"a"))
        with pytest.raises(InvalidPath):
            transit.export_key("cards", key_type="encryption-key")

    await asyncio.to_thread(session)


async def test_hvac_wraps_an_answer_that_another_opens_once(vault: Vault) -> None:
    def session() -> None:
        ann = vault.client()
        ann.secrets.kv.v2.create_or_update_secret("db", secret={"password": "planted-value"})
        wrapped = ann.read("secret/data/db", wrap_ttl="5m")
        assert wrapped["wrap_info"]["ttl"] == 300
        assert "planted-value" not in str(wrapped)
        token = wrapped["wrap_info"]["token"]
        bob = vault.client(mtls="spiffe://example.org/bob")
        assert bob.sys.unwrap(token)["data"]["data"] == {"password": "planted-value"}
        with pytest.raises(InvalidRequest, match="VST5552"):
            bob.sys.unwrap(token)
        # A client whose only token is that of what is wrapped opens it with that.
        wrapped = ann.sys.wrap({"a": "b"}, ttl=60)
        carol = vault.client(wrapped["wrap_info"]["token"], mtls="spiffe://example.org/carol")
        assert carol.sys.unwrap()["data"] == {"a": "b"}

    await asyncio.to_thread(session)


async def test_hvac_logs_in_with_a_jwt_svid_and_goes_on_with_a_token(vault: Vault) -> None:
    def session() -> None:
        client = vault.client(mtls="")
        with pytest.raises((Forbidden, Unauthorized)):
            client.secrets.kv.v2.list_secrets("")
        client.auth.jwt.jwt_login(role="any", jwt=vault.authority.jwt_svid(ANN, US).token)
        assert client.token.startswith("hvb.")
        assert client.is_authenticated()
        told = client.auth.token.lookup_self()["data"]
        assert told["display_name"] == ANN
        client.secrets.kv.v2.create_or_update_secret("db", secret={"password": "planted-value"})
        client.auth.token.renew_self(increment="30m")
        assert client.auth.token.lookup_self()["data"]["ttl"] > 900
        child = client.auth.token.create(ttl="1m")["auth"]["client_token"]
        client.auth.token.revoke_self()
        with pytest.raises((Forbidden, Unauthorized)):
            client.secrets.kv.v2.list_secrets("")
        assert vault.client(child, mtls="").auth.token.lookup_self()["data"]["display_name"] == ANN

    await asyncio.to_thread(session)


async def test_hvac_logs_in_by_certificate_and_its_token_is_worth_nothing_to_others(vault: Vault) -> None:
    def session() -> None:
        token = vault.client().write_data("auth/cert/login", data={})["auth"]["client_token"]
        assert vault.client(token).auth.token.lookup_self()["data"]["display_name"] == ANN
        with pytest.raises(Forbidden):
            vault.client(token, mtls="spiffe://example.org/bob").auth.token.lookup_self()

    await asyncio.to_thread(session)
