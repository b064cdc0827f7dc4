"""Rules for secrets: as their files say, or refused where they stand."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.unit.intent.reading import CALLER, accepted, errors, found, only

from vestibule.intent import Intent, Loaded, expired, load_files
from vestibule.intent.differences import difference
from vestibule.intent.lints import hints, weaknesses
from vestibule.intent.secret_paths import SecretPath
from vestibule.policy import Mode

NOW = datetime(2026, 6, 1, tzinfo=UTC)
MESH = """\
mesh: shop
trust_domain: example.org
environment: prod
roles: {dba: [orders, {who: web, until: 2026-01-01T00:00:00Z}]}
"""
GROUP = """\
secrets: payments
owner: team-payments
allow:
  - {id: own, from: [payments], may: [read, list], paths: [secret/payments/**, database/creds/payments]}
deny:
  - {id: no-web, from: [web], paths: [secret/**]}
"""
RULE = "secrets: payments\nallow:\n  - {{id: a, from: [payments], may: [{}], paths: [{}]}}\n"


def read(group: str = GROUP, mesh: str = MESH, **more: str) -> Loaded:
    files = {f"services/{name}.yaml": CALLER.format(name) for name in ("payments", "orders", "web")}
    files |= {"mesh.yaml": mesh, "secrets/payments.yaml": group, **more}
    return load_files({name: text.encode() for name, text in files.items()})


def intent(group: str = GROUP, **more: str) -> Intent:
    return accepted(read(group, mesh=MESH.replace("roles: {dba", "roles: {dba"), **more))


def rule(text: str) -> str:
    return f"secrets: payments\nallow:\n  - {{{text}}}\n"


def refused(group: str) -> tuple[str, str, str]:
    return only(read(group))


def test_a_group_says_who_may_do_what() -> None:
    group = intent().secrets["payments"]
    (own,), (no_web,) = group.allow, group.deny
    assert (own.name, set(own.methods), [*map(str, own.paths)]) == (
        "payments/own",
        {"read", "list"},
        ["secret/payments/**", "database/creds/payments"],
    )
    assert [str(each) for each in own.callers] == ["spiffe://example.org/ns/prod/sa/payments"]
    assert (no_web.methods, str(own.where)) == (frozenset(), "secrets/payments.yaml:4:5")
    assert group.owner == "team-payments"


def test_a_group_may_have_the_name_of_a_service_but_not_of_another_file() -> None:
    assert "payments" in intent().services
    assert refused(GROUP.replace("secrets: payments", "secrets: paiments"))[0].endswith("VST0004")


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("secrt/a", "Did you mean 'secret'?"),
        ("kv/a", "Begin the path with secret/, database/ or transit/."),
        ("sys/policies", "Rules speak of secret/, database/ or transit/."),
        ("'{mount}/a'", "Begin it with secret/, database/ or transit/."),
        ("'*/a'", "Begin it with secret/, database/ or transit/."),
        ("/secret/a", "Write secret/a."),
        ("secret/a/", "Write secret/a/**."),
    ],
)
def test_a_path_outside_the_mounts_is_refused_with_what_was_meant(path: str, advice: str) -> None:
    where, _, said = refused(RULE.format("read", path))
    assert (where.split()[1], said) == ("VST0080", advice)


@pytest.mark.parametrize(
    "path", ["secret/a*", "secret/**/a", "secret/../sys", "secret//a", "'secret/a%2f'", "'secret/{a'"]
)
def test_a_pattern_is_anchored_at_both_ends(path: str) -> None:
    assert refused(RULE.format("read", path))[0].split()[1] == "VST0080"


def test_a_star_is_one_segment() -> None:
    star = SecretPath.parse("secret/*/db")
    assert star.covers(SecretPath.parse("secret/{team}/db"))
    assert star.matches("/secret/a/db")
    assert not star.matches("/secret/a/b/db")
    assert not SecretPath.parse("secret/a/**").matches("/secret/ab")


def test_an_unknown_verb_is_refused_with_the_nearest() -> None:
    assert refused(RULE.format("raed", "secret/a"))[2] == "Did you mean 'read'?"


def test_only_keys_are_used() -> None:
    assert refused(RULE.format("use", "secret/a"))[0].split()[1] == "VST0054"
    accepted(read(RULE.format("use", "transit/encrypt/cards"), mesh=MESH.replace("roles", "roles")))


def test_anyone_needs_a_reason_and_an_end() -> None:
    anyone = "id: a, from: anyone, may: [read], paths: [secret/a]"
    assert refused(rule(anyone))[0].split()[1] == "VST0070"
    accepted(read(rule(f"{anyone}, reason: why, expires: 2099-01-01T00:00:00Z")))


def test_a_path_or_rule_that_changes_nothing_is_refused() -> None:
    assert refused(RULE.format("read", "secret/a, secret/**"))[0].split()[1] == "VST0052"
    two = GROUP.replace(
        "deny:", "  - {id: b, from: [payments], may: [read], paths: [secret/payments/db]}\ndeny:"
    )
    assert refused(two)[1] == "the rule payments/b changes nothing: payments/own allows all of it"


def test_ids_are_taken_once() -> None:
    assert refused(GROUP.replace("no-web", "own"))[0].split()[1] == "VST0026"


def test_conditions_know_the_caller_the_environment_and_the_time() -> None:
    text = "id: a, from: [payments], may: [read], paths: [secret/a], when: '{}'"
    condition = 'caller.labels["a"] == "b" && environment == "prod" && request.time > timestamp("2026-01-01T00:00:00Z")'
    accepted(read(rule(text.format(condition))))
    for unknown in (
        'request.path == "/a"',
        'request.method == "GET"',
        'service.name == "a"',
        'request.host == "a"',
    ):
        assert refused(rule(text.format(unknown)))[0].split()[1] == "VST4041"


def test_roles_modes_and_ends_are_those_of_other_rules() -> None:
    text = "id: a, from: ['role:dba'], may: [read], paths: [secret/a], mode: shadow, expires: 2026-02-01T00:00:00Z"
    loaded = intent(rule(text))
    (one,) = loaded.secrets["payments"].allow
    assert one.mode is Mode.SHADOW
    assert [each.until for each in one.callers] == [None, datetime(2026, 1, 1, tzinfo=UTC)]
    assert [each.message for each in expired(loaded, NOW)][-1].startswith("the rule payments/a ended")
    assert loaded.mesh.unused_roles == frozenset()


def test_an_environment_may_have_a_group_of_its_own() -> None:
    own = GROUP.replace("id: own", "id: other")
    files = {f"services/{name}.yaml": CALLER.format(name) for name in ("payments", "web")}
    files |= {"environments/prod/mesh.yaml": "mesh: shop\ntrust_domain: example.org\nenvironment: prod\n"}
    files |= {"secrets/payments.yaml": GROUP, "environments/prod/secrets/payments.yaml": own}
    loaded = accepted(load_files({name: text.encode() for name, text in files.items()}))
    assert [each.name for each in loaded.secrets["payments"].allow] == ["payments/other"]


def test_what_is_probably_not_meant_is_told() -> None:
    def told(text: str) -> list[str]:
        return [each.code.code for each in (*weaknesses(intent(text), NOW), *hints(intent(text)))]

    text = "id: a, from: {}, may: {}, paths: [{}]"
    assert told(rule(text.format("[payments]", "[read]", "secret/a/**"))) == ["VST0074"]
    assert "VST0081" in told(rule(text.format("[payments]", "[read, write]", "secret/**")))
    assert "VST0081" in told(rule(text.format("['spiffe://example.org/ns/**']", "[read]", "secret/a")))
    denied = "deny: [{id: d, from: [payments], paths: [secret/**]}]\n"
    assert "VST0071" in told(rule(text.format("[payments]", "[read]", "secret/a")) + denied)
    assert "VST0076" in told(rule(text.format("[orders]", "[read]", "secret/a")) + denied)


def test_a_name_that_a_mount_has_not_is_a_warning() -> None:
    loaded = read(RULE.format("read", "database/cred/a"))
    assert found(loaded) == ["secrets/payments.yaml:3:52 VST0082"]
    assert loaded.problems[0].advice == "Did you mean database/creds?"
    assert errors(loaded) == []


def test_a_plan_says_who_gains_and_who_loses_which_secret() -> None:
    before = intent()
    after = intent(
        GROUP.replace("from: [payments]", "from: [payments, orders]").replace("[web]", "[web, payments]")
    )
    assert [str(each) for each in difference(before, after).access] == [
        "orders gains read, list on secret/payments/**",
        "orders gains read, list on database/creds/payments",
        "payments loses read, list on secret/payments/**",
    ]
    (group,) = difference(None, before).access[0].rules
    assert group == "payments/own"
    assert difference(before, before).is_empty


def test_a_rule_in_shadow_mode_gives_nothing_and_is_told_as_a_setting() -> None:
    shadow = GROUP.replace(
        "deny:", "  - {id: s, from: [orders], may: [read], paths: [secret/b], mode: shadow}\ndeny:"
    )
    found = difference(intent(), intent(shadow))
    assert found.access == ()
    (told,) = found.settings
    assert (told.subject, told.item) == ("secrets payments", "shadow rule s")
    assert ("may", "read") in [(each.key, each.new) for each in told.details]
