"""Labels, claims and templates of entries: what may be kept, and what may be derived."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.identity.world import AGENT, DOMAIN, SERVER, World, entry, spiffe

from vestibule.errors import VestibuleError
from vestibule.identity.claims import REGISTERED, ClaimRules, read_claims
from vestibule.identity.derivation import derived, rederived
from vestibule.identity.entitlement import authorized_entries
from vestibule.identity.entry_rules import EntryRules
from vestibule.records import Entry
from vestibule.spiffe import Selector

RULES = EntryRules(trust_domain=DOMAIN)
ALICE = frozenset({Selector("unix", "user:alice"), Selector("unix", "uid:1000"), Selector("unix", "gid:7")})


def template(path: str = "/user/{unix:user}", **fields: Any) -> Entry:
    wanted = entry("/user", AGENT, "unix:uid:1000", id="t", path_template=path, **fields)
    return RULES.check(wanted)


def claims(**values: Any) -> str:
    return json.dumps(values)


@pytest.mark.parametrize("name", sorted(REGISTERED - {"_sd", "_sd_alg"}))
def test_a_registered_claim_is_never_set(name: str) -> None:
    for written in (name, name.upper()):
        with pytest.raises(VestibuleError, match="registered"):
            ClaimRules().check({written: "x"})


@pytest.mark.parametrize(
    "wanted",
    [
        {"": "x"},
        {"a b": "x"},
        {"_sd": "x"},
        {"a" * 129: "x"},
        {"org": {"nested": 1}},
        {"org": None},
        {"org": [["x"]]},
        {"org": ["x"] * 33},
        {"org": 2**60},
        {"org": float("inf")},
        {"org": "x" * 5000},
        {f"org_{number}": 1 for number in range(17)},
    ],
)
def test_a_claim_that_breaks_a_rule_is_refused(wanted: dict[str, Any]) -> None:
    with pytest.raises(VestibuleError, match="VST1350"):
        ClaimRules().check(wanted)


def test_the_server_allows_names_by_pattern() -> None:
    rules = ClaimRules(allowed=("org_*", "tier"))
    rules.check({"org_team": ["a", 1, True], "tier": 2.5})
    with pytest.raises(VestibuleError, match="does not allow"):
        rules.check({"team": "a"})


@pytest.mark.parametrize("text", ["[]", "{", '{"a":1,"a":2}', "x" * 20000, '{"a":NaN}'])
def test_claims_that_are_no_plain_object_are_refused(text: str) -> None:
    with pytest.raises(VestibuleError, match="VST1350"):
        ClaimRules().check(read_claims(text))


@pytest.mark.parametrize(
    "labels",
    [
        {"": "x"},
        {"a b": "x"},
        {"a" * 129: ""},
        {"a": "x" * 257},
        {"a": "\n"},
        {f"l{n}": "" for n in range(33)},
    ],
)
def test_labels_have_limits(labels: dict[str, str]) -> None:
    with pytest.raises(VestibuleError, match="VST1354"):
        RULES.check(entry("/web", AGENT, labels=tuple(labels.items())))


@pytest.mark.parametrize(
    "fields",
    [
        {"admin": True},
        {"downstream": True},
        {"store_svid": True},
        {"path_template": "/user/alice"},
        {"max_identities": 20_000},
        {"max_identities": -1},
    ],
)
def test_a_template_has_no_rights_over_the_server_and_has_limits(fields: dict[str, Any]) -> None:
    wanted = {"path_template": "/user/{unix:user}"} | fields
    with pytest.raises(VestibuleError, match="VST1351"):
        RULES.check(entry("/user", AGENT, **wanted))


def test_variables_need_a_template_and_a_node_alias_has_none() -> None:
    for wrong in (
        entry("/web", AGENT, jwt_claims=claims(org="{unix:user}")),
        entry("/web", AGENT, dns_templates=("{unix:user}.x",)),
        entry("/user", SERVER, path_template="/user/{unix:user}"),
    ):
        with pytest.raises(VestibuleError, match="VST1351"):
            RULES.check(wrong)


def test_what_is_derived_needs_the_values_it_was_made_of_and_has_no_more_rights(world: World) -> None:
    made = derived(
        template(
            jwt_claims=claims(org_user="{unix:user}", tier=1),
            dns_templates=("{unix:user}.users.example.org",),
            x509_svid_ttl=timedelta(minutes=5),
            hint="h",
        ),
        AGENT,
        ALICE,
        world.clock.now(),
    )
    assert made.spiffe_id == spiffe("/user/alice")
    assert made.parent_id == AGENT
    assert {str(each) for each in made.selectors} == {"unix:uid:1000", "unix:user:alice"}
    assert made.claims == {"org_user": "alice", "tier": 1}
    assert made.dns_names == ("alice.users.example.org",)
    assert (made.x509_svid_ttl, made.hint, made.template_id) == (timedelta(minutes=5), "h", "t")
    assert (made.is_template, made.admin, made.downstream) == (False, False, False)
    assert made.expires_at == world.clock.now() + timedelta(hours=24)


def test_a_workload_without_the_templates_selectors_gets_nothing(world: World) -> None:
    with pytest.raises(VestibuleError, match="VST1405"):
        derived(template(), AGENT, ALICE - {Selector("unix", "uid:1000")}, world.clock.now())


def test_a_changed_template_changes_what_was_derived_or_ends_it(world: World) -> None:
    now = world.clock.now()
    kept = Entry(
        **{**_fields(derived(template(), AGENT, ALICE, now)), "id": "d", "created_at": now, "revision": 3}
    )
    longer = rederived(kept, template(x509_svid_ttl=timedelta(hours=2)))
    assert longer is not None
    assert (longer.id, longer.x509_svid_ttl, longer.expires_at) == ("d", timedelta(hours=2), kept.expires_at)
    assert rederived(kept, template("/people/{unix:user}")) is None


def test_derived_entries_count_only_with_their_template_and_lead_nowhere(world: World) -> None:
    now = world.clock.now()
    pattern = template()
    made = Entry(**{**_fields(derived(pattern, AGENT, ALICE, now)), "id": "d"})
    below = entry("/secret", "/user/alice", id="below")
    assert {each.id for each in authorized_entries(AGENT, [pattern, made, below], now)} == {"t", "d"}
    assert authorized_entries(AGENT, [made, below], now) == ()


def test_a_derived_identity_yields_to_an_entry_that_gives_it_to_others_by_name(world: World) -> None:
    now = world.clock.now()
    pattern = template()
    made = Entry(**{**_fields(derived(pattern, AGENT, ALICE, now)), "id": "d"})
    elsewhere = entry("/user/alice", "/spire/agent/x/other", id="e")
    own = entry("/user/alice", AGENT, "unix:gid:7", id="o")
    assert {each.id for each in authorized_entries(AGENT, [pattern, made, elsewhere], now)} == {"t"}
    assert {each.id for each in authorized_entries(AGENT, [pattern, made, own], now)} == {"t", "d", "o"}


async def test_what_was_derived_goes_with_its_template(world: World) -> None:
    [kept] = await world.create(entry("/user", AGENT, "unix:uid:1000", path_template="/user/{unix:user}"))
    made = derived(kept, AGENT, ALICE, world.clock.now())
    await world.store.entries.create(made)
    await world.entitlements.refresh()
    assert [each.spiffe_id.path for each in world.entitlements.entries_for(AGENT)] == ["/user/alice"]
    [refused] = await world.registration.update("test", [((await _only(world)).id, {"hint": "x"})])
    assert isinstance(refused, VestibuleError)
    await world.registration.update("test", [(kept.id, {"hint": "changed"})])
    assert (await _only(world)).hint == "changed"
    await world.registration.delete("test", [kept.id])
    assert await world.store.entries.all() == []
    assert [event.action for event in world.audit.events].count("entry.delete") == 2


async def _only(world: World) -> Entry:
    [made] = [each for each in await world.store.entries.all() if each.template_id]
    return made


def _fields(entry: Entry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in Entry.__dataclass_fields__}
