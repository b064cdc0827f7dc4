"""Who may do what with which secret: denials beat permissions, default deny, ends by the clock, the intent in force."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from vestibule.errors import Where
from vestibule.intent import Intent, load_files
from vestibule.policy import NOT_NORMAL
from vestibule.secrets.access import IntentAccess
from vestibule.secrets.ports import AccessDecision, Verb
from vestibule.spiffe import SpiffeId
from vestibule.testing.clock import FakeClock

START = datetime(2026, 1, 1, tzinfo=UTC)
SOON = START + timedelta(hours=1)
MESH: dict[str, Any] = {
    "mesh": "shop",
    "trust_domain": "example.org",
    "environment": "prod",
    "roles": {"dba": ["orders", {"who": "web", "until": "2026-01-01T01:00:00Z"}]},
}
SERVICES = ("payments", "orders", "web")
Group = Mapping[str, Any]


def identity(service: str) -> SpiffeId:
    return SpiffeId.parse(f"spiffe://example.org/ns/prod/sa/{service}")


def intent(*groups: Group, mesh: Mapping[str, Any] = MESH) -> Intent:
    files = {f"secrets/{each['secrets']}.yaml": each for each in groups}
    files |= {f"services/{name}.yaml": {"service": name} for name in SERVICES}
    loaded = load_files(
        {name: json.dumps(text).encode() for name, text in {**files, "mesh.yaml": mesh}.items()}
    )
    assert loaded.intent is not None, [str(each.error) for each in loaded.problems]
    return loaded.intent


def rule(number: int = 0, **keys: Any) -> dict[str, Any]:
    plain = {"id": f"r{number}", "from": ["payments"], "may": ["read"], "paths": ["secret/payments/**"]}
    return plain | {name.rstrip("_"): value for name, value in keys.items()}


def group(*allow: Any, deny: Any = (), name: str = "payments") -> Group:
    denials = [{key: value for key, value in each.items() if value is not None} for each in deny]
    return {"secrets": name, "allow": list(allow), "deny": denials}


def access(*groups: Group, clock: FakeClock | None = None) -> IntentAccess:
    found = intent(*groups)
    return IntentAccess(lambda: found, clock or FakeClock())


def decided(of: IntentAccess, caller: str, verb: Verb, path: str) -> AccessDecision:
    return of.decide(identity(caller), verb, path)


def test_what_no_rule_allows_is_denied() -> None:
    rules = access(group(rule()))
    assert decided(rules, "payments", Verb.READ, "secret/payments/db").allowed
    for caller, verb, path in [
        ("payments", Verb.WRITE, "secret/payments/db"),
        ("payments", Verb.READ, "secret/payment"),
        ("payments", Verb.READ, "secret/paymentsx"),
        ("orders", Verb.READ, "secret/payments/db"),
    ]:
        found = decided(rules, caller, verb, path)
        assert (found.allowed, found.rule, found.where) == (False, None, None)


def test_an_answer_names_rule_place_and_commit() -> None:
    rules = access(group(rule()))
    found = decided(rules, "payments", Verb.READ, "secret/payments/db")
    assert found.rule == "payments/r0"
    assert found.where is not None
    assert (found.where.file, found.commit) == ("secrets/payments.yaml", intent(group(rule())).version)
    assert decided(rules, "web", Verb.READ, "secret/a").commit == found.commit


def test_a_denial_of_one_group_beats_what_another_one_allows() -> None:
    rules = access(
        group(rule()), group(deny=[rule(may=None, from_=["payments"], paths=["secret/**"])], name="security")
    )
    found = decided(rules, "payments", Verb.READ, "secret/payments/db")
    assert (found.allowed, found.rule) == (False, "security/r0")


def test_a_denial_of_some_verbs_leaves_the_others() -> None:
    rules = access(group(rule(may=["read", "write"]), deny=[rule(1, may=["write"], paths=["secret/**"])]))
    assert decided(rules, "payments", Verb.READ, "secret/payments/db").allowed
    assert decided(rules, "payments", Verb.WRITE, "secret/payments/db").rule == "payments/r1"


def test_a_rule_ends_by_the_clock_and_is_back_when_the_clock_is_set_back() -> None:
    clock = FakeClock()
    rules = access(group(rule(expires="2026-01-01T01:00:00Z")), clock=clock)
    assert decided(rules, "payments", Verb.READ, "secret/payments/db").allowed
    clock._now = SOON
    assert not decided(rules, "payments", Verb.READ, "secret/payments/db").allowed
    clock._now = START
    assert decided(rules, "payments", Verb.READ, "secret/payments/db").allowed


def test_a_membership_ends_by_the_clock() -> None:
    clock = FakeClock()
    rules = access(group(rule(from_=["role:dba"])), clock=clock)
    assert decided(rules, "web", Verb.READ, "secret/payments/db").allowed
    clock._now = SOON
    assert not decided(rules, "web", Verb.READ, "secret/payments/db").allowed
    assert decided(rules, "orders", Verb.READ, "secret/payments/db").allowed


def test_what_a_rule_in_shadow_mode_would_do_is_told_where_it_differs() -> None:
    rules = access(
        group(
            rule(),
            rule(1, from_=["orders"], mode="shadow"),
            deny=[rule(2, may=None, paths=["secret/payments/old"], mode="shadow")],
        )
    )
    assert decided(rules, "payments", Verb.READ, "secret/payments/db").shadow is None
    on_trial = decided(rules, "orders", Verb.READ, "secret/payments/db")
    assert (on_trial.allowed, on_trial.shadow) == (False, True)
    old = decided(rules, "payments", Verb.READ, "secret/payments/old")
    assert (old.allowed, old.rule, old.shadow) == (True, "payments/r0", False)


def test_a_condition_sees_caller_environment_and_time() -> None:
    clock = FakeClock()
    when = 'request.time < timestamp("2026-01-01T01:00:00Z") && environment == "prod"'
    rules = access(group(rule(when=when)), clock=clock)
    assert decided(rules, "payments", Verb.READ, "secret/payments/db").allowed
    clock._now = SOON
    assert not decided(rules, "payments", Verb.READ, "secret/payments/db").allowed


def test_the_next_question_is_decided_by_the_new_intent() -> None:
    current: list[Intent | None] = [None]
    rules = IntentAccess(lambda: current[0], FakeClock())
    assert decided(rules, "payments", Verb.READ, "secret/payments/db") == AccessDecision(allowed=False)
    current[0] = intent(group(rule()))
    assert decided(rules, "payments", Verb.READ, "secret/payments/db").allowed
    current[0] = intent(group(rule(from_=["orders"])))
    assert not decided(rules, "payments", Verb.READ, "secret/payments/db").allowed


def test_a_commit_that_says_nothing_new_of_secrets_is_named_all_the_same() -> None:
    first, second = intent(group(rule())), intent(group(rule(reason="why")))
    current = [first]
    rules = IntentAccess(lambda: current[0], FakeClock())
    assert decided(rules, "payments", Verb.READ, "secret/payments/db").commit == first.version
    current[0] = second
    assert decided(rules, "payments", Verb.READ, "secret/payments/db").commit == second.version


def test_the_last_intent_holds_while_there_is_none() -> None:
    current: list[Intent | None] = [intent(group(rule()))]
    rules = IntentAccess(lambda: current[0], FakeClock())
    assert decided(rules, "payments", Verb.READ, "secret/payments/db").allowed
    current[0] = None
    assert decided(rules, "payments", Verb.READ, "secret/payments/db").allowed
    assert rules.intent is not None


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "secret/../sys", "secret//payments", "secret/./a", "secret/a;b", "secret/%2e%2e/a"),
        *("secret/a\\b", "secret/\u0440ayments", "secret/a\0b", "/secret/payments/db", "secret/payments/a b"),
    ],
)
def test_a_path_that_is_not_normal_is_denied_whatever_is_allowed(path: str) -> None:
    rules = access(group(rule(paths=["secret/**"]), rule(1, paths=["database/**"])))
    found = decided(rules, "payments", Verb.READ, path)
    assert (found.allowed, found.rule) in {(False, NOT_NORMAL), (False, None)}


# ------------------------------------------------------------------------------ against a plain reading


SEGMENTS = ("a", "b", "ab", "a.b", "A")
VERBS = ("read", "write", "list", "rotate")
CALLERS = (*SERVICES, "other", "web/sub")


class Naive:
    """The documents read plainly, rule by rule, with nothing shared with the engine."""

    def __init__(self, groups: list[Group], now: datetime) -> None:
        self.groups = sorted(groups, key=lambda each: str(each["secrets"]))
        self.now = now

    def answer(self, caller: str, verb: str, path: str, *, shadow: bool = False) -> tuple[bool, str | None]:
        for name, each in self._rules("deny"):
            if self._matches(each, caller, verb, path, shadow):
                return False, name
        for name, each in self._rules("allow"):
            if self._matches(each, caller, verb, path, shadow):
                return True, name
        return False, None

    def _rules(self, kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for each in self.groups:
            for one in each[kind]:
                yield f"{each['secrets']}/{one['id']}", one

    def _matches(self, one: Mapping[str, Any], caller: str, verb: str, path: str, shadow: bool) -> bool:
        if one.get("mode") == "shadow" and not shadow:
            return False
        if "expires" in one and self.now >= datetime.fromisoformat(one["expires"]):
            return False
        named = one["from"] == "anyone" or any(self._is(each, caller) for each in one["from"])
        return (
            named
            and ("may" not in one or verb in one["may"])
            and any(fits(each.split("/"), path.split("/")) for each in one["paths"])
        )

    def _is(self, named: str, caller: str) -> bool:
        if named == "role:dba":
            return caller == "orders" or (caller == "web" and self.now < SOON)
        if named.startswith("spiffe://"):
            below = named.removesuffix("/**")
            spiffe_id = str(identity(caller))
            return spiffe_id == below or (named != below and spiffe_id.startswith(below + "/"))
        return named == caller


def fits(wanted: list[str], given: list[str]) -> bool:
    if wanted == ["**"]:
        return True
    if not wanted or not given:
        return wanted == given
    if wanted[0] != given[0] and wanted[0] != "*" and not wanted[0].startswith("{"):
        return False
    # /a/** is /a, too.
    return fits(wanted[1:], given[1:]) if len(given) > 1 or wanted[1:] != ["**"] else True


def some_rule(dice: random.Random, number: int, *, allows: bool) -> dict[str, Any]:
    depth = dice.randint(1, 3)
    segments = [dice.choice([*SEGMENTS, "*", "{x}"]) for _ in range(depth)]
    tail = ["**"] if dice.random() < 0.4 else []
    who: Any = dice.sample(
        [*SERVICES, "role:dba", "spiffe://example.org/ns/prod/sa/web/**"], dice.randint(1, 2)
    )
    one = {
        "id": f"{'a' if allows else 'd'}{number}",
        "from": who,
        "paths": ["/".join(["secret", *segments, *tail])],
    }
    if allows or dice.random() < 0.5:
        one["may"] = dice.sample(VERBS, dice.randint(1, 3))
    if dice.random() < 0.2:
        one["mode"] = "shadow"
    if dice.random() < 0.2:
        one["expires"] = dice.choice(["2026-01-01T01:00:00+00:00", "2025-01-01T00:00:00+00:00"])
    if dice.random() < 0.1:
        one |= {"from": "anyone", "reason": "why", "expires": "2027-01-01T00:00:00+00:00"}
    return one


def some_groups(dice: random.Random) -> list[Group]:
    return [
        group(
            *(some_rule(dice, number, allows=True) for number in range(dice.randint(0, 5))),
            deny=[some_rule(dice, number, allows=False) for number in range(dice.randint(0, 2))],
            name=name,
        )
        for name in ("one", "two")[: dice.randint(1, 2)]
    ]


def some_path(dice: random.Random, groups: list[Group]) -> str:
    """Any; or one edit away from what a rule names."""
    named = [path for each in groups for one in (*each["allow"], *each["deny"]) for path in one["paths"]]
    if not named or dice.random() < 0.5:
        return "/".join(["secret", *(dice.choice(SEGMENTS) for _ in range(dice.randint(0, 4)))])
    parts = [
        dice.choice(SEGMENTS) if part in ("*", "{x}", "**") else part
        for part in dice.choice(named).split("/")
    ]
    if dice.random() < 0.3:
        place = dice.randrange(1, len(parts))
        match dice.randrange(4):
            case 0:
                del parts[place]
            case 1:
                parts.insert(place, dice.choice(SEGMENTS))
            case 2:
                parts[place] += "x"
            case _:
                parts[place] = parts[place].swapcase()
    return "/".join(parts)


@pytest.mark.parametrize("seed", range(8))
def test_the_index_says_what_a_plain_reading_of_the_documents_says(seed: int) -> None:
    dice, allowed, tried = random.Random(seed), 0, 0
    while tried < 1000:
        groups = some_groups(dice)
        loaded = load_files(
            {
                "mesh.yaml": json.dumps(MESH).encode(),
                **{f"services/{name}.yaml": json.dumps({"service": name}).encode() for name in SERVICES},
                **{f"secrets/{each['secrets']}.yaml": json.dumps(each).encode() for each in groups},
            }
        )
        if (found := loaded.intent) is None:
            # A rule that changes nothing, or is written twice.
            assert {each.code.code for each in loaded.problems} <= {"VST0052"}
            continue
        clock = FakeClock()
        rules = IntentAccess(lambda found=found: found, clock)  # type: ignore[misc]
        for now in (START, SOON, START):
            clock._now = now
            naive = Naive(groups, now)
            for _ in range(20):
                caller, verb, path = dice.choice(CALLERS), dice.choice(VERBS), some_path(dice, groups)
                expected = naive.answer(caller, verb, path)
                on_trial = naive.answer(caller, verb, path, shadow=True)[0]
                for _again in range(2):
                    told = rules.decide(identity(caller), Verb(verb), path)
                    assert (told.allowed, told.rule) == expected, (groups, caller, verb, path, now)
                    assert told.shadow == (on_trial if on_trial != expected[0] else None)
                tried, allowed = tried + 1, allowed + expected[0]
    assert 20 < allowed < tried - 20


def test_where_is_a_place_of_the_intent() -> None:
    assert isinstance(decided(access(group(rule())), "payments", Verb.READ, "secret/payments/a").where, Where)
