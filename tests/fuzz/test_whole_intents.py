"""Whatever people write: what is read is compiled, editors are told the same, and no unknown key slips through."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from tests.fuzz.intents import KEY_FILE, Document, intents
from tests.unit.intent.reading import records, whole_language
from tests.unit.intent.test_schemas import agrees

from vestibule.envoy.compile import compile_proxy
from vestibule.envoy.names import BOOTSTRAP_CLUSTERS
from vestibule.envoy.world import World
from vestibule.intent import Intent, Loaded, Severity, expired, language, load_files
from vestibule.pki.jwk import jwk_parameters
from vestibule.pki.keys import generate_key
from vestibule.records import Address, Instance
from vestibule.spiffe import SpiffeId
from vestibule.xds.inspection import check
from vestibule.xds.resources import ProxyKey

NOW = datetime(2026, 6, 1, tzinfo=UTC)
AGENT = SpiffeId.parse("spiffe://example.org/spire/agent/test")
KINDS = {
    "mesh.yaml": "mesh",
    "services": "service",
    "egress": "external",
    "gateways": "gateway",
    "secrets": "secrets",
    "tokens": "tokens",
}
# Odd values for any key.
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    1.5,
    10**12,
    "",
    "a",
    "\u202e",
    "5s",
    "/a",
    [],
    [[]],
    {},
    {"a": {}},
    ["a"],
)
KEYS = json.dumps(
    {"keys": [{**jwk_parameters(generate_key().public_key()), "kid": "a", "alg": "ES256", "use": "sig"}]}
).encode()
broad = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True, scope="module")
def _whole_language() -> Iterator[None]:
    with whole_language():
        yield


def read(files: dict[str, Document]) -> Loaded:
    contents = {name: json.dumps(document).encode() for name, document in files.items()}
    return load_files({**contents, KEY_FILE: KEYS})


def kind_of(file: str) -> str:
    return KINDS[file.partition("/")[0]]


def address(number: int) -> Address:
    return Address(host="127.0.0.1", port=10_000 + number)


def instances(intent: Intent) -> tuple[Instance, ...]:
    """Two of every service in different places and of different versions, and one of every gateway."""
    found: list[Instance] = []
    for number, service in enumerate(intent.services.values()):
        plain = Instance(
            id=f"{service.name}-1",
            service=service.name,
            spiffe_id=service.spiffe_id,
            agent_id=AGENT,
            ingress={port: address(10 * number) for port in service.ports},
            apps={port: address(10 * number + 1) for port in service.ports},
            egress=address(10 * number + 2),
            upstreams={"web": address(10 * number + 3), "stripe": address(10 * number + 4)},
            locality="eu-west/a",
        )
        found += [plain, replace(plain, id=f"{service.name}-2", version="v2", locality="us-east/b")]
    for number, gateway in enumerate(intent.gateways.values(), start=100):
        ingress = {name: address(10 * number + each) for each, name in enumerate(gateway.listeners)}
        found.append(
            Instance(
                id=f"{gateway.name}-1",
                service=gateway.name,
                spiffe_id=gateway.spiffe_id,
                agent_id=AGENT,
                ingress=ingress,
            )
        )
    return tuple(found)


def bytes_of(intent: Intent) -> list[tuple[str, str, bytes]]:
    world = World(intent=intent, instances=instances(intent))
    found = []
    for each in world.instances:
        snapshot = compile_proxy(world, ProxyKey(each.spiffe_id, each.id))
        check(snapshot, given=BOOTSTRAP_CLUSTERS)
        found += [
            (url, name, one.body) for url, named in snapshot.resources.items() for name, one in named.items()
        ]
    return found


@broad
@given(files=intents())
def test_what_is_read_is_compiled_and_envoy_would_take_it(files: dict[str, Document]) -> None:
    loaded = read(files)
    event("an intent" if loaded.intent else "refused: " + loaded.problems[0].code.name)
    if loaded.intent is None:
        assert any(found.severity is Severity.ERROR for found in loaded.problems)
        return
    assert bytes_of(loaded.intent) == bytes_of(loaded.intent)
    assert read(files) == loaded
    for found in expired(loaded.intent, NOW):
        assert found.severity is Severity.WARNING


@broad
@given(files=intents())
def test_editors_accept_what_is_read(files: dict[str, Document]) -> None:
    if read(files).intent is not None:
        for file, document in files.items():
            assert agrees(language.schema(kind_of(file)), document), file


@broad
@given(files=intents(), data=st.data())
def test_a_key_that_nobody_knows_is_refused_wherever_it_stands(
    files: dict[str, Document], data: st.DataObject
) -> None:
    files = apart(files)
    file = data.draw(st.sampled_from(sorted(files)))
    places = list(mappings(files[file], language.schema(kind_of(file))))
    place = data.draw(st.sampled_from(range(len(places))))
    places[place]["unheard_of"] = data.draw(st.sampled_from([None, 1, "a", [], {}]))
    refused = [found for found in read(files).problems if "unheard_of" in found.message]
    assert [found.code.code for found in refused] == ["VST0020"]
    assert not agrees(language.schema(kind_of(file)), files[file])


@broad
@given(files=intents(), data=st.data())
def test_a_value_of_any_other_kind_gives_problems_or_an_intent(
    files: dict[str, Document], data: st.DataObject
) -> None:
    files = apart(files)
    file = data.draw(st.sampled_from(sorted(files)))
    places = list(mappings(files[file], language.schema(kind_of(file))))
    place = places[data.draw(st.sampled_from(range(len(places))))]
    if place:
        key = data.draw(st.sampled_from(sorted(place)))
        place[key] = data.draw(st.sampled_from(ODD))
    loaded = read(files)
    assert (loaded.intent is None) == any(found.severity is Severity.ERROR for found in loaded.problems)
    if loaded.intent is not None:
        bytes_of(loaded.intent)


def apart(files: dict[str, Document]) -> dict[str, Document]:
    """The same, where nothing is the same object in two places: what is changed here would change there, too."""
    copied: dict[str, Document] = json.loads(json.dumps(files))
    return copied


def mappings(value: Any, schema: Any) -> Iterator[Document]:
    """Every mapping of a document that has keys of its own, not names that people choose."""
    for each in schema.get("anyOf", [schema]):
        if isinstance(value, list):
            for item in value:
                yield from mappings(item, each.get("items", {}))
        elif isinstance(value, dict) and "properties" in each:
            yield value
            for key, child in list(value.items()):
                yield from mappings(child, each["properties"].get(key, {}))
        elif isinstance(value, dict) and isinstance(each.get("additionalProperties"), dict):
            for child in value.values():
                yield from mappings(child, each["additionalProperties"])


def test_the_intents_that_are_tried_say_all_that_can_be_said() -> None:
    """Every key occurs: those that are forgotten here are tried by nothing."""
    seen: set[tuple[str, str]] = set()
    known = {(record.title, key.name) for record in records() for key in record.keys}

    of_up = {"up.yaml", "an app", "another version"}
    untried = {("tls", "ca"), ("a port", "app")}
    wanted = {each for each in known if each[0] not in of_up}

    def complete(files: dict[str, Document]) -> bool:
        for file, document in files.items():
            seen.update(said(document, language.FILES[kind_of(file)]))
        return wanted - seen == untried

    enough = settings(
        max_examples=1500, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    try:
        find(intents(), complete, settings=enough)
    except NoSuchExample:
        assert wanted - seen == untried


def said(value: Any, shape: Any) -> Iterator[tuple[str, str]]:
    """The keys of records that a document uses."""
    record = getattr(shape, "record", shape)
    if hasattr(shape, "mapping"):
        yield from said(value, shape.mapping) if isinstance(value, dict) else ()
    elif isinstance(value, list):
        for item in value:
            yield from said(item, getattr(shape, "item", None))
    elif isinstance(value, dict) and hasattr(record, "keys") and hasattr(record, "title"):
        shapes = {key.name: key.shape for key in record.keys}
        for key, child in value.items():
            yield record.title, key
            yield from said(child, shapes[key])
    elif isinstance(value, dict) and hasattr(shape, "value"):
        for child in value.values():
            yield from said(child, shape.value)
