"""``hvac`` from PyPI, as it is: through two sidecars, as an app in the mesh has it, and directly with an SVID."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import hvac
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hvac.exceptions import Forbidden
from tests.e2e.front_lab import SECRETS, opened
from tests.e2e.mesh_lab import PATIENCE, Lab, client_tls, free_address, intent_of, service
from tests.interop.vault_sessions import versioned_secrets

from vestibule.clock import SystemClock
from vestibule.doors.vault.auth import AuthBackend
from vestibule.doors.vault.kv import KvBackend
from vestibule.doors.vault.operations import Backend
from vestibule.doors.vault.transit import TransitBackend
from vestibule.doors.vault.wrapping import WrappingBackend, wrapped_answer
from vestibule.mesh.built_in import BuiltIn
from vestibule.records import Address
from vestibule.secrets.client_tokens import ClientTokens
from vestibule.secrets.ports import AccessDecision, Verb
from vestibule.secrets.transit.engine import Transit
from vestibule.secrets.versions import Versions
from vestibule.secrets.wrapping import Wrapping
from vestibule.spiffe import SpiffeId
from vestibule.testing.barrier import MemoryBarrier

UPSTREAM = "secrets"


class Below:
    """``secrets.ports.Access``: each service may do everything with what is named after it."""

    def decide(self, caller: SpiffeId, verb: Verb, path: str) -> AccessDecision:
        own = caller.path.rpartition("/")[2]
        named = path.split("/")[1:]
        allowed = any(each.startswith(own) for each in named)
        return AccessDecision(allowed=allowed, rule="all/own" if allowed else None)


@dataclass
class Scene:
    mesh: Lab
    upstream: Address
    egress: Address
    direct: str
    files: Path


@asynccontextmanager
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """payments beside its sidecar, and the secret manager behind the platform's Envoy."""
    barrier, clock = MemoryBarrier(), SystemClock()
    wrapping, tokens = Wrapping(barrier, clock), ClientTokens(barrier, clock)
    backends: dict[str, Backend] = {
        "secret": KvBackend(Versions(barrier, clock)),
        "transit": TransitBackend(Transit(barrier, clock)),
        "auth": AuthBackend(tokens, clock),
        "sys/wrapping": WrappingBackend(wrapping),
    }
    async with Lab(intent_of(service("payments"))) as mesh:
        wrap = partial(wrapped_answer, wrapping)
        async with opened(mesh.authority, backends, Below(), wrap, tokens) as room:
            listen = Address.parse(room.address)
            built_in = BuiltIn(name="secrets", spiffe_id=SECRETS, address=listen, server_id=SECRETS)
            world = mesh.world
            services = {**world.intent.services, "secrets": built_in.service}
            intent = replace(world.intent, services=services)
            mesh.world = replace(world, intent=intent, instances=(built_in.instance,))
            upstream = free_address()
            proxy = await mesh.add("payments", upstreams={UPSTREAM: upstream})
            await mesh.ready()
            assert proxy.instance.egress is not None
            yield Scene(mesh, upstream, proxy.instance.egress, f"https://localhost:{listen.port}", tmp_path)


# hvac's own patch reads without saying what it wants of deleted versions, and warns of that.
@pytest.mark.filterwarnings("ignore:The raise_on_deleted_version parameter:DeprecationWarning")
async def test_hvac_works_through_two_sidecars_and_directly(tmp_path: Path) -> None:
    async with scene(tmp_path) as found:
        await asyncio.to_thread(_session, _through_sidecars(found), "payments/meshed")
        await asyncio.to_thread(_session, _directly(found), "payments/direct")


def _through_sidecars(found: Scene) -> hvac.Client:
    """What VAULT_ADDR leads to: no token, no TLS, no proxy setting."""
    return hvac.Client(url=f"http://{found.upstream}", timeout=PATIENCE)


def _directly(found: Scene) -> hvac.Client:
    """With files, as ``vestibule svid write`` keeps them."""
    svid = found.mesh.issue(found.mesh.world.intent.services["payments"].spiffe_id)
    client_tls(svid, found.files)
    authority = x509.load_der_x509_certificate(found.mesh.authority.certificate)
    bundle = found.files / "bundle.pem"
    bundle.write_bytes(authority.public_bytes(Encoding.PEM))
    shown = str(found.files / f"{svid.serial}.pem")
    return hvac.Client(url=found.direct, cert=(shown, shown), verify=str(bundle), timeout=PATIENCE)


def _session(client: hvac.Client, folder: str) -> None:
    versioned_secrets(client, folder)
    with pytest.raises(Forbidden, match="VST5300"):
        client.secrets.kv.v2.read_secret_version("orders/db", raise_on_deleted_version=True)
    _encrypted(client, folder.replace("/", "-"))
    _wrapped(client)
    _logged_in(client)


def _encrypted(client: hvac.Client, name: str) -> None:
    transit = client.secrets.transit
    transit.create_key(name)
    sealed = transit.encrypt_data(name, plaintext="c3dvcmRmaXNo")["data"]["ciphertext"]
    assert sealed.startswith("vault:v1:")
    transit.rotate_key(name)
    assert transit.decrypt_data(name, ciphertext=sealed)["data"]["plaintext"] == "c3dvcmRmaXNo"


def _wrapped(client: hvac.Client) -> None:
    kv = client.secrets.kv.v2
    kv.create_or_update_secret("payments/wrapped", secret={"x": "1"})
    info = client.read("secret/data/payments/wrapped", wrap_ttl="60s")["wrap_info"]
    assert client.sys.unwrap(info["token"])["data"]["data"] == {"x": "1"}
    with pytest.raises(Exception, match="VST5552"):
        client.sys.unwrap(info["token"])


def _logged_in(client: hvac.Client) -> None:
    token = client.write("auth/cert/login")["auth"]["client_token"]
    client.token = token
    assert client.is_authenticated()
    assert client.lookup_token()["data"]["entity_id"].endswith("payments")
    client.token = None
