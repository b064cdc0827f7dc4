"""The platform's services are in every intent that proxies are compiled for, and in none that people wrote."""

from __future__ import annotations

from vestibule.envoy.compile import compile_proxy
from vestibule.envoy.world import World
from vestibule.intent import Intent, load_files
from vestibule.mesh.built_in import BuiltIn, WithBuiltIn
from vestibule.mesh.revision import Revision
from vestibule.records import Address, Instance
from vestibule.spiffe import SpiffeId
from vestibule.xds.resources import CLUSTER, LISTENER, ProxyKey

FILES = {
    "mesh.yaml": b"mesh: shop\ntrust_domain: example.org\nenvironment: prod\n"
    b"identity: /ns/{environment}/sa/{service}\n",
    "services/web.yaml": b"service: web\nports: {http: {protocol: http}}\nallow: []\n",
}


class NoIntents:
    """``mesh.intents.Intents`` before anything was read."""

    revision = Revision()

    def in_force(self) -> tuple[Intent, ...]:
        return ()

    def version_for(self, proxy: ProxyKey) -> str | None:
        return None

    def cannot_have(self, proxy: ProxyKey, version: str, why: str) -> None:
        """Nobody asks."""


SECRETS = BuiltIn(
    name="secrets",
    spiffe_id=SpiffeId.parse("spiffe://example.org/vestibule/secrets"),
    address=Address(host="127.0.0.1", port=8200),
    server_id=SpiffeId.parse("spiffe://example.org/spire/server"),
)


def test_a_service_that_nobody_allowed_anything_reaches_it_pinned_to_its_identity() -> None:
    intent = load_files(FILES).intent
    assert intent is not None
    completed = WithBuiltIn(NoIntents(), (SECRETS,)).complete(intent)
    web = Instance(
        id="web-1",
        service="web",
        spiffe_id=intent.services["web"].spiffe_id,
        agent_id=SpiffeId.parse("spiffe://example.org/spire/agent/a"),
        egress=Address(host="127.0.0.1", port=15001),
        upstreams={"secrets": Address(host="127.0.0.1", port=15002)},
    )
    world = World(intent=completed, instances=(web, SECRETS.instance))
    snapshot = compile_proxy(world, ProxyKey(web.spiffe_id, web.id))
    cluster = snapshot.of_type(CLUSTER)["secrets/http"].body
    assert b"spiffe://example.org/vestibule/secrets" in cluster
    assert "upstream/secrets" in snapshot.of_type(LISTENER)


def test_the_same_intent_is_completed_once_and_without_services_not_at_all() -> None:
    intent = load_files(FILES).intent
    assert intent is not None
    completing = WithBuiltIn(NoIntents(), (SECRETS,))
    assert completing.complete(intent) is completing.complete(intent)
    assert "secrets" not in intent.services
    assert WithBuiltIn(NoIntents(), ()).complete(intent) is intent


def test_the_name_is_taken() -> None:
    files = {**FILES, "services/secrets.yaml": FILES["services/web.yaml"].replace(b"web", b"secrets")}
    problems = load_files(files).problems
    assert [each.code.code for each in problems if each.severity.value == "error"] == ["VST0078"]
