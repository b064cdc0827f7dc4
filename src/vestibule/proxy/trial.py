"""A policy on real Envoys, for a moment: each service's way in as it is compiled, callers with throwaway certificates.

Nothing of it can be reached by others: sockets, keys and configuration are in a directory of our own, which goes with
it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from vestibule.envoy.compile import compile_proxy
from vestibule.envoy.offline import NUMBER_HEADER, offline
from vestibule.envoy.tls_secrets import certificate_secret, validation_secret
from vestibule.envoy.world import World
from vestibule.intent import Intent
from vestibule.intent.model import Issuer, IssuerKind
from vestibule.intent.plaintext import ANYBODY
from vestibule.pki import profiles
from vestibule.pki.chains import leaf_facts
from vestibule.pki.jwk import jwk_parameters
from vestibule.pki.jwt import UnsignedJwt
from vestibule.pki.keys import generate_key, key_to_pkcs8
from vestibule.policy import Call
from vestibule.processes import Child, Command
from vestibule.proxy.binary import find_envoy
from vestibule.proxy.codes import TRIAL_FAILED
from vestibule.records import Address, Instance
from vestibule.spiffe import SpiffeId, TrustBundle, TrustDomain, X509Svid
from vestibule.xds.resources import ProxyKey

PATIENCE: Final = 20.0
"""Seconds for an Envoy to be ready, and for one answer."""

_HOUR: Final = timedelta(hours=1)
_KEY_ID: Final = "trial"
_SERVED: Final = 200
_DENIED: Final = "rbac_access_denied_matched_policy["


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What Envoy made of a call: whether it got through, and by which rule, as far as Envoy says; None on TCP ports."""

    allowed: bool
    rule: str | None = None
    shadow: bool | None = None
    status: int | None = None


class Trial:
    """``async with`` it, ``ask`` everything, then read ``answers``."""

    def __init__(self, intent: Intent, services: Sequence[str], binary: Path | None = None) -> None:
        self._binary = find_envoy(binary)
        self._key = generate_key()
        self._intent = _with_issuer_keys(intent, self._key)
        self._services = tuple(dict.fromkeys(services))
        self._authority = _Authority(intent.mesh.trust_domain)
        self._directory = Path(tempfile.mkdtemp(prefix="vt-"))
        self._children: list[Child] = []
        self._passed: dict[int, tuple[bool, int | None]] = {}
        self._answers: dict[int, Answer] = {}
        self._contexts: dict[SpiffeId, ssl.SSLContext] = {}

    async def __aenter__(self) -> Self:
        try:
            for number, service in enumerate(self._services):
                await self._start(number, service)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def ask(self, number: int, service: str, call: Call) -> None:
        """Make a call, as its caller; ``number`` is how its answer is found.  Raises: VST7107."""
        try:
            async with asyncio.timeout(PATIENCE):
                self._passed[number] = await self._ask(number, service, call)
        except TimeoutError as error:
            raise TRIAL_FAILED.error(f"Envoy did not answer within {PATIENCE:g} s") from error

    @property
    def answers(self) -> Mapping[int, Answer]:
        """What came of the calls; complete once the trial was left."""
        return self._answers

    async def _start(self, number: int, service: str) -> None:
        directory = self._directory / str(number)
        directory.mkdir(mode=0o700)
        written = self._intent.services[service]
        sockets = {name: Address(path=str(directory / f"{name}.s")) for name in written.ports}
        instance = Instance(
            id=service,
            service=service,
            spiffe_id=written.spiffe_id,
            agent_id=written.spiffe_id,
            ingress=MappingProxyType(sockets),
            apps=MappingProxyType({name: Address(path=str(directory / "app")) for name in written.ports}),
        )
        now = datetime.now(UTC)
        world = World(intent=self._intent, instances=(instance,), as_of=now)
        made = offline(
            compile_proxy(world, ProxyKey(written.spiffe_id, service)),
            svid=certificate_secret("own", self._authority.svid(written.spiffe_id)),
            bundle=validation_secret("roots", [self._authority.bundle]),
            directory=str(directory),
            log=str(directory / "log"),
        )
        bootstrap = json.dumps(made.bootstrap).encode()
        for name, content in {**made.files, "bootstrap.json": bootstrap}.items():
            await asyncio.to_thread(_write, directory / name, content)
        await self._run(directory, [Path(each.path) for each in sockets.values()])

    async def _run(self, directory: Path, sockets: Sequence[Path]) -> None:
        command = Command(
            argv=(
                *(str(self._binary), "--config-path", str(directory / "bootstrap.json")),
                *("--disable-hot-restart", "--concurrency", "1", "--log-level", "error"),
            ),
            env={"PATH": "/usr/bin:/bin"},
        )
        with (directory / "envoy.log").open("wb") as output:
            child = Child.start(command, output=output.fileno())
        self._children.append(child)
        try:
            async with asyncio.timeout(PATIENCE):
                while not all([await _is_open(each) for each in sockets]):
                    if not child.running:
                        raise TRIAL_FAILED.error(f"Envoy ended: {_last_line(directory / 'envoy.log')}")
                    await asyncio.sleep(0.02)
        except TimeoutError as error:
            raise TRIAL_FAILED.error(f"Envoy was not ready within {PATIENCE:g} s") from error

    async def _ask(self, number: int, service: str, call: Call) -> tuple[bool, int | None]:
        path = self._directory / str(self._services.index(service)) / f"{call.port}.s"
        tls = None if call.caller == ANYBODY else self._context(call.caller)
        try:
            reader, writer = await asyncio.open_unix_connection(
                path, ssl=tls, server_hostname="" if tls else None
            )
        except (OSError, ssl.SSLError):
            return False, None
        try:
            if call.method is None:
                return await _echoes(reader, writer), None
            writer.write(_request(number, service, call, self._tokens(call)))
            status = await _status(reader)
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
            return False, None
        finally:
            writer.transport.abort()
        return status == _SERVED, status

    def _context(self, caller: SpiffeId) -> ssl.SSLContext:
        if caller not in self._contexts:
            svid, file = self._authority.svid(caller), self._directory / "client.pem"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            # The other end of a socket that only we can open.
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            file.touch(mode=0o600)
            file.write_bytes(_pem(svid))
            context.load_cert_chain(file)
            file.unlink()
            self._contexts[caller] = context
        return self._contexts[caller]

    def _tokens(self, call: Call) -> list[str]:
        now = int(datetime.now(UTC).timestamp())
        found = []
        for name, claims in call.tokens.items():
            issuer = self._intent.mesh.issuers.get(name)
            if issuer is not None:
                standard = {"iss": issuer.issuer, "iat": now, "exp": now + 300, "jti": "trial"}
                unsigned = UnsignedJwt(key_id=_KEY_ID, claims={**standard, **claims}, typ="at+jwt")
                found.append(unsigned.signed(self._key.sign(unsigned.signing_input, ECDSA(SHA256()))))
        return found

    async def _stop(self) -> None:
        for child in self._children:
            await child.stop(5.0)
        said = [self._directory / str(number) / "log" for number in range(len(self._services))]
        lines = [
            line for file in said if file.exists() for line in file.read_text("utf-8", "replace").splitlines()
        ]
        rules = {int(each["number"]): each for each in map(json.loads, lines) if each["number"]}
        for number, (allowed, status) in self._passed.items():
            self._answers[number] = _answer(allowed, status, rules.get(number))
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)


def _answer(allowed: bool, status: int | None, said: Mapping[str, Any] | None) -> Answer:
    if said is None:
        return Answer(allowed=allowed, status=status)
    details = str(said["details"] or "")
    if details.startswith(_DENIED):
        name = details.removeprefix(_DENIED).removesuffix("]")
        rule = "" if name == "none" else name
    else:
        rule = str(said["rule"] or "")
    shadow = None if not said["shadow"] else said["shadow"] == "allowed"
    return Answer(allowed=allowed, rule=rule, shadow=shadow, status=status)


class _Authority:
    """Signs for everybody, for as long as it is remembered."""

    def __init__(self, trust_domain: TrustDomain) -> None:
        self._trust_domain = trust_domain
        self._key = generate_key()
        self._valid = profiles.lifetime(datetime.now(UTC), _HOUR)
        builder = profiles.self_signed_ca(self._trust_domain, self._key.public_key(), self._valid)
        self._certificate = builder.sign(self._key, SHA256()).public_bytes(Encoding.DER)
        self._issuer = profiles.Issuer.of(self._certificate, self._trust_domain)

    @property
    def bundle(self) -> TrustBundle:
        return TrustBundle(trust_domain=self._trust_domain, x509_authorities=(self._certificate,), sequence=1)

    def svid(self, spiffe_id: SpiffeId) -> X509Svid:
        key = generate_key()
        issuer = replace(self._issuer, trust_domain=spiffe_id.trust_domain)
        builder = profiles.svid(spiffe_id, key.public_key(), self._valid, issuer)
        leaf = builder.sign(self._key, SHA256()).public_bytes(Encoding.DER)
        facts = leaf_facts(leaf)
        return X509Svid(
            spiffe_id=spiffe_id,
            chain=(leaf,),
            key=key_to_pkcs8(key),
            serial=int(facts.serial),
            not_before=facts.not_before,
            not_after=facts.not_after,
        )


def _with_issuer_keys(intent: Intent, key: EllipticCurvePrivateKey) -> Intent:
    """The same intent, whose issuers sign with our key: theirs, nobody has here."""
    if not intent.mesh.issuers:
        return intent
    domain = intent.mesh.trust_domain
    jwk = {**jwk_parameters(key.public_key()), "kid": _KEY_ID, "alg": "ES256", "use": "sig"}
    keys = json.dumps({"keys": [jwk]})
    issuers = {name: _issuer_on_trial(each, keys, domain) for name, each in intent.mesh.issuers.items()}
    return replace(intent, mesh=replace(intent.mesh, issuers=MappingProxyType(issuers)))


def _issuer_on_trial(issuer: Issuer, keys: str, trust_domain: TrustDomain) -> Issuer:
    """No server says here what only servers know."""
    if issuer.kind is IssuerKind.SPIFFE:
        return replace(issuer, keys=keys)
    iss = issuer.issuer or f"https://tokens.{trust_domain}"
    return replace(issuer, issuer=iss, keys=keys, kind=IssuerKind.FILE, url="")


def _request(number: int, service: str, call: Call, tokens: Sequence[str]) -> bytes:
    headers = {"host": call.host or service, NUMBER_HEADER: str(number), **call.headers}
    body = b""
    if call.mcp is not None:
        body = json.dumps(_message(call)).encode()
        headers |= {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    if body:
        headers["content-length"] = str(len(body))
    lines = [f"{call.method} {call.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    lines += [f"authorization: Bearer {each}" for each in tokens]
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body


def _message(call: Call) -> dict[str, Any]:
    assert call.mcp is not None
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": call.mcp.method}
    if call.mcp.target is not None:
        name = "uri" if (call.mcp.method or "").startswith("resources/") else "name"
        message["params"] = {name: call.mcp.target}
    return message


async def _status(reader: asyncio.StreamReader) -> int | None:
    first = (await reader.readline()).split()
    return int(first[1]) if len(first) > 1 and first[1].isdigit() else None


async def _echoes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"?")
    return await reader.read(1) == b"?"


async def _is_open(path: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.transport.abort()
    return True


def _write(file: Path, content: bytes) -> None:
    file.touch(mode=0o600)
    file.write_bytes(content)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1][:300] if lines else "it said nothing"


def _pem(svid: X509Svid) -> bytes:
    key = load_der_private_key(svid.key, None)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + b"".join(
        x509.load_der_x509_certificate(each).public_bytes(Encoding.PEM) for each in svid.chain
    )
